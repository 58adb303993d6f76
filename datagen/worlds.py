"""The built-in worlds: one entry each. No download, no weights; any number; exact ground truth."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from lt.datagen.engine.stage import Pipeline


@dataclass(frozen=True)
class World:
    """A world that is drawn by number; commands, training data, judge and evaluation read it here.

    Attributes:
        about: a sentence for the command's help.
        source: `module:Class` of its `NumberedSource`.
        splits: `train`, and those that training never shows.
        told_by: the module that says what can be told of a sample: ATTRIBUTES with their values, those that a caption says
            IN_EVERY_WORDING, and `described`, from a sample to its attributes; "" where no judge is trained on this world.
    """

    about: str
    source: str
    splits: tuple[str, ...] = ("train", "test")
    told_by: str = ""

    @property
    def traits(self) -> ModuleType:
        """The module `told_by`."""
        return importlib.import_module(self.told_by)


WORLDS = {
    "scenes": World(
        "Drawn scenes of one to four objects with exact layers, and captions in English and Chinese.",
        "lt.datagen.sources.scenes:ScenesSource",
        ("train", "test", "novel"),
    ),
    "figures": World(
        "Drawn persons with exact COCO-17 key points, pose and edge pictures, and captions.",
        "lt.datagen.sources.figures:FiguresSource",
        told_by="lt.datagen.sources.figure_traits",
    ),
}


def world_pipeline(world: str, count: int, **settings: Any) -> Pipeline:
    """`count` samples of a world of `WORLDS`; the other settings are `NumberedSource`'s."""
    module, _, name = WORLDS[world].source.partition(":")
    source = getattr(importlib.import_module(module), name)(count, **settings)
    return Pipeline(world, source, tolerance=0.0)


def openmoji_pipeline(**settings: Any) -> Pipeline:
    """Single OpenMoji drawings with their names in English and Chinese; the settings are `OpenMojiSource`'s."""
    from lt.datagen.sources.openmoji import OpenMojiSource

    source = OpenMojiSource(**settings)
    return Pipeline("openmoji", source, tolerance=0.0 if source.picture == "png" else None)
