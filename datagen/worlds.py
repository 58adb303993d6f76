"""The built-in worlds as pipelines: `openmoji`, `scenes`, `figures`. No download, no weights; any number; exact ground truth."""

from lt.datagen.engine.stage import Pipeline
from lt.datagen.sources.figures import FiguresSource
from lt.datagen.sources.openmoji import OpenMojiSource
from lt.datagen.sources.scenes import ScenesSource


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
    source = OpenMojiSource(size, picture, background, things, skin_tones, flags, shard_size)
    return Pipeline("openmoji", source, tolerance=0.0 if picture == "png" else None)


def scenes_pipeline(
    count: int, split: str = "train", seed: int = 0, size: int = 256, shard_size: int = 500
) -> Pipeline:
    """1 to 4 drawings on a background with exact layers and relational captions; see `ScenesSource`."""
    return Pipeline("scenes", ScenesSource(count, split, seed, size, shard_size), tolerance=0.0)


def figures_pipeline(
    count: int, split: str = "train", seed: int = 0, size: int = 256, shard_size: int = 500
) -> Pipeline:
    """A drawn person with key points, skeleton and edges; see `FiguresSource`."""
    return Pipeline("figures", FiguresSource(count, split, seed, size, shard_size), tolerance=0.0)
