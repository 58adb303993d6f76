"""Shipping pangu: an autoencoder, two generators and a branch that borrows its generator, in half precision."""

import shutil
from pathlib import Path

import diffusion_runs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lt.datagen.shards import LtError
from lt.recipes import ship as module
from lt.recipes import shipped
from lt.recipes.diffusion import autoencoders
from lt.recipes.draw.job import warn
from lt.recipes.draw.options import DrawOptions
from lt.recipes.draw.painters import open_painter
from lt.recipes.draw.prompts import PromptSource
from lt.recipes.pangu.objective import restore
from lt.recipes.pangu.painters import locate_runs
from lt.recipes.registry import UsualRun
from lt.recipes.ship import ship
from lt.recipes.training import checkpoints

RUNS = ("vae-tiny", "pangu-tiny", "pangu-tiny-texture", "pangu-tiny-pose")


@pytest.fixture
def recipes(here, tmp_path, monkeypatch) -> Path:
    """A folder of recipes in which the runs of `here` are shipped."""
    monkeypatch.setattr(shipped, "weights_folder", lambda system: tmp_path / system / "weights")
    monkeypatch.setattr(module, "shipping", lambda: {name: UsualRun(*name.split("-", 1)) for name in RUNS})
    for name in RUNS:
        ship(Path("runs") / name, shipped.weights_folder("pangu") / name)
    return tmp_path


def test_shipped_weights_are_the_trained_ones_rounded(recipes):
    for name in RUNS[1:]:
        trained, kept = (checkpoints.weights_of(restore(Path(where + name))) for where in ("runs/", "lt:"))
        assert trained.keys() == kept.keys()
        for key, tensor in trained.items():
            torch.testing.assert_close(kept[key], tensor, rtol=2**-10, atol=1e-6)


def test_a_branch_leaves_its_generator_to_the_run_that_holds_it(recipes):
    names = load_file(shipped.located("lt:pangu-tiny-pose") / "model.safetensors")
    assert {name.split(".")[0] for name in names} == {"branch"}
    shutil.rmtree(shipped.weights_folder("pangu") / "pangu-tiny")
    with pytest.raises(LtError, match="No weights named lt:pangu-tiny come with lt"):
        restore(Path("lt:pangu-tiny-pose"))


def test_a_shipped_branch_can_be_trained_further(recipes, tmp_path):
    began = ("train.init=lt:pangu-tiny-pose", "model.base=lt:pangu-tiny", "model.autoencoder=lt:vae-tiny")
    run = tmp_path / "further"
    assert (
        diffusion_runs.run("pangu", "tiny-pose", *began, "train.lr=1e-12", "train.weight_decay=0", out=run).status
        == "done"
    )
    further, shipped_ones = (checkpoints.weights_of(restore(Path(where))) for where in (run, "lt:pangu-tiny-pose"))
    for name, tensor in shipped_ones.items():
        torch.testing.assert_close(further[name], tensor, rtol=0, atol=1e-6)


def test_shipped_models_draw_together_and_use_the_shipped_autoencoder(recipes):
    painter = open_painter(locate_runs([f"lt:{name}" for name in RUNS[1:]]))
    assert painter.name.startswith("the miniature that comes with lt") and painter.controls == ("pose",)
    assert painter.space is autoencoders.load(autoencoders.locate("lt:vae-tiny"))
    mine = open_painter(locate_runs([f"runs/{name}" for name in RUNS[1:]]))
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((1, painter.channels, 16, 16), dtype=np.float32))
    both = []
    for one in (painter, mine):
        condition, _ = one.conditions(
            ["a person in red"], (64, 64), {"pose": torch.rand(1, 3, 64, 64, generator=_seed())}
        )
        with torch.no_grad():
            both.append(one.model(z, torch.tensor(900), condition))
    torch.testing.assert_close(*both, rtol=0.02, atol=0.01)


def _seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_words_that_the_model_does_not_know_are_named():
    painter, told = open_painter(locate_runs(["lt:pangu-tiny", "lt:pangu-tiny-texture"])), []
    prompt = "a Turquoise child, waving xyzzy, turquoise"
    assert painter.unknown([prompt]) == (3 / 8, ["turquoise", "xyzzy"])
    assert painter.unknown(["a child in a red shirt, waving", "一个穿着红色T恤的孩子"]) == (0, [])
    warn(PromptSource("pangu", (prompt, prompt, "a child"), 3, 0, (64, 64)), DrawOptions(), painter, told.append)
    assert told == [f"  38% of the words of {prompt[:40]!r} are unknown to this model: turquoise, xyzzy"]
    many = tuple(f"a child {number}th" for number in range(20))
    told.clear()
    warn(PromptSource("pangu", many, 20, 0, (64, 64)), DrawOptions(), painter, told.append)
    assert len(told) == 9 and told[-1] == "  so are words of 12 more prompts"
