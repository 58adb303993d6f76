"""Painters out of several folders: whose autoencoders are the same draw in one latent space."""

import shutil

import numpy as np
import pytest
from diffusion_sampling import drawn, fails, sample
from safetensors.torch import load_file, save_file

from lt.recipes.draw.painters import locate_pipeline, open_painter
from lt.recipes.pangu.together import member

WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folders(tiny_sd, tmp_path, monkeypatch):
    """A pipeline, a copy of it, and one with another autoencoder."""
    monkeypatch.chdir(tmp_path)
    tiny_sd.save_pretrained("sd")
    for name in ("copy", "other"):
        shutil.copytree("sd", name)
    weights = load_file(tmp_path / "other" / WEIGHTS)
    save_file({name: value * 1.01 for name, value in weights.items()}, tmp_path / "other" / WEIGHTS)
    return tmp_path


def test_the_same_autoencoder_in_two_folders_is_one_space(folders):
    lead, copy, other = (open_painter(locate_pipeline(name)) for name in ("sd", "copy", "other"))
    told = {one: one.told(["a red apple"], (32, 32), 3.0) for one in (lead, copy, other)}
    shared, apart = (member(one, told[one], (32, 32), 0.5, lead) for one in (copy, other))
    assert copy.space is not lead.space and shared.space is lead.space and shared.weight == 0.5
    assert apart.space is other.space and callable(apart.weight), "through pixels, and fading"


def test_a_model_with_its_own_copy_draws_as_it_does_alone(folders):
    """Through pixels and back it differs by up to 98 of 255."""
    words = ("--base", "sd", "--prompt", "a red apple", "--steps", "4", "--size", "32x32")
    sample(*words, "--out", "alone")
    sample(*words, "--coop", "copy=0.5", "--out", "both")
    sample(*words, "--coop", "other=0.5", "--out", "apart")
    alone, both, apart = (drawn(folders / name)[0] for name in ("alone", "both", "apart"))
    assert np.abs(both - alone).max() <= 1 < np.abs(apart - alone).max()


def test_guidance_without_bounds_draws_nothing_and_says_so(folders, monkeypatch, capsys):
    words = ("--base", "sd", "--prompt", "a red apple", "--size", "32x32")
    code, said = fails(monkeypatch, capsys, *words, "--guidance", "inf", "--count", "3", "--out", "x{1}")
    assert code == 1 and "rejected: not-finite 3" in said and "Nothing was made" in said and "Traceback" not in said
    code, said = fails(monkeypatch, capsys, *words, "--seed", str(2**64))
    assert code == 2 and "--seed" in said and "Traceback" not in said
