"""Two gloo ranks against one process: the same loss and the same parameter gradients."""

import importlib.util
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def alone():
    spec = importlib.util.spec_from_file_location("two_ranks", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return dict(script.steps(0, 1, script.model(), nullcontext))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(SCRIPT)]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(folder)], stderr=subprocess.PIPE) for rank in range(2)]
    try:
        errors = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("variant", ["local", "square", "local grouped", "square grouped", "accumulated"])
def test_two_ranks_equal_one(alone, together, variant):
    expected = alone[variant]
    mean_loss = (together[0][variant]["loss"] + together[1][variant]["loss"]) / 2
    torch.testing.assert_close(mean_loss, expected["loss"], rtol=1e-12, atol=0)
    for rank in together:
        assert rank[variant].keys() == expected.keys()
        for name in expected.keys() - {"loss"}:
            torch.testing.assert_close(rank[variant][name], expected[name], rtol=1e-9, atol=1e-10, msg=name)


def test_half_precision_exchange_changes_values_by_rounding_only(alone, together):
    mean_loss = (together[0]["half"]["loss"] + together[1]["half"]["loss"]) / 2
    torch.testing.assert_close(mean_loss, alone["half"]["loss"], rtol=1e-5, atol=0)
    torch.testing.assert_close(mean_loss, alone["local"]["loss"], rtol=1e-2, atol=0)


def test_the_papers_exchange_gives_both_ranks_the_same_finite_gradients(together):
    first, second = (rank["paper"] for rank in together)
    for name in first.keys() - {"loss"}:
        assert torch.equal(first[name], second[name]) and first[name].isfinite().all()


def test_rows_are_rounded_only_when_asked(together):
    wire = together[0]["wire"]
    assert wire["exact"].tolist() == [1 + 2**-12] * 2
    assert wire["fp16"].tolist() == [1.0] * 2
