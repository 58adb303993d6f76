"""Weights that were trained with GELU are read with GELU, or refused, or a word is said."""

import json

import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file

from lt.datagen.shards import LtError
from lt.recipes.config import resolve
from lt.recipes.contrastive.pretrained import load_image_tower
from lt.recipes.registry import find_recipe

ACTIVATIONS = ["quick_gelu", "gelu"]


def tower(activation: str):
    recipe = find_recipe("wukong")
    model = recipe.objective(resolve(recipe.settings, None, [f"model.activation={activation}"]).settings).model.eval()
    assert model.config.text.activation == activation
    return model


@pytest.fixture(params=ACTIVATIONS)
def source(request, tmp_path):
    """An open_clip model of the tiny shape, its weights in a file, and its activation."""
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=4, width=96, head_width=32, patch_size=8, image_size=64)
    text = CLIPTextCfg(context_length=16, vocab_size=100, width=32, heads=2, layers=1)
    clip = CLIP(64, vision, text, quick_gelu=request.param == "quick_gelu").eval()
    for name, weights in clip.named_parameters():
        if "mlp" in name and weights.ndim == 2:
            weights.data *= 3  # as in trained ones, so that it matters
    save_file(
        {n: v.contiguous() for n, v in clip.state_dict().items() if n != "attn_mask"}, tmp_path / "clip.safetensors"
    )
    return clip, tmp_path / "clip.safetensors", request.param


def test_an_open_clip_tower_gives_its_own_numbers(source):
    clip, file, activation = source
    pixels, apart = torch.randn(2, 3, 64, 64), {}
    with torch.no_grad():
        theirs = clip.encode_image(pixels)
        for mine in ACTIVATIONS:
            model = tower(mine)
            assert "does not say its activation: read as " + mine in load_image_tower(model, file)
            apart[mine] = float((model.image_tower(pixels)[0] @ clip.visual.proj - theirs).abs().max())
    assert apart.pop(activation) < 1e-5 < 1e-2 < min(apart.values())


def test_a_configuration_beside_the_weights_is_believed(source):
    _, file, activation = source
    other = next(one for one in ACTIVATIONS if one != activation)
    openclip = {"model_cfg": {"embed_dim": 64} | ({"quick_gelu": True} if activation == "quick_gelu" else {})}
    for name, config in {
        "open_clip_config.json": openclip,
        "config.json": {"vision_config": {"hidden_act": activation}},
    }.items():
        place = file.with_name(name)
        place.write_text(json.dumps(config))
        assert load_image_tower(tower(activation), file) == ""
        with pytest.raises(
            LtError, match=f"trained with {activation}, this tower has {other}.*model.activation={activation}"
        ):
            load_image_tower(tower(other), file)
        place.unlink()
    file.with_name("config.json").write_text(json.dumps({"hidden_act": "relu"}))
    with pytest.raises(LtError, match=r"trained with relu.*Known: quick_gelu, gelu"):
        load_image_tower(tower(activation), file)
