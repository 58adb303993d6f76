"""U-Net shapes and cost, attention maps, control branches and latent spaces."""

import pytest
import torch
from diffusers import ControlNetModel
from diffusers.models.embeddings import AttentionPooling
from torch import nn

from lt.models.nn import unet as unets
from lt.models.nn.autoencoder import AutoencoderSpace, autoencoder_loss, small_autoencoder
from lt.models.nn.control import ControlledUNet, control_branch
from lt.models.nn.unet import (
    PANGU,
    TINY,
    TINY_WHOLE,
    UNetShape,
    call_unet,
    multiply_adds,
    record_attention,
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return TINY.build().eval()


@pytest.fixture(scope="module")
def inputs():
    generator = torch.Generator().manual_seed(1)
    z, text = torch.randn(2, 4, 16, 16, generator=generator), torch.randn(2, 7, 64, generator=generator)
    return z, torch.tensor(400), {"text": text}


# --- shapes and cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("SD15", 859_520_964),  # as published: 860 M, 866 M, 2.6 B
        ("SD21", 865_910_724),
        ("SDXL", 2_567_463_684),
        ("PANGU", 2_567_463_684 - (2816 - 1536) * 1280),  # SDXL's, with a shorter vector into one linear layer
        ("TINY", 1_018_316),
        ("TINY_WHOLE", 2_098_556),
    ],
)
def test_parameter_counts_on_the_meta_device(shape, parameters):
    assert parameter_count(getattr(unets, shape)) == parameters


def parameter_count(shape) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in shape.build().parameters())


def test_the_tiny_generators_are_half_of_what_they_replace():
    assert parameter_count(TINY) / parameter_count(TINY_WHOLE) == pytest.approx(0.5, abs=0.03)
    assert multiply_adds(TINY, 16, 16, 16) / multiply_adds(TINY_WHOLE, 16, 16, 16) == pytest.approx(0.5, abs=0.05)


def test_multiply_adds_agree_with_a_count_by_hand():
    """Every convolution, linear layer and attention product counted from its own input and output."""
    unet, total = TINY.build(), 0

    def count(module, arguments, output):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features if output.ndim == 3 else module.weight.numel()

    def count_attention(module, arguments, keywords, output):
        nonlocal total
        context = keywords.get("encoder_hidden_states")
        keys = arguments[0].shape[1] if context is None else context.shape[1]
        total += 2 * arguments[0].shape[1] * keys * module.inner_dim

    def count_pooling(module, arguments, output):
        nonlocal total
        total += 2 * (arguments[0].shape[1] + 1) * output.shape[1]  # one query, which is also a key

    for module in unet.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
        elif isinstance(module, AttentionPooling):
            module.register_forward_hook(count_pooling)
        elif hasattr(module, "get_processor"):
            module.register_forward_hook(count_attention, with_kwargs=True)
    with torch.no_grad():
        call_unet(unet, torch.zeros(1, 4, 16, 16), torch.tensor(1), {"text": torch.zeros(1, 16, 64)})
    assert multiply_adds(TINY, 16, 16, 16) == total


def test_a_sd15_step_costs_what_is_known():
    """0.34 T multiply-adds for convolutions and linear layers at 64x64 latents (the usual figure), plus attention products."""
    counted = multiply_adds(unets.SD15, 64, 64)
    attention = 2 * 320 * 5 * 4096**2 + 2 * 640 * 5 * 1024**2 + 2 * 1280 * 5 * 256**2 + 2 * 1280 * 64**2
    attention += 2 * 77 * (320 * 5 * 4096 + 640 * 5 * 1024 + 1280 * 5 * 256 + 1280 * 64)
    assert (counted - attention) / 1e12 == pytest.approx(0.34, abs=0.005)


def test_a_pangu_shaped_unet_reads_the_index_of_the_size_bucket():
    small = UNetShape(8, (16, 16), (0, 1), (2, 2), text_width=8, pooled_width=6, ids=PANGU.ids, id_width=10, groups=4)
    torch.manual_seed(0)
    unet = small.build().eval()
    assert unet.add_embedding.linear_1.in_features == 16
    z, condition = torch.zeros(2, 4, 8, 8), {"text": torch.zeros(2, 3, 8), "pooled": torch.zeros(2, 6)}
    with torch.no_grad():
        first, second = call_unet(unet, z, torch.tensor(5), condition | {"ids": torch.tensor([[3.0], [4.0]])})
    assert (first - second).abs().max() > 1e-4


def test_wrong_shapes_and_conditions_are_named(tiny, inputs):
    z, t, condition = inputs
    with pytest.raises(ValueError, match="one entry a level"):
        UNetShape(8, (16, 16), (0,), (2, 2), text_width=8).build()
    with pytest.raises(ValueError, match=r"does not know \['hint.pose'\]"):
        call_unet(tiny, z, t, condition | {"hint.pose": z})


# --- attention --------------------------------------------------------------------------------------------------------


def captured_softmax(unet, name, z, t, condition):
    """The map of one layer from the inputs and outputs of its own projections: a plain softmax, nothing of ours."""
    layer, seen = unet.get_submodule(name), {}
    hooks = [
        layer.to_q.register_forward_hook(lambda m, i, o: seen.__setitem__("q", o)),
        layer.to_k.register_forward_hook(lambda m, i, o: seen.__setitem__("k", o)),
    ]
    with torch.no_grad():
        call_unet(unet, z, t, condition)
    for hook in hooks:
        hook.remove()
    q, k = (rows.view(len(rows), rows.shape[1], layer.heads, -1) for rows in (seen["q"], seen["k"]))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / q.shape[-1] ** 0.5
    if "text_mask" in condition and name.endswith("attn2"):
        scores = scores.masked_fill(condition["text_mask"][:, None, None] == 0, float("-inf"))
    return scores.softmax(-1)


@pytest.mark.parametrize("which", ["cross", "self", "all"])
def test_maps_equal_a_plain_softmax_and_leave_outputs_alone(tiny, inputs, which):
    z, t, condition = inputs
    with torch.no_grad():
        before = call_unet(tiny, z, t, condition)
        with record_attention(tiny, which) as maps:
            during = call_unet(tiny, z, t, condition)
        after = call_unet(tiny, z, t, condition)
    assert torch.equal(before, during) and torch.equal(before, after)
    assert len(maps) == {"cross": 4, "self": 4, "all": 8}[which]
    for name, probabilities in maps.items():
        torch.testing.assert_close(probabilities, captured_softmax(tiny, name, z, t, condition), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))


def test_masked_words_get_no_attention(tiny, inputs):
    z, t, condition = inputs
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]])
    masked = condition | {"text_mask": mask}
    with torch.no_grad(), record_attention(tiny) as maps:
        call_unet(tiny, z, t, masked)
    for name, probabilities in maps.items():
        assert probabilities[0, ..., 3:].max() == 0
        torch.testing.assert_close(probabilities, captured_softmax(tiny, name, z, t, masked), rtol=1e-5, atol=1e-6)


def test_layers_are_chosen_by_name_and_gradients_flow_through_maps(tiny, inputs):
    z, t, condition = inputs
    text = condition["text"].clone().requires_grad_()
    with record_attention(tiny, keep=lambda name: name.startswith("mid_block")) as maps:
        call_unet(tiny, z, t, {"text": text})
    assert list(maps) == ["mid_block.attentions.0.transformer_blocks.0.attn2"]
    maps["mid_block.attentions.0.transformer_blocks.0.attn2"][..., 0].sum().backward()
    assert text.grad is not None and text.grad.abs().sum() > 0
    with (
        pytest.raises(ValueError, match=r"no attention layer to read; layers: \['down_blocks.1"),
        record_attention(tiny, keep=lambda name: False),
    ):
        pass


def test_nothing_is_left_behind_even_after_an_error(tiny):
    before = dict(tiny.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), record_attention(tiny):
        assert tiny.attn_processors != before
        raise RuntimeError("stop")
    assert tiny.attn_processors == before, "the very same processors: the normal path pays nothing"


# --- control branches -------------------------------------------------------------------------------------------------


def test_an_untrained_branch_changes_nothing_and_a_trained_one_does(tiny, inputs):
    z, t, condition = inputs
    torch.manual_seed(0)
    branches = {name: control_branch(tiny, factor=4) for name in ("pose", "edge")}
    network = ControlledUNet(tiny, branches)
    hints = {f"hint.{name}": torch.rand(2, 3, 64, 64) for name in branches}
    with torch.no_grad():
        plain = ControlledUNet(tiny)(z, t, condition)
        assert torch.equal(network(z, t, condition | hints), plain)
        for parameter in branches["pose"].controlnet_mid_block.parameters():
            nn.init.constant_(parameter, 0.5)
        steered = network(z, t, condition | hints)
        assert not torch.equal(steered, plain)
        assert torch.equal(network(z, t, condition), plain), "a branch acts only where its picture is given"
        network.scales["pose"] = 0.0
        assert torch.equal(network(z, t, condition | hints), plain)


def test_a_branch_pools_the_text_as_its_network_does_also_after_saving(tiny, inputs, tmp_path):
    text = inputs[2]["text"]
    control_branch(tiny, factor=4).save_pretrained(tmp_path)
    saved = ControlNetModel.from_pretrained(tmp_path)
    assert torch.equal(saved.add_embedding(text), tiny.add_embedding(text))


def test_two_branches_add_up(tiny, inputs):
    z, t, condition = inputs
    torch.manual_seed(0)
    branches = {name: control_branch(tiny, factor=4) for name in ("pose", "edge")}
    for branch in branches.values():
        for parameter in branch.parameters():
            nn.init.normal_(parameter, std=0.05)
    network = ControlledUNet(tiny, branches)
    hints = {name: torch.rand(2, 3, 64, 64) for name in branches}
    with torch.no_grad():
        both = network.residuals(z, t, condition, hints)
        alone = [network.residuals(z, t, condition, {name: hint}) for name, hint in hints.items()]
    middle = [residuals["mid_block_additional_residual"] for residuals in (both, *alone)]
    torch.testing.assert_close(middle[0], middle[1] + middle[2])
    for one, *parts in zip(*(r["down_block_additional_residuals"] for r in (both, *alone)), strict=True):
        torch.testing.assert_close(one, parts[0] + parts[1])


def test_wrong_controls_are_named(tiny, inputs):
    z, t, condition = inputs
    network = ControlledUNet(tiny, {"pose": control_branch(tiny, factor=4)})
    with pytest.raises(ValueError, match=r"no control branch for \['layout'\]; known: \['pose'\]"):
        network(z, t, condition | {"hint.layout": torch.zeros(2, 3, 64, 64)})
    with pytest.raises(ValueError, match=r"the pose picture is \[64, 32\], this latent needs \[64, 64\]"):
        network(z, t, condition | {"hint.pose": torch.zeros(2, 3, 64, 32)})
    with pytest.raises(ValueError, match="cannot mask text"):
        network(z, t, condition | {"hint.pose": torch.zeros(2, 3, 64, 64), "text_mask": torch.ones(2, 7)})
    with pytest.raises(ValueError, match="factor 3 is no power of two"):
        control_branch(tiny, factor=3)
    with pytest.raises(ValueError, match=r"no branch named \['edge'\]"):
        ControlledUNet(tiny, {"pose": control_branch(tiny, factor=4)}, {"edge": 1.0})


# --- latent spaces ----------------------------------------------------------------------------------------------------


def test_the_small_autoencoder_is_small_and_opens_with_diffusers(tmp_path):
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    vae = small_autoencoder().eval()
    assert sum(parameter.numel() for parameter in vae.parameters()) == 242_327
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        scale = 1 / float(vae.encode(pixels).latent_dist.mode().std())
        vae.register_to_config(scaling_factor=scale)
        space = AutoencoderSpace(vae)
        latents = space.encode(pixels)
        assert latents.shape == (2, 4, 16, 16) and space.factor == 4
        assert latents.std() == pytest.approx(1, rel=1e-4)
        vae.save_pretrained(tmp_path)
        opened = AutoencoderSpace(AutoencoderKL.from_pretrained(tmp_path))
        assert opened.vae.config.scaling_factor == scale
        assert torch.equal(opened.encode(pixels), latents)
        assert torch.equal(opened.decode(latents), space.decode(latents))
        assert space.decode(latents).shape == pixels.shape


def test_scale_and_shift_are_undone_on_the_way_back():
    torch.manual_seed(0)
    vae = small_autoencoder().eval()
    pixels = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        raw = vae.encode(pixels).latent_dist.mode()
        vae.register_to_config(scaling_factor=3.0, shift_factor=0.25)
        space = AutoencoderSpace(vae)
        torch.testing.assert_close(space.encode(pixels), (raw - 0.25) * 3)
        torch.testing.assert_close(space.decode(space.encode(pixels)), vae.decode(raw).sample)


def test_an_autoencoder_in_half_precision_that_asks_for_more_gets_it():
    vae = small_autoencoder().half()
    assert AutoencoderSpace(vae).vae.dtype == torch.float16
    vae.register_to_config(force_upcast=True)
    assert AutoencoderSpace(vae).vae.dtype == torch.float32


def test_training_the_small_autoencoder_lowers_its_loss():
    torch.manual_seed(0)
    vae, generator = small_autoencoder((8, 16, 16)), torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 4, 4, generator=generator) * 2 - 1
    pixels = nn.functional.interpolate(coarse, size=16, mode="nearest")
    optimizer, errors = torch.optim.Adam(vae.parameters(), lr=5e-3), []
    for _ in range(80):
        loss, metrics = autoencoder_loss(vae, pixels, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(metrics["absolute_error"].item())
    assert errors[-1] < 0.5 * errors[0]
    assert metrics["psnr"].item() > 10 and metrics["kl"].item() > 0
