"""Wukong: A 100 Million Large-scale Chinese Cross-modal Pre-training Benchmark. Gu et al., arXiv 2202.06767, NeurIPS 2022.

Nine dual encoders: {global, token-wise, token-wise after token reduction} x {ViT-B/32, ViT-L/14, Swin-L}, image tower
locked, Chinese text tower. The paper's own name stands for the reduced ones; here `head` chooses.

Faithful: towers, BERT's Chinese vocabulary of 21,128 with 32 places, causal text tower, d (512 or 768 global, 256
token-wise), 12 or 24 kept tokens, the reduction layer, locked image tower (one new linear map a tower), FILIP's loss.
Differs: padded words are excluded from every maximum; the released evaluation lets them compete as zero vectors, which
is the parity switch `pads="zero"` of `contrastive.similarity`. The weights of the locked towers are not part of the
module: load them into `image_tower` (`dual.openai_state`, or `TimmConfig(pretrained=True)`).

Letters: b pictures, n patches, m kept tokens, d width of the shared space.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from lt.models.nn.contrastive import Features, image_similarity
from lt.models.nn.dual import DualConfig, DualEncoder
from lt.models.nn.timm_tower import SWIN_L
from lt.models.nn.towers import TEXT, VISION

WUKONG = {
    "tiny": DualConfig(VISION["tiny"], TEXT["tiny"], dim=64, head="reduced", reduced_tokens=12),
    "vit-b": DualConfig(VISION["B/32"], TEXT["chinese-base"], head="reduced", reduced_tokens=12, locked=True),
    "vit-l": DualConfig(VISION["L/14"], TEXT["chinese-large"], head="reduced", reduced_tokens=24, locked=True),
    "swin-l": DualConfig(SWIN_L, TEXT["chinese-large"], head="reduced", reduced_tokens=12, locked=True),
}
GLOBAL_DIM = {"tiny": 64, "vit-b": 512, "vit-l": 768, "swin-l": 768}


def with_head(preset: str, head: str) -> DualConfig:
    """The paper's nine models: a preset with another head ("global", "tokens", "reduced"), d as in its table."""
    config = WUKONG[preset]
    if head == "global":
        return replace(config, head="global", dim=GLOBAL_DIM[preset])
    if head in ("tokens", "reduced"):
        return replace(config, head=head)
    raise ValueError(f'unknown head "{head}": global, tokens or reduced')


class TokenReduction(nn.Module):
    """Projected patches [b, n, d] -> m mixtures of them [b, m, d] (Wukong, section 3.2; after TokenLearner, arXiv 2106.11297).

        A = softmax over places( C2(C1(LN X)) )  [b, m, n]        Y = A . C3(X)  [b, m, d]

    C1 and C3 are 1 x 1 convolutions d -> d in groups, C2 is one d -> m; no biases and no activation in between. Every
    step treats places alike, so Y does not depend on their order.
    """

    def __init__(self, dim: int, tokens: int, groups: int = 8):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.mix = nn.Conv1d(dim, dim, 1, groups=groups, bias=False)
        self.attend = nn.Conv1d(dim, tokens, 1, bias=False)
        self.value = nn.Conv1d(dim, dim, 1, groups=groups, bias=False)
        for layer in (self.mix, self.attend, self.value):
            nn.init.kaiming_normal_(layer.weight)

    def attention(self, tokens: Tensor) -> Tensor:
        """A [b, m, n]: where each kept token looks. Rows sum to 1."""
        places = self.norm(tokens).transpose(1, 2)
        return self.attend(self.mix(places)).softmax(2)

    def forward(self, tokens: Tensor) -> Tensor:
        values = self.value(tokens.transpose(1, 2))
        return self.attention(tokens) @ values.transpose(1, 2)


class Wukong(DualEncoder):
    """The Chinese dual encoder. With `head="reduced"`, `reduction` stands between projection and similarity."""

    def __init__(self, config: DualConfig):
        super().__init__(config)
        self.reduction = TokenReduction(config.dim, config.reduced_tokens) if config.head == "reduced" else None

    def reduce(self, tokens: Tensor) -> Tensor:
        return tokens if self.reduction is None else self.reduction(tokens)


def prompt_votes(images: Features, prompts: Features, templates: int) -> Tensor:
    """[b, classes], rows sum to 1: the released zero-shot rule for token-wise models.

    `prompts` holds classes x templates texts, the templates of a class side by side. For each template a softmax over
    classes, *without temperature*, then the mean over templates. (FILIP's rule, a mean of similarities:
    `contrastive.ensemble_similarity`.)
    """
    scores = image_similarity(images, prompts).view(len(images), -1, templates)
    return torch.softmax(scores, dim=1).mean(2)
