"""A further system in the diffusion room: what it must say is its own, all else is shared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import diffusion_runs
import numpy as np
import pytest
import torch
from PIL import Image
from test_diffusion_cache import write_autoencoder, write_pictures
from torch import Tensor

from lt.datagen.shards import LtError
from lt.recipes.diffusion import data, objective
from lt.recipes.diffusion.objective import DiffusionObjective, restored
from lt.recipes.diffusion.settings import DenoiserSettings, DiffusionSettings
from lt.recipes.diffusion.worlds import build
from lt.recipes.registry import Recipe
from lt.recipes.training import checkpoints
from lt.recipes.training.loop import train
from lt.recipes.training.objective import Batch, Metrics
from lt.recipes.training.plan import make_plan


class ModelSettings(DenoiserSettings):
    """A whole denoiser with another weighting of the loss."""

    size: int = 32
    """Side of the pictures in pixels."""
    weighting: Literal["none", "p2"] = "p2"
    """`p2`: 1 / (1 + snr), arXiv 2204.00227 with gamma = k = 1."""

    @property
    def side(self) -> int:
        return self.size


class PlainSettings(DiffusionSettings):
    model: ModelSettings = ModelSettings()


class Plain(DiffusionObjective):
    settings: PlainSettings

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        latent, denoiser = batch["latent"], self.denoiser
        t = torch.randint(1000, (len(latent),), device=latent.device)
        losses = denoiser.loss_at(latent, self.dropped(self.condition(batch)), t, denoiser.noise(latent))
        weights = 1 / (1 + denoiser.schedule.snr(t)) if self.settings.model.weighting == "p2" else torch.ones(len(t))
        return (weights * losses).mean(), {"weight": weights.mean()}


def recipe(folder: Path) -> Recipe:
    (folder / "tiny.yaml").write_text("model: {autoencoder: vae}\n")
    return Recipe(
        name="plain",
        settings=PlainSettings,
        objective=Plain,
        world=lambda settings, note: build(settings.world, note),
        folder=folder,
        prepare=data.prepare,
        outline=objective.outline,
    )


# All above is the system


@pytest.fixture
def plain(tmp_path, monkeypatch) -> Recipe:
    """The system, with an autoencoder of random weights and four pictures, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    write_autoencoder(Path("vae"))
    write_pictures(Path("pictures"), (32, 32, 64, 40))
    found = recipe(tmp_path)
    from lt.recipes import registry

    known = registry.find_recipe
    monkeypatch.setattr(registry, "find_recipe", lambda name: found if name == "plain" else known(name))
    return found


def run(plain: Recipe, *overrides: str) -> list[str]:
    """What a run of three steps says."""
    notes: list[str] = []
    own = ("data.train=pictures", "data.validation=pictures", "train.steps=3", "train.batch=4", "log.save_every=2")
    plan = make_plan(plain, None, None, [*diffusion_runs.WORLD, *diffusion_runs.SHORT, *own, *overrides], Path("run"))
    assert train(plan, notes.append).status == "done"
    return notes


def files() -> Sequence[str]:
    return sorted(checkpoints.Record.load(Path("run/checkpoints/step-00000003")).files.items())


def test_a_further_system_trains_through_what_is_shared(plain, tmp_path):
    notes = run(plain)
    assert "  pictures: 4 of 4 pictures at 32 pixels, t from 0 to 999" in notes
    record = checkpoints.Record.load(Path("run/checkpoints/step-00000003"))
    assert record.metrics.keys() == {"loss", "loss_1_of_8", "loss_4_of_8", "loss_8_of_8"}
    shown = np.asarray(Image.open("run/pictures/step-00000003-grid.png"))
    assert shown.shape == (2 * 32 + 6, 4 * 32 + 10, 3), "four true pictures over four drawn ones"
    same = files()
    Path("run/checkpoints/step-00000003").rename("gone")
    assert any("continues from" in note for note in run(plain))
    assert files() == same, "a run goes on as if it had never stopped"
    again = restored(Path("run"), "plain")
    assert isinstance(again, Plain) and again.settings.model.weighting == "p2"
    checkpoints.export(Path("run"), tmp_path / "pipeline")
    assert (tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    write_autoencoder(Path("vae"), seed=1)
    with pytest.raises(LtError, match=r"was trained with another model\.autoencoder than is there now"):
        restored(Path("run"), "plain")
    with pytest.raises(LtError, match=r"is a checkpoint of plain, not of pangu\. Name a run of `lt train pangu`"):
        restored(Path("run"), "pangu")


def test_its_own_weighting_is_what_is_learned(plain):
    values = []
    for weighting in ("p2", "none"):
        torch.manual_seed(0)
        settings = make_plan(plain, None, None, [f"model.weighting={weighting}", "model.drop_text=0"]).settings
        one = Plain(settings)  # pyright: ignore[reportArgumentType]
        latent = torch.ones(1, 4, 8, 8)
        loss, metrics = one.loss({"latent": latent, **one.caption_condition(["a red apple"])})
        values.append((loss.item(), metrics["weight"].item()))
    (weighted, weight), (plainly, unit) = values
    assert 0 < weight < unit == 1 and weighted == pytest.approx(weight * plainly)
