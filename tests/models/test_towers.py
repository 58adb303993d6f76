"""Towers against open_clip and timm with the same weights, and the true sizes of the papers' models."""

from dataclasses import replace

import open_clip
import pytest
import timm
import torch
from open_clip.transformer import VisionTransformer as OpenClipViT
from timm.models.vision_transformer import checkpoint_filter_fn

from lt.models.filip import CLIP, FILIP, Filip
from lt.models.nn.dual import DualConfig, DualEncoder, openai_state, without_ends
from lt.models.nn.timm_tower import SWIN_L, TimmConfig, TimmTower
from lt.models.nn.towers import TEXT, VISION, TextConfig, TextTransformer, VisionConfig, VisionTransformer
from lt.models.wukong import WUKONG, Wukong

torch.set_num_threads(1)
SMALL = VisionConfig(size=48, patch=16, width=64, layers=3, heads=4)


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_vit_is_open_clips(activation):
    torch.manual_seed(0)
    ours = VisionTransformer(replace(SMALL, activation=activation)).eval()
    act = open_clip.transformer.QuickGELU if activation == "quick_gelu" else torch.nn.GELU
    theirs = OpenClipViT(48, 16, 64, 3, 4, 4.0, act_layer=act, output_tokens=True, output_dim=64).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (missing, unexpected) == (["proj"], [])
    torch.nn.init.eye_(theirs.proj)
    pixels = torch.randn(2, 3, 48, 48)
    pooled, patches = ours(pixels)
    their_pooled, their_patches = theirs(pixels)
    torch.testing.assert_close(pooled, their_pooled, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(patches, their_patches, rtol=1e-5, atol=1e-5)


def test_vit_is_timms():
    torch.manual_seed(0)
    ours = VisionTransformer(SMALL).eval()
    shape = {"img_size": 48, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4}
    theirs = timm.create_model("vit_base_patch16_clip_quickgelu_224", num_classes=0, **shape).eval()
    openai = {"visual." + name: value for name, value in ours.state_dict().items()}
    openai["visual.proj"] = torch.eye(64)
    converted = {k: v for k, v in checkpoint_filter_fn(openai, theirs).items() if not k.startswith("head.")}
    theirs.load_state_dict(converted)
    pixels = torch.randn(2, 3, 48, 48)
    pooled, patches = ours(pixels)
    features = theirs.forward_features(pixels)
    torch.testing.assert_close(torch.cat([pooled[:, None], patches], 1), features, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def small_clip():
    """open_clip's CLIP of small size, and our dual encoder with its weights."""
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(image_size=48, patch_size=16, width=64, layers=3, head_width=16)
    text = open_clip.CLIPTextCfg(context_length=12, vocab_size=100, width=32, heads=4, layers=2)
    theirs = open_clip.CLIP(40, vision, text, quick_gelu=True).eval()
    torch.nn.init.normal_(theirs.text_projection, std=0.1)
    config = DualConfig(SMALL, TextConfig(100, 12, 32, 2, 4), dim=40, head="global")
    ours = DualEncoder(config).eval()
    ours.load_state_dict(openai_state(theirs.state_dict()))
    return theirs, ours


def test_dual_encoder_is_open_clips_clip_with_its_weights(small_clip):
    theirs, ours = small_clip
    pixels = torch.randn(3, 3, 48, 48)
    tokens = torch.zeros(3, 12, dtype=torch.long)
    lengths = [12, 5, 2]
    for row, length in enumerate(lengths):
        tokens[row, :length] = torch.randint(1, 90, (length,))
        tokens[row, length - 1] = 99  # open_clip takes the highest number as the end
    encoded = ours(pixels, tokens, torch.arange(12) < torch.tensor(lengths)[:, None])
    their_images, their_texts, their_scale = theirs(pixels, tokens)
    torch.testing.assert_close(encoded.images.tokens[:, 0], their_images, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoded.texts.tokens[:, 0], their_texts, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(encoded.scales[0], their_scale)


def test_what_follows_the_end_of_a_text_changes_nothing():
    torch.manual_seed(0)
    model = Filip(FILIP["tiny"]).eval()
    tokens = torch.randint(4, 500, (2, 32))
    mask = torch.arange(32) < torch.tensor([[7], [32]])
    other = torch.where(mask, tokens, 1)
    texts, same = model.encode_text(tokens, mask), model.encode_text(other, mask)
    assert torch.equal(texts.tokens, same.tokens)
    assert texts.tokens[0, 7:].abs().max() == 0
    torch.testing.assert_close(texts.tokens.norm(dim=-1), mask.float())
    short = model.encode_text(tokens[:1, :7], mask[:1, :7])
    torch.testing.assert_close(short.tokens, texts.tokens[:1, :7], rtol=1e-5, atol=1e-6)


def test_start_and_end_can_be_left_out_of_the_similarity():
    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]).bool()
    assert without_ends(mask).int().tolist() == [[0, 1, 1, 0, 0], [0] * 5, [0, 1, 1, 1, 0], [0] * 5]
    model = Filip(replace(FILIP["tiny"], ends=False))
    assert model.encode_text(torch.zeros(4, 5, dtype=torch.long), mask).mask.sum() == 5


def test_wrong_sizes_are_told():
    with pytest.raises(ValueError, match=r"takes pixels \[b, 3, 48, 48\], not \[1, 3, 64, 64\]"):
        VisionTransformer(SMALL)(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="33 tokens, but this tower has places for 32"):
        TextTransformer(TEXT["tiny"])(torch.zeros(1, 33, dtype=torch.long))
    with pytest.raises(ValueError, match="cannot be cut into patches of 10"):
        VisionConfig(size=64, patch=10)
    with pytest.raises(ValueError, match="belongs to Wukong"):
        Filip(WUKONG["tiny"])


@pytest.mark.parametrize(
    ("name", "patches", "has_class"),
    [
        ("vit_tiny_patch16_224", 196, True),
        ("test_efficientnet", 25, False),
        ("swin_tiny_patch4_window7_224", 49, False),
    ],
)
def test_timm_towers_give_one_vector_and_patches_in_reading_order(name, patches, has_class):
    torch.manual_seed(0)
    tower = TimmTower(TimmConfig(name)).eval()
    size = 160 if "efficientnet" in name else 224
    pixels = torch.randn(1, 3, size, size)
    with torch.no_grad():
        pooled, tokens = tower(pixels)
        features = tower.backbone.forward_features(pixels)
    assert tokens.shape == (1, patches, tower.width) and pooled.shape == (1, tower.width)
    if has_class:
        assert torch.equal(pooled, features[:, 0])
    else:
        torch.testing.assert_close(pooled, tokens.mean(1))
        second = features[0, 0, 1] if features.shape[-1] == tower.width else features[0, :, 0, 1]
        assert torch.equal(tokens[0, 1], second)


def test_checkpointing_changes_memory_and_not_gradients():
    torch.manual_seed(0)
    model = Filip(FILIP["tiny"])
    pixels, tokens, mask = torch.randn(2, 3, 64, 64), torch.randint(4, 500, (2, 32)), torch.ones(2, 32).bool()

    def gradient():
        model.zero_grad()
        encoded = model(pixels, tokens, mask)
        (encoded.images.tokens[:, 0] * encoded.texts.tokens[:, 0]).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = gradient()
    model.set_checkpointing()
    torch.testing.assert_close(gradient(), plain)


def test_sizes_are_the_papers():
    """CLIP's published counts with a 512 / 768 space; FILIP's narrower space takes (w_image + w_text) x 256 (or 512) away."""
    with torch.device("meta"):
        assert count(Filip(CLIP["base"])) == 151_277_313
        assert count(Filip(CLIP["base-16"])) == 149_620_737
        assert count(Filip(CLIP["large"])) == 427_616_513
        assert count(Filip(FILIP["base"])) == 151_277_313 - (768 + 512) * 256
        assert count(Filip(FILIP["base-16"])) == 149_620_737 - (768 + 512) * 256
        assert count(Filip(FILIP["large"])) == 427_616_513 - (1024 + 768) * 512
        assert count(TimmTower(SWIN_L)) == 194_995_476
    assert [VISION[name].patches for name in ("B/32", "B/16", "L/14")] == [49, 196, 256]


def test_paper_models_give_the_papers_shapes():
    """On the meta device: true shapes, no memory."""
    with torch.device("meta"):
        pixels = torch.zeros(2, 3, 224, 224)
        english, chinese = (torch.zeros(2, length, dtype=torch.long) for length in (77, 32))
        for config, n in ((FILIP["base"], 49), (FILIP["base-16"], 196), (FILIP["large"], 256)):
            encoded = Filip(config)(pixels, english, english.bool())
            assert encoded.images.tokens.shape == (2, n, 256) and encoded.texts.tokens.shape == (2, 77, 256)
        for preset, m in (("vit-b", 12), ("vit-l", 24), ("swin-l", 12)):
            encoded = Wukong(WUKONG[preset])(pixels, chinese, chinese.bool())
            assert encoded.images.tokens.shape == (2, m, 256) and encoded.texts.tokens.shape == (2, 32, 256)


def test_parameters_without_decay_are_filips():
    model = Filip(FILIP["tiny"])
    free = set(model.no_decay())
    decayed = {name for name, _ in model.named_parameters()} - free
    assert {"scale.logit_scale", "image_tower.class_embedding", "text_tower.token_embedding.weight"} <= free
    assert {name.split(".")[-2] for name in decayed if "resblocks" in name} == {"attn", "out_proj", "c_fc", "c_proj"}
    assert {"image_projection.weight", "text_projection.weight", "image_tower.conv1.weight"} <= decayed
    assert not any(name.endswith("bias") or "ln_" in name for name in decayed)
