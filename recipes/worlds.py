"""The built-in worlds as training and test data, made once: `data/scenes-train-64px-12000`, `data/figures-test-64px-256` ..."""

from pathlib import Path

from lt.datagen.cores import cores
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.datagen.worlds import figures_pipeline, scenes_pipeline
from lt.recipes.devices import run_to_end
from lt.recipes.registry import Note


def scenes(split: str, count: int, size: int, note: Note, seed: int = 0) -> Path:
    """The folder of `count` scenes of a split; made if it is not there or not complete."""
    folder = Path("data") / (f"scenes-{split}-{size}px-{count}" + (f"-seed{seed}" if seed else ""))
    return made(scenes_pipeline(count=count, split=split, seed=seed, size=size), folder, count, note)


def figures(split: str, count: int, size: int, note: Note, seed: int = 0) -> Path:
    """The folder of `count` figures of a split; made if it is not there or not complete."""
    folder = figures_folder(split, count, size, seed)
    return made(figures_pipeline(count=count, split=split, seed=seed, size=size), folder, count, note)


def figures_folder(split: str, count: int, size: int, seed: int = 0) -> Path:
    """Where `figures` has them, or will."""
    return Path("data") / f"figures-{split}-{size}px-{count}" / (f"seed-{seed}" if seed else "")


def made(pipeline: Pipeline, folder: Path, count: int, note: Note) -> Path:
    """Run a world's pipeline into a folder unless it is complete already.

    Raises:
        LtError: tasks failed.
    """
    if (folder / MANIFEST).exists() and Manifest.load(folder / MANIFEST).complete:
        return folder
    note(f"  makes {folder}: {count:,} samples of the built-in world {pipeline.name}")
    run_to_end(pipeline, folder, cores())
    return folder
