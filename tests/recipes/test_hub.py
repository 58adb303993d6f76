"""Pretrained models by a name on the hub, out of its cache; weights in halves alone, pickled ones, other folders."""

import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from test_diffusion_cache import write_autoencoder, write_clip

from lt.datagen.shards import LtError
from lt.models.nn.autoencoder import AutoencoderSpace, small_autoencoder
from lt.recipes.diffusion import autoencoders, hub
from lt.recipes.diffusion.texts import load_text_encoders, text_digest

COMMITS = ["a" * 40, "b" * 40]


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The hub's cache with two revisions of `some/vae`, in a folder without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--some--vae"
    for seed, commit in enumerate(COMMITS):
        write_autoencoder(repo / "snapshots" / commit, seed)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMITS[1])
    return repo


def test_a_name_on_the_hub_is_the_cached_folder_of_its_revision(cache):
    assert hub.found("some/vae") == cache / "snapshots" / COMMITS[1]
    assert hub.found(f"some/vae@{COMMITS[0]}") == cache / "snapshots" / COMMITS[0]
    assert hub.found("some/vae/part") == cache / "snapshots" / COMMITS[1] / "part"
    assert [hub.revision_of(hub.found(name)) for name in ("some/vae", f"some/vae@{COMMITS[0]}")] == COMMITS[::-1]
    newest, older = (autoencoders.locate(name) for name in ("some/vae", f"some/vae@{COMMITS[0]}"))
    assert newest.digest != older.digest and COMMITS[1] in newest.folder
    assert hub.is_here("some/vae") and not hub.is_here("some/other")


def test_what_is_not_cached_is_said_with_the_command_that_fetches_it(cache):
    with pytest.raises(LtError, match=r"some/other is no folder here.*hf download some/other; or"):
        hub.found("some/other")
    with pytest.raises(LtError, match="hf download some/vae --revision v2;"):
        hub.found("some/vae@v2")
    with pytest.raises(LtError, match="hf download some/text"):
        text_digest(["some/text"])


def test_paths_are_no_names(cache):
    (cache.parents[1] / "models").mkdir()
    for path in ("runs/none", "data/none", "models/none", "./some/vae", "/some/vae", "none"):
        assert hub.found(path) == Path(path) and not hub.is_here(path)
    (cache.parents[1] / "some" / "vae").mkdir(parents=True)
    assert hub.found("some/vae") == Path("some/vae"), "a folder that is there comes first"


def test_weights_in_half_precision_alone_are_read(tmp_path):
    torch.manual_seed(0)
    vae = small_autoencoder((8, 8, 16)).eval()
    vae.half().save_pretrained(tmp_path / "half", variant="fp16")
    assert hub.weights_of(tmp_path / "half")[0] == "fp16"
    space = autoencoders.load(autoencoders.locate(str(tmp_path / "half")))
    assert space.vae.dtype == torch.float32
    latents = torch.randn(1, 4, 4, 4)
    torch.testing.assert_close(space.decode(latents), AutoencoderSpace(vae.float()).decode(latents))
    write_clip(tmp_path / "clip")
    features = load_text_encoders((str(tmp_path / "clip"),), 8, text_digest([str(tmp_path / "clip")]))[0].read(
        ["a cat"]
    )[0]
    (weights,) = hub.weights_of(tmp_path / "clip")[1]
    weights.rename(weights.with_name("model.fp16.safetensors"))
    same = load_text_encoders((str(tmp_path / "clip"),), 8, text_digest([str(tmp_path / "clip")]))[0].read(["a cat"])[0]
    assert torch.equal(same, features)


def test_pickled_missing_and_other_weights_are_refused_by_name(tmp_path):
    write_autoencoder(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(LtError, match=r"pickled weights alone \(diffusion_pytorch_model.bin\).*save_pretrained"):
        autoencoders.locate(str(tmp_path / "vae"))
    weights.with_suffix(".bin").unlink()
    with pytest.raises(LtError, match="holds no weights"):
        autoencoders.locate(str(tmp_path / "vae"))
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    with pytest.raises(LtError, match="holds a model of the class AutoencoderTiny"):
        autoencoders.locate(str(tmp_path / "vae"))
