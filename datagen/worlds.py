"""The built-in worlds: one entry each. No download, no weights; any number; exact ground truth."""

import importlib
from dataclasses import dataclass
from types import ModuleType

from lt.datagen.engine.stage import Pipeline, Source


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

    def make_source(self, **settings: int | str) -> Source:
        module, _, name = self.source.partition(":")
        return getattr(importlib.import_module(module), name)(**settings)


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


def world_pipeline(
    world: str, count: int, split: str = "train", seed: int = 0, size: int = 256, shard_size: int = 500
) -> Pipeline:
    """`count` samples of a world of `WORLDS`; see `NumberedSource`."""
    settings = {"count": count, "split": split, "seed": seed, "size": size, "shard_size": shard_size}
    return Pipeline(world, WORLDS[world].make_source(**settings), tolerance=0.0)


def openmoji_pipeline(
    size: int = 256,
    picture: str = "png",
    background: str = "#ffffff",
    things: bool = False,
    skin_tones: bool = False,
    flags: bool = False,
    shard_size: int = 500,
) -> Pipeline:
    """Single OpenMoji drawings with their names in English and Chinese; see `OpenMojiSource`."""
    from lt.datagen.sources.openmoji import OpenMojiSource

    source = OpenMojiSource(size, picture, background, things, skin_tones, flags, shard_size)
    return Pipeline("openmoji", source, tolerance=0.0 if picture == "png" else None)
