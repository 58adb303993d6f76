"""Two gloo ranks against one process: the same loss and the same parameter gradients."""

import importlib.util
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import naive_token_similarity

SCRIPT = Path(__file__).with_name("two_ranks.py")
SERVER = Path(__file__).with_name("rank_of_two.py")


def loaded(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture(scope="module")
def alone():
    script = loaded(SCRIPT)
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


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function from a case of `rank_of_two.py` to what both ranks answer."""
    folder, pipe = tmp_path_factory.mktemp("meeting"), subprocess.PIPE
    command = [sys.executable, str(SERVER)]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(folder)], stdin=pipe, stdout=pipe) for rank in range(2)]

    def asked(case):
        for rank in ranks:
            rank.stdin.write(json.dumps(case).encode() + b"\n")
            rank.stdin.flush()
        return [json.loads(rank.stdout.readline()) for rank in ranks]

    yield asked
    for rank in ranks:
        rank.communicate(timeout=60)


def naive_loss(images, texts, mask, groups, scales):
    """FILIP equation 3 from all products, in one process."""
    s_i, s_t = naive_token_similarity(images, texts, mask)
    alike = torch.eye(len(images)) if groups is None else (groups[:, None] == groups).double()
    target = (alike / alike.sum(1, keepdim=True)).double()
    return (F.cross_entropy(scales[0] * s_i, target) + F.cross_entropy(scales[1] * s_t.T, target)) / 2


@settings(deadline=None)  # the ranks start with the first case
@given(data=st.data())
def test_two_ranks_equal_the_definition_at_any_shape(ask, data):
    """Loss and gradients of every token and both scales, to 1e-10 in float64; texts may be empty."""
    numbers = {"patches": (1, 9), "length": (1, 6), "width": (1, 8), "seed": (0, 2**31)}
    case = {name: data.draw(st.integers(*ends), name) for name, ends in numbers.items()}
    half = data.draw(st.integers(1, 4), "pairs of a rank")
    words = st.integers(0, case["length"])
    case["lengths"] = data.draw(st.lists(words, min_size=2 * half, max_size=2 * half), "lengths")
    case |= {name: data.draw(st.booleans(), name) for name in ("square", "grouped")}
    case["scales"] = [14.0, 20.0]
    images, texts, mask, groups = loaded(SERVER).tensors(case)
    leaves = [images.requires_grad_(), texts.requires_grad_(), torch.tensor(case["scales"]).double().requires_grad_()]
    loss = naive_loss(*leaves[:2], mask, groups, leaves[2])
    expected = torch.autograd.grad(loss, leaves)
    answers = ask(case)
    assert sum(answer["loss"] for answer in answers) / 2 == pytest.approx(loss.item(), rel=1e-10, abs=1e-12)
    of_images, of_texts, of_scales = zip(*(answer["gradients"] for answer in answers), strict=True)
    for parts, wanted in zip((of_images, of_texts), expected, strict=False):
        found = torch.cat([torch.tensor(part, dtype=torch.float64) for part in parts]) / 2  # averaged over ranks
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(torch.tensor(of_scales, dtype=torch.float64).mean(0), expected[2], rtol=1e-9, atol=1e-10)
