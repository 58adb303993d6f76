"""`lt train vae` through the real command: it learns, draws, knows its scale, and becomes a diffusers folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lt.datagen.shards import LtError, open_shards
from lt.models.nn.autoencoder import AutoencoderSpace
from lt.recipes.pictures import fitted, sheet, to_bytes, to_signed
from lt.recipes.training import checkpoints
from lt.recipes.training.logging import read_log
from lt.recipes.vae.objective import VaeObjective, VaeSettings, psnr

LT = Path(sys.executable).with_name("lt")
SMALL = ("world.figures=48", "world.scenes=16", "world.test=8", "model.widths=[8,16,16]", "data.workers=0")
SHORT = ("train.steps=12", "train.batch=8", "train.warmup=2", "log.every=4", "log.validate_every=6", "log.save_every=6")


def lt_train(system: str, folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [LT, "train", system, *(word for setting in settings for word in ("--set", setting))]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder in which `lt train vae` was called without data."""
    folder = tmp_path_factory.mktemp("vae")
    ended = lt_train("vae", folder, *SMALL, *SHORT)
    assert ended.returncode == 0, ended.stderr
    assert "the built-in world" in ended.stderr.splitlines()[0]
    return folder / "runs" / "vae-tiny"


def test_it_learns_and_draws(run):
    first, last = read_log(run, "validation")
    assert last["psnr"] > first["psnr"] + 0.3 and last["psnr"] > psnr_of_grey(run.parents[1] / "data"), (
        "better than no picture"
    )
    drawn = np.asarray(Image.open(run / "pictures" / "step-00000012-reconstruction.png"))
    assert drawn.shape == (2 * 64 + 3 * 2, 8 * 64 + 9 * 2, 3)
    assert drawn[2:66].std() > drawn[68:132].std() / 4 > 0, "originals above, something below"


def psnr_of_grey(data: Path) -> float:
    """What the mean colour of all test pictures would reach in place of each of them, in dB."""
    pictures = [s.picture for name in ("figures", "scenes") for s in open_shards(str(data / f"{name}-test-64px-8"))]
    pixels = to_signed(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2))
    return float(psnr(pixels.mean((0, 2, 3), keepdim=True).expand_as(pixels), pixels).mean())


def test_export_opens_with_diffusers_and_its_latents_have_unit_variance(run, tmp_path):
    from diffusers import AutoencoderKL

    checkpoints.export(run, tmp_path / "vae")
    space = AutoencoderSpace(AutoencoderKL.from_pretrained(tmp_path / "vae").eval())
    assert (space.factor, space.channels) == (4, 8)
    objective, record = checkpoints.restore(run)
    assert isinstance(objective, VaeObjective)
    example = objective.example()
    folder = run.parents[1] / "data"
    samples = [s for name in ("figures", "scenes") for s in open_shards(str(folder / f"{name}-test-64px-8"))]
    pixels = to_signed(torch.stack([torch.from_numpy(example(sample, None)["image"]) for sample in samples]))
    with torch.no_grad():
        latents = space.encode(pixels)
        rebuilt = space.decode(latents).clamp(-1, 1)
    assert float(latents.std()) == pytest.approx(1, abs=0.01)
    assert float(psnr(rebuilt, pixels).mean()) == pytest.approx(record.metrics["psnr"], abs=0.01)
    assert json.loads((tmp_path / "vae" / "config.json").read_text())["_class_name"] == "AutoencoderKL"


def test_an_autoencoder_that_was_never_validated_says_so(tmp_path):
    with pytest.raises(LtError, match="scale of the latents"):
        VaeObjective(VaeSettings()).export(tmp_path)


def test_pictures_are_covered_and_cut():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[:, 18:22] = 255
    cut = fitted(wide, 20, 20)
    assert cut.shape == (20, 20, 3) and cut[:, 8:12].mean() > 200 and cut[:, :4].max() < 30
    assert fitted(wide[:, :, 0], 8, 4).shape == (4, 8)
    assert fitted(wide, 40, 10) is wide


def test_bytes_and_floats_are_inverse():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert np.array_equal(to_bytes(to_signed(image)), image.permute(0, 2, 3, 1).numpy())


def test_a_sheet_keeps_every_picture_whole():
    small, large = np.zeros((2, 3, 3), np.uint8), np.full((4, 5, 3), 9, np.uint8)
    drawn = sheet([[small, large], [large]])
    assert drawn.shape == (4 + 4 + 6, 5 + 5 + 6, 3)
    assert (drawn == 9).all(2).sum() == 40 and (drawn == 0).all(2).sum() == 6
    with pytest.raises(ValueError, match="needs pictures"):
        sheet([[]])
