"""What people have as a base: half precision alone, pickled weights, inpainting models, ControlNets without names, hub names."""

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from huggingface_hub import constants

from lt.datagen.shards import LtError
from lt.models.nn.control import control_branch
from lt.recipes.draw.painters import locate_pipeline, open_painter
from lt.recipes.pangu.painters import locate_painter


def opened(folder: Path | str):
    open_painter.cache_clear()
    return open_painter(locate_pipeline(str(folder)))


def test_a_base_in_half_precision_alone_is_read(tiny_sd, tmp_path):
    tiny_sd.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    assert not list((tmp_path / "half" / "unet").glob("*model.safetensors"))
    painter = opened(tmp_path / "half")
    theirs, ours = tiny_sd.unet.float().state_dict(), painter.model.network.unet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_base_of_pickled_weights_is_refused_by_name(tiny_sd, tmp_path):
    tiny_sd.save_pretrained(tmp_path / "sd")
    weights = tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(LtError, match=r"unet holds pickled weights alone \(diffusion_pytorch_model.bin\)"):
        opened(tmp_path / "sd")


def test_an_inpainting_model_is_refused_by_name(tiny_sd, tmp_path):
    unet = diffusers.UNet2DConditionModel.from_config({**tiny_sd.unet.config, "in_channels": 9})
    tiny_sd.unet = unet
    tiny_sd.save_pretrained(tmp_path / "nine")
    with pytest.raises(LtError, match="unet: in_channels = 9 is not understood, 4 is"):
        opened(tmp_path / "nine")


def test_a_broken_base_is_no_traceback(tiny_sd, tmp_path):
    tiny_sd.save_pretrained(tmp_path / "sd")
    (tmp_path / "sd" / "unet" / "config.json").write_text('{"_class_name": "UNet2DConditionModel", "in_channels": 3}')
    with pytest.raises(LtError, match="Cannot open the pipeline"):
        opened(tmp_path / "sd")


def test_controlnets_without_names_get_a_hint(tiny_sd, tmp_path):
    parts = {name: part for name, part in tiny_sd.components.items() if name != "image_encoder"}
    net = control_branch(tiny_sd.unet, factor=2, hint_widths=(8, 16))
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, requires_safety_checker=False)
    pipe.save_pretrained(tmp_path / "net")
    with pytest.raises(LtError, match=r"holds 1 ControlNets, 0 names were given.*--base .*net:pose"):
        opened(tmp_path / "net")
    assert opened(f"{tmp_path / 'net'}:pose").controls == ("pose",)


def test_a_folder_that_is_neither_pipeline_nor_run_is_called_so(tmp_path):
    with pytest.raises(LtError, match=r"neither a diffusers pipeline .*model_index.json.* nor a run"):
        locate_painter(str(tmp_path))


def test_a_base_by_its_name_on_the_hub(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = tmp_path / "hub" / "models--some--sd"
    tiny_sd.save_pretrained(repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    files = locate_painter("some/sd")
    assert files.folders[0].endswith("/snapshots/" + "a" * 40), "the revision is recorded"
    pixels = open_painter(files).space.decode(torch.zeros(1, 4, 4, 4))
    assert np.isfinite(pixels.detach().numpy()).all()
    with pytest.raises(LtError, match="hf download some/none"):
        locate_painter("some/none")
