"""The pre-norm transformer of CLIP's towers. Parameter names are OpenAI's: published CLIP weights load unchanged.

Letters: b batch, k tokens, w width.
Source: CLIP, arXiv 2103.00020, section 2.4, and the released weights' names (`transformer.resblocks.0.attn.in_proj_weight`, ...).
"""

from __future__ import annotations

from collections import OrderedDict
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
