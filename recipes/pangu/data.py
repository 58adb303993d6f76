"""What PanGu-Draw's rows add: windows for the texture generator, the control picture of a branch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lt.datagen.shards import Sample, SampleError
from lt.models.nn.control import HINT
from lt.recipes.diffusion import data
from lt.recipes.diffusion.controls import STORED
from lt.recipes.diffusion.pictures import channels_first, fitted
from lt.recipes.diffusion.worlds import build
from lt.recipes.pangu.settings import PanguSettings
from lt.recipes.system import Note


@dataclass(frozen=True)
class Row(data.Row):
    """A row of `diffusion.data`; with a control also `hint.<name>` uint8 [3, height, width].

    Args:
        control: name of the control picture, or "".
        window: side of the part of the latent that is cut out, at random in training, else in the middle; 0 = the whole.
    """

    control: str = ""
    window: int = 0

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        row = super().__call__(sample, rng)
        if self.control:
            width, height = sample.meta["latent"]["size"]
            row[HINT + self.control] = hint(sample, self.control, width, height)
        return row

    def latent(self, sample: Sample, bucket: int | None, rng: np.random.Generator | None) -> np.ndarray:
        whole = super().latent(sample, bucket, rng)
        return windowed(whole, self.window, rng) if self.window else whole


def windowed(latent: np.ndarray, side: int, rng: np.random.Generator | None) -> np.ndarray:
    """A square of `side` of a latent [c, h, w], drawn or in the middle: [c, side, side]."""
    room = [length - side for length in latent.shape[1:]]
    top, left = (int(rng.integers(free + 1)) if rng is not None else free // 2 for free in room)
    return latent[:, top : top + side, left : left + side]


def hint(sample: Sample, control: str, width: int, height: int) -> np.ndarray:
    """The control picture of a cached sample, uint8 [3, height, width]. Raises SampleError `no-pose`, `no-edge`."""
    name = f"{control}.png"
    if name not in sample:
        raise SampleError(f"no-{control}", f"there is no {name}")
    return channels_first(fitted(sample[name][..., :3] if sample[name].ndim == 3 else sample[name], width, height))


def world(settings: PanguSettings, note: Note) -> tuple[list[str], str]:
    """Figures and scenes; figures alone where a control picture is needed that scenes do not hold."""
    return build(settings.world, note, only_figures=settings.model.control in STORED)


def prepare(settings: PanguSettings, train: Sequence[str], validation: str, note: Note) -> tuple[list[str], str]:
    """See `diffusion.data.prepare`."""
    model = settings.model
    return data.prepare(settings, train, validation, note, control=model.control, name=model.generator)
