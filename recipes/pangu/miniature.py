"""The small world of PanGu-Draw's claims: figures at 32 pixels on a plain ground, with short captions; many only at 16.

Without scenery, autoencoders and generators of a few minutes' training spend what they have on the person.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from lt.datagen.engine.stage import Pipeline, SampleStage, rng_for
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import composite
from lt.datagen.sources.shards import ShardSource
from lt.recipes.pictures import channels_first, fitted
from lt.recipes.system import Note
from lt.recipes.worlds import figures, made

HIGH, LOW = 32, 16
"""Sides in pixels: of the pictures that are learned and drawn, and of the small ones."""
SMALL = 0.7
"""Share of the mixture's pictures that exist only at `LOW`."""
DRAWN = 64
"""Side in pixels at which the world draws them."""
_GROUND = 225
"""Grey value behind the figure: no garment has it."""


@dataclass(frozen=True)
class Shrunk(SampleStage):
    """A figure alone at `high` pixels, or by chance at `low`, with one short caption: what the person wears, in English.

    Args:
        small: share of the samples that are left at `low` pixels; who they are depends on the key alone.
    """

    high: int
    low: int
    small: float
    name: ClassVar[str] = "shrunk"

    def process(self, sample: Sample) -> Sample:
        side = self.low if rng_for(0, "small", sample.key).random() < self.small else self.high
        said = sample.meta["layers"][0]["caption"]["en"]
        scale = side / sample.meta["width"]
        points = [[[x * scale, y * scale, seen] for x, y, seen in person] for person in sample.meta["keypoints"]]
        kept = {name: sample.meta[name] for name in ("figure", "background", "split", "source")}
        meta = kept | {"captions": {"en": [said]}, "keypoints": points, "width": side, "height": side}
        ground = np.full((sample.meta["height"], sample.meta["width"], 3), _GROUND, np.uint8)
        picture = fitted(composite(ground, [sample["layer-00.png"]]), side, side)
        pose = fitted(sample["pose.png"], self.high, self.high)
        return Sample(sample.key, {"png": picture, "pose.png": pose, "txt": said, "json": meta})


def shrunk(split: str, count: int, note: Note, small: float = 0.0) -> Path:
    """The folder of `count` such figures of a split; made if it is not there."""
    drawn = figures(split, count, DRAWN, note)
    folder = Path("data") / f"figures-{split}-{HIGH}px-{count}" / (f"small-{small:g}" if small else "")
    pipeline = Pipeline("shrunk-figures", ShardSource(str(drawn)), (Shrunk(HIGH, LOW, small),))
    return made(pipeline, folder, count, note)


@dataclass(frozen=True, eq=False)
class Orders:
    """What is to be drawn: test figures, whose captions and skeletons every model gets, with seeds from `first` on."""

    samples: list[Sample]
    first: int = 0

    @property
    def seeds(self) -> range:
        return range(self.first, self.first + len(self.samples))

    @cached_property
    def captions(self) -> list[str]:
        return [sample["txt"] for sample in self.samples]

    @cached_property
    def skeletons(self) -> Tensor:
        """float32 [n, 3, HIGH, HIGH] in 0..1."""
        return torch.from_numpy(np.stack([channels_first(sample["pose.png"]) for sample in self.samples])).float() / 255

    @cached_property
    def pictures(self) -> Tensor:
        """The true ones, uint8 [n, 3, HIGH, HIGH]."""
        return torch.from_numpy(np.stack([channels_first(sample.picture) for sample in self.samples]))
