"""CLIP's text transformer: causal, over token numbers. OpenAI's parameter names.

Letters: b batch, L tokens, w width. Source: CLIP, arXiv 2103.00020, section 2.4. Texts are padded on the right;
under the causal mask no real token sees a pad, so the tower needs no padding mask (what comes out at pads is meaningless
and masked by its users).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lt.models.nn.transformer import Activation, Transformer


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
    """Token numbers [b, L], L up to the config's length -> hidden states [b, L, w]."""

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
