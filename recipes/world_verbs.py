"""`lt datagen scenes`, `lt datagen figures` ...: a command for every built-in world."""

from functools import partial
from typing import Any, Literal

from pydantic import create_model

from lt.datagen.sources.numbered import MAX_SIZE, MIN_SIZE
from lt.datagen.worlds import WORLDS, World, openmoji_pipeline, world_pipeline
from lt.recipes.config import Section
from lt.recipes.system import Job, Note, System, Verb, option


class WorldOptions(Section):
    """Which samples of a world, and how large."""

    count: int = option(1000, ge=1)
    """How many samples."""
    split: str = option("train")
    """Which combinations: those to train with, or those that training never shows."""
    seed: int = option(0, ge=0, le=2**63 - 1)
    """Another seed gives another data set."""
    size: int = option(256, ge=MIN_SIZE, le=MAX_SIZE)
    """Side of the pictures in pixels."""


class OpenMojiOptions(Section):
    """Which drawings, and how large."""

    size: int = option(256, ge=32, le=1024)
    """Side of the pictures in pixels."""
    things: bool = option(False)
    """Only drawings of things: no faces, signs or symbols."""


def make(name: str, options: Any, note: Note) -> Job:
    """Samples of the world of this name."""
    return Job(world_pipeline(name, **dict(options)))


def openmoji(options: OpenMojiOptions, note: Note) -> Job:
    """Single drawings."""
    return Job(openmoji_pipeline(**dict(options)))


def _verb(name: str, world: World) -> Verb:
    said = WorldOptions.model_fields["split"].description
    split: Any = (Literal[world.splits], option("train", description=said))
    options = create_model(f"{name.title()}Options", __base__=WorldOptions, split=split)
    example = f"lt datagen {name} --count 200 --split train --seed 0"
    return Verb(options, partial(make, name), example, world.about, out=f"data/{name}-{{split}}")


SYSTEM = System(
    about="The built-in worlds.",
    datagen={
        "openmoji": Verb(
            OpenMojiOptions,
            openmoji,
            "lt datagen openmoji --size 128",
            "Single drawings of the OpenMoji world, named in English and Chinese.",
            out="data/openmoji",
        ),
        **{name: _verb(name, world) for name, world in WORLDS.items()},
    },
)
