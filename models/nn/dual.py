"""Two towers and a shared space: the body of FILIP, Wukong and CLIP.

Letters: b pairs, s picture side in pixels, L tokens of a text, w width of a tower, d width of the shared space,
k vectors that describe a sample: 1 for a global head, all patches or words for a token-wise one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.models.nn.contrastive import Encoded, Features, LogitScale
from lt.models.nn.timm_tower import TimmConfig, TimmTower
from lt.models.nn.towers import TextConfig, TextTransformer, VisionConfig, VisionTransformer

Head = Literal["tokens", "global", "reduced"]


@dataclass(frozen=True)
class DualConfig:
    """Everything that decides the shape and behaviour of a dual encoder.

    vision, text: the towers.
    dim: d. FILIP cuts it to 256 so that tokens of all pairs fit and travel.
    head: "tokens" (every patch and word), "global" (class vector and last token), "reduced" (Wukong only:
        `reduced_tokens` mixtures of patches a picture).
    locked: the image tower keeps its (pretrained) weights and runs without a graph (LiT, arXiv 2111.07991).
    ends: whether the start and end tokens of a text count as words in a token-wise similarity. FILIP counts all that is
        "non-padded", so they do.
    scale_start, scale_limit, colder: see `contrastive.LogitScale`.
    """

    vision: VisionConfig | TimmConfig
    text: TextConfig
    dim: int = 256
    head: Head = "tokens"
    reduced_tokens: int = 12
    locked: bool = False
    ends: bool = True
    scale_start: float = 1 / 0.07
    scale_limit: float = 100.0
    colder: float | None = None


class DualEncoder(nn.Module):
    """Pictures and texts to unit vectors in one space: `encode_image`, `encode_text`, or both and the scales by `forward`."""

    def __init__(self, config: DualConfig):
        super().__init__()
        self.config = config
        self.image_tower = (
            TimmTower(config.vision) if isinstance(config.vision, TimmConfig) else VisionTransformer(config.vision)
        )
        self.text_tower = TextTransformer(config.text)
        self.image_projection = _projection(self.image_tower.width, config.dim)
        self.text_projection = _projection(self.text_tower.width, config.dim)
        self.scale = LogitScale(config.scale_start, config.scale_limit, config.colder)
        if config.locked:
            self.image_tower.requires_grad_(False).eval()

    def train(self, mode: bool = True):
        """As usual, but a locked tower stays in evaluation mode."""
        super().train(mode)
        if self.config.locked:
            self.image_tower.eval()
        return self

    def forward(self, pixels: Tensor, tokens: Tensor, mask: Tensor) -> Encoded:
        """Pixels [b, 3, s, s], token numbers [b, L], mask [b, L] (True: real) -> features of both and the scales [2]."""
        return Encoded(self.encode_image(pixels), self.encode_text(tokens, mask), self.scale())

    def encode_image(self, pixels: Tensor) -> Features:
        """Pixels [b, 3, s, s], normalised with CLIP's mean and deviation -> unit vectors [b, k, d]."""
        pooled, patches = self.run_image_tower(pixels)
        if self.config.head == "global":
            return Features(_unit(self.image_projection(pooled))[:, None])
        return Features(_unit(self.reduce(self.image_projection(patches))))

    def run_image_tower(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(one vector [b, w], patches [b, n, w]) before projection."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.locked):
            return self.image_tower(pixels)

    def reduce(self, tokens: Tensor) -> Tensor:
        """Projected patches [b, n, d] to those that take part in the similarity; here all of them."""
        return tokens

    def encode_text(self, tokens: Tensor, mask: Tensor) -> Features:
        """Token numbers [b, L], mask [b, L] -> unit vectors [b, k, d]; rows of pads are zero.

        The global vector is the last real token's ([EOS], [SEP]).
        """
        hidden = self.text_tower(tokens)
        if self.config.head == "global":
            last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
            pooled = hidden[torch.arange(hidden.shape[0], device=hidden.device), last]
            return Features(_unit(self.text_projection(pooled))[:, None])
        words = mask if self.config.ends else without_ends(mask)
        return Features(_unit(self.text_projection(hidden)) * words[..., None], words)

    def no_decay(self) -> Iterator[str]:
        """Names of parameters without weight decay (FILIP): biases, norms, token and position embeddings, the scales."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2 or "embed" in name or "relative_position" in name:
                yield name

    def set_checkpointing(self, on: bool = True) -> None:
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.text_tower.transformer.checkpointing = on
        if isinstance(self.image_tower, VisionTransformer):
            self.image_tower.transformer.checkpointing = on
        else:
            self.image_tower.backbone.set_grad_checkpointing(on)


def without_ends(mask: Tensor) -> Tensor:
    """The mask [b, L] of a right-padded text less its first and its last real token."""
    inner = mask.clone()
    inner[:, 0] = False
    inner[:, :-1] &= mask[:, 1:]
    inner[:, -1] = False
    return inner


def openai_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights named as in OpenAI's CLIP (open_clip's plain CLIP models too) under the names of `DualEncoder`.

    The projections keep their width: for another `dim`, leave "image_projection.weight" and "text_projection.weight" out.
    """
    ours = {}
    for name, value in state.items():
        if name == "logit_scale":
            ours["scale.logit_scale"] = value
        elif name in ("visual.proj", "text_projection"):
            ours["image_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        elif name.startswith("visual."):
            ours["image_tower." + name.removeprefix("visual.")] = value
        elif name != "attn_mask":
            ours["text_tower." + name] = value
    return ours


def _projection(width: int, dim: int) -> nn.Linear:
    linear = nn.Linear(width, dim, bias=False)
    nn.init.normal_(linear.weight, std=width**-0.5)
    return linear


def _unit(x: Tensor) -> Tensor:
    """Rows of unit length, in fp32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
