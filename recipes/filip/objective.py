"""FILIP as a recipe: its settings, its objective, its built-in world."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from lt.models.filip import CLIP, FILIP, Filip
from lt.models.nn.dual import DualConfig
from lt.recipes.contrastive.objective import ContrastiveObjective
from lt.recipes.contrastive.settings import ContrastiveSettings, HeadSettings
from lt.recipes.contrastive.texts import make_tokenizer
from lt.recipes.contrastive.world import scenes_world
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


def make_config(settings: FilipSettings, vocabulary: int, length: int) -> DualConfig:
    """The encoder's shape, with a text tower for `vocabulary` entries and `length` places."""
    model = settings.model
    config = (FILIP if model.head == "tokens" else CLIP)[model.size]
    return replace(
        config,
        text=replace(config.text, vocabulary=vocabulary, length=length),
        dim=model.dim or config.dim,
        ends=model.ends,
        scale_start=model.scale_start,
        colder=model.colder or None,
    )


def make_objective(settings: FilipSettings) -> ContrastiveObjective:
    """A FILIP (or CLIP) with random weights."""
    tokenizer = make_tokenizer(settings.text, FILIP[settings.model.size].text.length)
    model = Filip(make_config(settings, tokenizer.vocabulary, tokenizer.length))
    return ContrastiveObjective(settings, settings.model, model, tokenizer)


RECIPE = Recipe(
    name="filip",
    settings=FilipSettings,
    objective=make_objective,
    world=scenes_world,
    folder=Path(__file__).parent,
)
