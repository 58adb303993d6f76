"""CLIP's two towers and their pre-norm transformer. Parameter names are OpenAI's: published CLIP weights load unchanged.

Letters: b batch, k tokens, w width; s picture side in pixels, p patch side, n = (s / p)^2 patches; L tokens of a text.
Sources: CLIP, arXiv 2103.00020, section 2.4, and the released weights' names (`transformer.resblocks.0.attn.in_proj_weight`,
...); ViT, arXiv 2010.11929. CLIP's differs from it: normalisation before the blocks, no bias in the patch embedding.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Activation = Literal["quick_gelu", "gelu"]


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation with which CLIP's and Wukong's weights were trained."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention [b, k, w] -> [b, k, w]."""

    def __init__(self, width: int, heads: int, residual_std: float):
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be divided among {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)
        nn.init.normal_(self.out_proj.weight, std=residual_std)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        b, k, w = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, key, v = qkv.view(b, k, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, key, v, is_causal=causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(b, k, w))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, activation: Activation, residual_std: float):
        super().__init__()
        wide, narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        nn.init.normal_(wide.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(narrow.weight, std=residual_std)
        gelu = QuickGELU() if activation == "quick_gelu" else nn.GELU()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, residual_std)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(OrderedDict(c_fc=wide, gelu=gelu, c_proj=narrow))

    def forward(self, x: Tensor, causal: bool = False) -> Tensor:
        x = x + self.attn(self.ln_1(x), causal)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks, initialised as CLIP's. `checkpointing` recomputes each block in the backward pass."""

    def __init__(self, width: int, layers: int, heads: int, activation: Activation, causal: bool = False):
        super().__init__()
        self.causal, self.checkpointing = causal, False
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        self.resblocks = nn.ModuleList(Block(width, heads, activation, residual_std) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, self.causal, use_reentrant=False)
            else:
                x = block(x, self.causal)
        return x


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


@dataclass(frozen=True)
class TextConfig:
    """Shape of a text tower: size of the vocabulary, places for tokens, and the transformer."""

    vocabulary: int = 49408
    length: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    activation: Activation = "quick_gelu"


TEXT = {
    "tiny": TextConfig(vocabulary=512, length=32, width=96, layers=3, heads=3),
    "english-base": TextConfig(),
    "english-large": TextConfig(width=768, heads=12),
    "chinese-base": TextConfig(vocabulary=21128, length=32),
    "chinese-large": TextConfig(vocabulary=21128, length=32, width=768, heads=12),
}


class TextTransformer(nn.Module):
    """Token numbers [b, L], L up to the config's length -> hidden states [b, L, w]. Causal.

    Texts are padded on the right, so no real token sees a pad, and no padding mask is needed (what comes out at pads is
    meaningless, and masked by its users).
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config, self.width = config, config.width
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(config.length, config.width))
        self.transformer = Transformer(config.width, config.layers, config.heads, config.activation, causal=True)
        self.ln_final = nn.LayerNorm(config.width)
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.config.length:
            raise ValueError(f"{length} tokens, but this tower has places for {self.config.length}")
        embedded = self.token_embedding(tokens)
        return self.ln_final(self.transformer(embedded + self.positional_embedding[:length].to(embedded.dtype)))
