"""CLIP's vision transformer, which gives both its class vector and its patches. OpenAI's parameter names.

Letters: b batch, s picture side in pixels, p patch side, n = (s / p)^2 patches, w width.
Sources: ViT, arXiv 2010.11929; CLIP, arXiv 2103.00020 (normalisation before the blocks, no bias in the patch embedding).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lt.models.nn.transformer import Activation, Transformer


@dataclass(frozen=True)
class VisionConfig:
    """Shape of a vision transformer; `size` and `patch` in pixels."""

    size: int = 224
    patch: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    activation: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        if self.size % self.patch:
            raise ValueError(f"a picture of {self.size} pixels cannot be cut into patches of {self.patch}")

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2


VISION = {
    "tiny": VisionConfig(size=64, patch=8, width=96, layers=4, heads=3),
    "B/32": VisionConfig(),
    "B/16": VisionConfig(patch=16),
    "L/14": VisionConfig(patch=14, width=1024, layers=24, heads=16),
}


class VisionTransformer(nn.Module):
    """Pixels [b, 3, s, s], normalised -> (class vector [b, w], patches [b, n, w] in rows from the top left)."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config, self.width = config, config.width
        scale = config.width**-0.5
        self.conv1 = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(config.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.patches + 1, config.width))
        self.ln_pre = nn.LayerNorm(config.width)
        self.transformer = Transformer(config.width, config.layers, config.heads, config.activation)
        self.ln_post = nn.LayerNorm(config.width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        side = self.config.size
        if pixels.shape[1:] != (3, side, side):
            raise ValueError(f"this tower takes pixels [b, 3, {side}, {side}], not {list(pixels.shape)}")
        patches = self.conv1(pixels).flatten(2).transpose(1, 2)
        head = self.class_embedding.to(patches.dtype).expand(patches.shape[0], 1, -1)
        x = torch.cat([head, patches], 1) + self.positional_embedding.to(patches.dtype)
        x = self.ln_post(self.transformer(self.ln_pre(x)))
        return x[:, 0], x[:, 1:]
