"""Wukong as a recipe: its settings, its objective with a locked image tower, its built-in world."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from lt.datagen.shards import LtError
from lt.models.nn.dual import DualConfig
from lt.models.wukong import WUKONG, Wukong, with_head
from lt.recipes.config import free
from lt.recipes.contrastive.objective import ContrastiveObjective
from lt.recipes.contrastive.pretrained import load_image_tower
from lt.recipes.contrastive.settings import ContrastiveSettings, HeadSettings, TextSettings
from lt.recipes.contrastive.texts import make_tokenizer
from lt.recipes.contrastive.world import scenes_world
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

    def pretrained(self) -> None:
        """Load the image tower's weights. Raises LtError where a tower is to be locked without any."""
        model = self.settings.model
        if model.image_weights:
            load_image_tower(self.model, Path(model.image_weights))
        elif model.locked:
            raise LtError(
                "model.locked keeps the image tower as it is, but there are no weights to keep.",
                "Name them: --set model.image_weights=FILE (CLIP's or timm's), or train the tower: --set model.locked=false.",
            )


def make_config(settings: WukongSettings, vocabulary: int, length: int) -> DualConfig:
    """The encoder's shape, with a text tower for `vocabulary` entries and `length` places."""
    model = settings.model
    config = with_head(model.size, model.head)
    return replace(
        config,
        text=replace(config.text, vocabulary=vocabulary, length=length),
        dim=model.dim or config.dim,
        reduced_tokens=model.reduced_tokens or config.reduced_tokens,
        locked=model.locked,
        ends=model.ends,
        scale_start=model.scale_start,
        colder=model.colder or None,
    )


def make_objective(settings: WukongSettings) -> WukongObjective:
    """A Wukong with random weights; `pretrained` loads those that the settings name."""
    tokenizer = make_tokenizer(settings.text, WUKONG[settings.model.size].text.length)
    model = Wukong(make_config(settings, tokenizer.vocabulary, tokenizer.length))
    return WukongObjective(settings, settings.model, model, tokenizer)


RECIPE = Recipe(
    name="wukong",
    settings=WukongSettings,
    objective=make_objective,
    world=scenes_world,
    folder=Path(__file__).parent,
)
