"""Wukong as a recipe: its settings, its objective with a locked image tower, its built-in world."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lt.datagen.shards import LtError
from lt.models.wukong import Wukong, with_head
from lt.recipes.config import free
from lt.recipes.contrastive.objective import ContrastiveObjective, shaped
from lt.recipes.contrastive.pretrained import load_image_tower
from lt.recipes.contrastive.settings import (
    ContrastiveSettings,
    HeadSettings,
    TextSettings,
    make_tokenizer,
    scenes_world,
)
from lt.recipes.evaluate.features import Rule
from lt.recipes.registry import Recipe


class ModelSettings(HeadSettings):
    """The two towers and how their features are compared."""

    size: Literal["tiny", "vit-b", "vit-l", "swin-l"] = "tiny"
    """Towers: ViT-B/32, ViT-L/14 or Swin-L, each with the paper's Chinese text tower."""
    head: Literal["reduced", "tokens", "global"] = "reduced"
    """`reduced`: a few mixtures of the patches take part (Wukong); `tokens`: all patches do; `global`: one vector each."""
    reduced_tokens: int = Field(default=0, ge=0)
    """How many mixtures with head `reduced`; 0 = the paper's number (12, or 24 for ViT-L)."""
    locked: bool = False
    """Keep the image tower as it is (LiT, arXiv 2111.07991); needs `image_weights`."""
    image_weights: str = free("")
    """Weights that the image tower starts from: a file in OpenAI's, open_clip's, transformers' or timm's names, or an lt run."""


class WukongSettings(ContrastiveSettings):
    """Settings of `lt train wukong`."""

    text: TextSettings = TextSettings(language="zh")
    model: ModelSettings = ModelSettings()


class WukongObjective(ContrastiveObjective):
    """The Chinese dual encoder in training."""

    settings: WukongSettings

    @property
    def rule(self) -> Rule:
        """That of the code released with Wukong, for token-wise heads."""
        return "mean" if self.settings.model.head == "global" else "votes"

    def pretrained(self) -> str:
        """Load the image tower's weights. Raises LtError where a tower is to be locked without any."""
        model = self.settings.model
        if model.image_weights:
            return load_image_tower(self.model, Path(model.image_weights))
        if model.locked:
            raise LtError(
                "model.locked keeps the image tower as it is, but there are no weights to keep.",
                "Name them: --set model.image_weights=FILE (CLIP's or timm's), or train the tower: --set model.locked=false.",
            )
        return ""


def make_objective(settings: WukongSettings) -> WukongObjective:
    """A Wukong with random weights; `pretrained` loads those that the settings name."""
    head = settings.model
    config = with_head(head.size, head.head)
    tokenizer = make_tokenizer(settings.text, config.text.length)
    reduced = head.reduced_tokens or config.reduced_tokens
    model = Wukong(shaped(config, head, tokenizer, reduced_tokens=reduced, locked=head.locked))
    return WukongObjective(settings, head, model, tokenizer)


RECIPE = Recipe("wukong", WukongSettings, make_objective, scenes_world, Path(__file__).parent, least_batch=2)
