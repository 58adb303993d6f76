"""One folder in which a tiny autoencoder, both generators and a pose branch were trained for a few steps."""

from pathlib import Path

import diffusion_runs
import pytest
from PIL import Image

from lt.datagen.sources.figures import FiguresSource
from lt.models.nn.unet import UNetShape
from lt.recipes.diffusion.settings import UNETS
from lt.recipes.draw import job

SD_SHAPE = UNetShape(16, (32, 32), (1, 0), (2, 2), text_width=32, layers=1, linear_projection=False, groups=8)
"""Of the U-Net of `tiny_sd`."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pangu")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LT_HOME", str(folder / "home"))
        diffusion_runs.run("vae", "tiny", "model.widths=[8,16,16]")
        for preset in ("tiny", "tiny-texture", "tiny-pose"):
            assert diffusion_runs.run("pangu", preset).status == "done"
    return folder


@pytest.fixture
def here(folder, monkeypatch) -> Path:
    """The folder, as the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LT_HOME", str(folder / "home"))
    monkeypatch.setattr(job, "_WORLD_SAMPLES", 16)
    return folder


@pytest.fixture
def sd(here, tiny_sd, tmp_path, monkeypatch) -> Path:
    """A folder with Stable Diffusion's format, whose small U-Net stands for sd15's."""
    monkeypatch.setitem(UNETS, "sd15", SD_SHAPE)
    tiny_sd.save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


@pytest.fixture(scope="session")
def controls(folder) -> dict[str, Path]:
    """A skeleton, an edge map, a skeleton of another aspect, and one of half the size, as files."""
    figure = FiguresSource(1, "test", size=64).sample(0)
    pose = figure["pose.png"]
    made = {"pose": pose, "edge": figure["edge.png"], "wide": pose[16:48], "half": pose[::2, ::2]}
    for name, picture in made.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in made}
