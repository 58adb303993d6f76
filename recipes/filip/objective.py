"""FILIP as a recipe: its settings, its objective, its built-in world."""

from pathlib import Path
from typing import Literal

from lt.models.filip import CLIP, FILIP, Filip
from lt.recipes.contrastive.objective import ContrastiveObjective, shaped
from lt.recipes.contrastive.settings import ContrastiveSettings, HeadSettings, make_tokenizer, scenes_world
from lt.recipes.registry import Recipe


class ModelSettings(HeadSettings):
    """The two towers and how their features are compared."""

    size: Literal["tiny", "base", "base-16", "large"] = "tiny"
    """Towers: `base` is ViT-B/32, `base-16` ViT-B/16, `large` ViT-L/14, each with the paper's text tower."""
    head: Literal["tokens", "global"] = "tokens"
    """`tokens`: FILIP's late interaction; `global`: one vector a picture and a text, which is CLIP."""


class FilipSettings(ContrastiveSettings):
    """Settings of `lt train filip`."""

    model: ModelSettings = ModelSettings()


def make_objective(settings: FilipSettings) -> ContrastiveObjective:
    """A FILIP (or CLIP) with random weights."""
    head = settings.model
    config = (FILIP if head.head == "tokens" else CLIP)[head.size]
    tokenizer = make_tokenizer(settings.text, config.text.length)
    return ContrastiveObjective(settings, head, Filip(shaped(config, head, tokenizer)), tokenizer)


RECIPE = Recipe("filip", FilipSettings, make_objective, scenes_world, Path(__file__).parent, least_batch=2)
