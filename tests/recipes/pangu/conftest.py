"""One folder in which a tiny autoencoder, both generators and a pose branch were trained for a few steps."""

from pathlib import Path

import diffusion_runs
import pytest


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
    return folder
