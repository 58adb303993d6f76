"""The built-in worlds `figures` and `scenes` as data of the diffusion systems, made once."""

from collections.abc import Sequence

from pydantic import Field

from lt.datagen.shards import open_shards
from lt.recipes.config import Section
from lt.recipes.system import Note
from lt.recipes.worlds import figures, scenes


class WorldSettings(Section):
    """The built-in worlds that are made when no data is named."""

    figures: int = Field(default=8000, ge=1)
    """Training figures: a drawn person in a pose, with key points, skeleton and edge map."""
    scenes: int = Field(default=8000, ge=0)
    """Training scenes: one to four drawings on a background; 0 = figures alone."""
    test: int = Field(default=256, ge=1)
    """Test samples of each world."""
    size: int = Field(default=64, ge=64)
    """Side of the pictures in pixels."""


def build(world: WorldSettings, note: Note, only_figures: bool = False) -> tuple[list[str], str]:
    """(training folders, test shards) under `data/`, made on the first call and found again later.

    Args:
        only_figures: leave the scenes out, which have no skeletons and edges.
    """
    train, test = [figures("train", world.figures, world.size, note)], [figures("test", world.test, world.size, note)]
    if world.scenes and not only_figures:
        train.append(scenes("train", world.scenes, world.size, note))
        test.append(scenes("test", world.test, world.size, note))
    return [str(folder) for folder in train], pattern_of([str(folder) for folder in test])


def pattern_of(folders: Sequence[str]) -> str:
    """One name for the shards of several folders: a brace pattern of their tars; the folder itself where it is one."""
    if len(folders) == 1:
        return folders[0]
    tars = [shard.location.url for folder in folders for shard in open_shards(folder).shards]
    return "{" + ",".join(tars) + "}"
