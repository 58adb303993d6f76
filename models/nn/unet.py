"""The U-Net with text cross-attention, its shapes, its cost, and its attention maps.

Source: Latent diffusion (Rombach et al. 2022) and SDXL (Podell et al. 2023) as built by diffusers'
``UNet2DConditionModel``, which serves unchanged: what is trained here is a diffusers U-Net and is saved as one. Ours
are the shapes as small dataclasses, the one function that turns a named condition into its arguments, the count of
multiply-adds, and :func:`record_attention`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lt.models.nn.diffusion import Condition

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


@dataclass(frozen=True)
class UNetShape:
    """The few numbers that tell text-to-image U-Nets apart.

    Attributes:
        sample_size: side of the latent it is meant for (only a default: any size runs).
        channels: of each level, from fine to coarse.
        depths: transformer blocks per attention layer and level; 0 means a level without attention.
        heads: attention heads of each level.
        text_width: width of the text features, ``[b, l, text_width]``.
        pooled_width: width of the pooled text ``[b, pooled_width]``; 0 means that no such vector is read (SD 1.5).
        ids: how many numbers are embedded as sinusoids beside it (SDXL: six of sizes and crop; PanGu-Draw: one bucket index).
        id_width: width of each sinusoid.
        pools_text: add the text, pooled by attention, to the embedding of time (as DeepFloyd IF does): the network's own
            pooled text, where no encoder brings one.
        layers: residual blocks per level.
        linear_projection: linear instead of 1x1-convolution projections around the transformer blocks.
        groups: of the group norms.
        in_channels, out_channels: of the latent.
    """

    sample_size: int
    channels: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    text_width: int
    pooled_width: int = 0
    ids: int = 0
    id_width: int = 256
    layers: int = 2
    linear_projection: bool = True
    groups: int = 32
    in_channels: int = 4
    out_channels: int = 4
    pools_text: bool = False

    def config(self) -> dict[str, Any]:
        """Arguments of diffusers' ``UNet2DConditionModel``."""
        if not len(self.channels) == len(self.depths) == len(self.heads):
            raise ValueError(f"channels, depths and heads must have one entry a level: {self}")
        down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in self.depths)
        up = tuple("CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(self.depths))
        vector = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": self.id_width,
            "projection_class_embeddings_input_dim": self.pooled_width + self.ids * self.id_width,
        }
        pooling = {"addition_embed_type": "text", "addition_embed_type_num_heads": self.text_width // 16}
        return {
            "sample_size": self.sample_size,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "down_block_types": down,
            "up_block_types": up,
            "block_out_channels": self.channels,
            "layers_per_block": self.layers,
            "transformer_layers_per_block": tuple(max(depth, 1) for depth in self.depths),
            "attention_head_dim": self.heads,  # diffusers' historical name for the number of heads
            "cross_attention_dim": self.text_width,
            "use_linear_projection": self.linear_projection,
            "norm_num_groups": self.groups,
            **(vector if self.pooled_width else pooling if self.pools_text else {}),
        }

    def build(self) -> "UNet2DConditionModel":
        """A U-Net with random weights. Inside ``torch.device("meta")`` it costs neither memory nor time."""
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**self.config())


TINY = UNetShape(16, (48, 56), (0, 1), (3, 4), text_width=64, layers=1, groups=8, pools_text=True)
"""The miniature's generator for 16x16 latents: 1.0 million parameters, about half of ``TINY_WHOLE`` in size and cost. It attends
at 8x8 only: attention among 256 places would more than halve its speed on a processor. Pooled text reaches all places, as in the
paper's network; with it the loss falls faster (docs/benchmarks.md)."""
TINY_WHOLE = UNetShape(16, (72, 80), (0, 1), (4, 5), text_width=64, layers=1, groups=8, pools_text=True)
SD15 = UNetShape(64, (320, 640, 1280, 1280), (1, 1, 1, 0), (8, 8, 8, 8), text_width=768, linear_projection=False)
SD21 = UNetShape(96, (320, 640, 1280, 1280), (1, 1, 1, 0), (5, 10, 20, 20), text_width=1024)
SDXL = UNetShape(128, (320, 640, 1280), (0, 2, 10), (5, 10, 20), text_width=2048, pooled_width=1280, ids=6)
PANGU = UNetShape(128, (320, 640, 1280), (0, 2, 10), (5, 10, 20), text_width=2048, pooled_width=1280, ids=1)
"""Each of PanGu-Draw's two generators: SDXL's U-Net, but the vector is pooled text (1280) and one size-bucket index (256)."""


def multiply_adds(shape: UNetShape, height: int, width: int, tokens: int = 77) -> int:
    """Multiply-adds of one forward pass for one ``[in_channels, height, width]`` latent, counted on the meta device.

    Convolutions, linear layers and attention products count; norms and activations do not.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        unet, condition = shape.build(), {"text": torch.empty(1, tokens, shape.text_width)}
        if shape.pooled_width:
            condition |= {"pooled": torch.empty(1, shape.pooled_width), "ids": torch.empty(1, shape.ids)}
        z, t = torch.empty(1, shape.in_channels, height, width), torch.zeros(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call_unet(unet, z, t, condition)
    return counter.get_total_flops() // 2


def call_unet(unet: nn.Module, z: Tensor, t: Tensor, condition: Condition, **residuals: Any) -> Tensor:
    """One pass of a diffusers U-Net with a named condition.

    Args:
        z: ``[b, c, h, w]``.
        t: scalar or ``[b]``.
        condition: ``text`` ``[b, l, d]``; optionally ``text_mask`` ``[b, l]`` (true: attend), ``pooled`` ``[b, p]`` and ``ids``
            ``[b, n]`` (SDXL's six sizes, PanGu-Draw's one bucket index).
        residuals: a ControlNet's, under diffusers' names.

    Raises:
        ValueError: the condition names something that a U-Net does not know.
    """
    unknown = set(condition) - {"text", "text_mask", "pooled", "ids"}
    if unknown:
        raise ValueError(f"the U-Net does not know {sorted(unknown)}: it reads text, text_mask, pooled and ids")
    return unet(z, t, **unet_arguments(condition), **residuals, return_dict=False)[0]


def unet_arguments(condition: Condition) -> dict[str, Any]:
    """A named condition as arguments of diffusers' U-Net."""
    arguments: dict[str, Any] = {"encoder_hidden_states": condition["text"]}
    if "text_mask" in condition:
        arguments["encoder_attention_mask"] = condition["text_mask"]
    if "pooled" in condition:
        arguments["added_cond_kwargs"] = {"text_embeds": condition["pooled"], "time_ids": condition["ids"]}
    return arguments


def weights_dtype(module: nn.Module) -> torch.dtype:
    """The dtype of a module's first parameter: what its inputs must have where nothing casts automatically."""
    return next(module.parameters()).dtype


@contextmanager
def record_attention(
    unet: Any, which: Literal["cross", "self", "all"] = "cross", keep: Callable[[str], bool] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Read a U-Net's attention maps while the context is open.

    Outside of it nothing is changed or slowed; inside, outputs stay the same bit for bit, because the layer's own
    processor still makes them and the map is computed beside it (one more softmax a layer).

    Args:
        unet: a diffusers U-Net or ControlNet.
        which: cross-attention (``attn2``), self-attention (``attn1``) or both.
        keep: further choice by name; a name is the layer's path, such as
            ``down_blocks.1.attentions.0.transformer_blocks.0.attn2``.

    Yields:
        Name -> probabilities ``[b, heads, queries, keys]`` of the latest forward pass, float32, with gradient where that is on.

    Raises:
        ValueError: no layer is left to read.
    """
    ending = {"cross": ("attn2",), "self": ("attn1",), "all": ("attn1", "attn2")}[which]
    before, maps = dict(unet.attn_processors), {}
    installed, chosen = dict(before), 0
    for path, processor in before.items():
        name = path.removesuffix(".processor")
        if name.endswith(ending) and (keep is None or keep(name)):
            installed[path] = _Recorder(processor, name, maps)
            chosen += 1
    if not chosen:
        raise ValueError(f"no attention layer to read; layers: {[path.removesuffix('.processor') for path in before]}")
    unet.set_attn_processor(installed)
    try:
        yield maps
    finally:
        unet.set_attn_processor(before)


class _Recorder:
    """An attention processor that passes everything on to the layer's own one and notes the probabilities."""

    def __init__(self, inner: Any, name: str, maps: dict[str, Tensor]):
        self.inner, self.name, self.maps = inner, name, maps

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        self.maps[self.name] = attention_probabilities(attn, hidden_states, encoder_hidden_states, attention_mask)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def attention_probabilities(attn: Any, states: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
    """``softmax(q k^T * scale + mask)`` of a diffusers attention layer.

    Args:
        states: ``[b, q, c]``.
        context: ``[b, k, d]``; None means self-attention.
        mask: additive bias ``[b, 1, k]`` or None.

    Returns:
        ``[b, heads, q, k]``, float32.
    """
    context = states if context is None else context
    query, key = (
        rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for rows in (attn.to_q(states), attn.to_k(context))
    )
    scores = query.float() @ key.float().transpose(-1, -2) * attn.scale
    if mask is not None:
        bias = attn.prepare_attention_mask(mask, context.shape[1], len(states))
        scores = scores + bias.view(len(states), attn.heads, -1, bias.shape[-1])
    return scores.softmax(dim=-1)
