"""The built-in worlds as training and test data, made once: `data/scenes-train-64px-12000`, `data/figures-test-64px-256` ..."""

from functools import partial
from pathlib import Path

from lt.datagen.cores import cores
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.datagen.worlds import world_pipeline
from lt.recipes.devices import run_to_end
from lt.recipes.system import Note


def world_samples(world: str, split: str, count: int, size: int, note: Note, seed: int = 0) -> Path:
    """The folder of `count` samples of a split; made if it is not there or not complete."""
    pipeline = world_pipeline(world, count=count, split=split, seed=seed, size=size)
    return made(pipeline, world_folder(world, split, count, size, seed), count, note)


def world_folder(world: str, split: str, count: int, size: int, seed: int = 0) -> Path:
    """Where `world_samples` has them, or will."""
    return Path("data") / (f"{world}-{split}-{size}px-{count}" + (f"-seed{seed}" if seed else ""))


scenes, figures = partial(world_samples, "scenes"), partial(world_samples, "figures")


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
