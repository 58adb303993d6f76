"""Drawing: prompts and control pictures to shards of pictures, with one painter or several in Coop-Diffusion.

source = PromptSource(("a child in a red shirt",), count=4, seed=0, size=(64, 64))
run_pipeline(make_pipeline(source, Draw((painters.find("runs/a+runs/b"),), (), 64, 64)), out, workers=0)
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lt.datagen.engine.stage import Pipeline, Source, batched, model_time
from lt.datagen.shards import LtError, Reject, Sample, UsageError, open_shards
from lt.datagen.shards.codec import encode_image, to_rgb
from lt.datagen.shards.storage import atomic_file, digest_of
from lt.models.coop import Member, fading, joint_denoise
from lt.models.nn.diffusion import Guided
from lt.recipes.config import nearest
from lt.recipes.diffusion.pictures import channels_first, sheet, to_bytes
from lt.recipes.pangu import painters
from lt.recipes.pangu.painters import Located, Painter

GRID = "grid.png"
_MOST_SHOWN, _COLUMNS = 64, 8


@dataclass(frozen=True)
class Draw:
    """Fill in the picture (`png`) of every request, from its prompt, seed and control pictures.

    Args:
        members: the painters, the lead first; `weights` are the others' shares in Coop-Diffusion.
        controls: names of the control pictures to follow; each goes to every painter that has such a branch.
        width, height: of the pictures.
        steps, guidance: of sampling; the paper's are 40 and 6.
        batch: pictures at once; it does not change them beyond the rounding of sums.
    """

    members: tuple[Located, ...]
    controls: tuple[str, ...]
    width: int
    height: int
    weights: tuple[float, ...] = ()
    steps: int = 40
    guidance: float = 6.0
    batch: int = 8
    name: ClassVar[str] = "pangu"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for group in batched(samples, self.batch):
            with model_time():
                pictures = to_bytes(self._drawn(group))
            for sample, picture in zip(group, pictures, strict=True):
                sample["png"] = picture
                made = {"width": self.width, "height": self.height, "source": {"name": "lt sample pangu"}}
                sample.meta.update(made)
                yield sample

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"model": digest_of([member.digest for member in self.members]), "seed": sample.meta["seed"]}

    def check(self) -> list[Painter]:
        """The painters, loaded.

        Raises:
            LtError: see `painters.load`; a size that one of them cannot draw.
            UsageError: a control that none of them has; weights that are no shares.
        """
        loaded = [painters.load(member) for member in self.members]
        known = sorted({control for painter in loaded for control in painter.controls})
        for control in self.controls:
            if control not in known:
                hint = nearest(control, known) or f"Train one: lt train pangu --control {control}"
                raise UsageError(f"No control branch {control!r} here.", hint)
        for painter in loaded:
            factor = painter.space.factor
            if self.width % factor or self.height % factor:
                near = [max(factor, round(side / factor) * factor) for side in (self.width, self.height)]
                raise UsageError(
                    f"{self.width}x{self.height} cannot be drawn by {painter.name}: sides must be multiples of {factor}.",
                    f"Try --size {near[0]}x{near[1]}.",
                )
        if any(not 0 < weight <= 1 for weight in self.weights) or sum(self.weights) > 1:
            raise UsageError(
                f"Coop weights are {self.weights}.", "Each is above 0 and their sum at most 1: the lead has the rest."
            )
        return loaded

    def _drawn(self, group: Sequence[Sample]) -> Tensor:
        loaded = self.check()
        members = [self._member(place, painter, group, loaded[0]) for place, painter in enumerate(loaded)]
        seeds = [sample.meta["seed"] for sample in group]
        latents = joint_denoise(members, loaded[0].scheduler, steps=self.steps, seeds=seeds)
        with torch.no_grad():
            return loaded[0].space.decode(latents)

    def _member(self, place: int, painter: Painter, group: Sequence[Sample], lead: Painter) -> Member:
        prompts = [sample["txt"] for sample in group]
        condition, empty = painter.conditions(prompts, (self.width, self.height), self._hints(painter, group))
        guided = Guided(painter.model, condition, empty, self.guidance)
        weight = self.weights[place - 1] if place else 0.0
        shared = painter.space is lead.space
        # through pixels the autoencoders' error would pass wholly into the result near t = 0
        return Member(
            guided, painter.space, painter.latent_shape(self.width, self.height), weight if shared else fading(weight)
        )

    def _hints(self, painter: Painter, group: Sequence[Sample]) -> dict[str, Tensor]:
        wanted = [control for control in self.controls if control in painter.controls]
        return {name: torch.from_numpy(np.stack([_hint(sample, name) for sample in group])) for name in wanted}


def _hint(sample: Sample, control: str) -> np.ndarray:
    """float32 [3, h, w] in 0..1."""
    return channels_first(to_rgb(sample[f"{control}.png"])).astype(np.float32) / 255


def make_pipeline(source: Source, stage: Draw) -> Pipeline:
    """What the engine runs, in this process, where the models are. Raises LtError, see `Draw.check`."""
    stage.check()
    return Pipeline("pangu", source, (stage,))


def write_grid(folder: Path, controls: Sequence[str]) -> Path:
    """`grid.png` beside the shards that were drawn.

    Raises:
        LtError: nothing was drawn.
    """
    grid = folder / GRID
    with atomic_file(grid) as file:
        file.write(encode_image(overview(folder, controls), "png"))
    return grid


def overview(folder: Path, controls: Sequence[str]) -> np.ndarray:
    """The first pictures of a folder, uint8 RGB: rows of eight, the control pictures above what was drawn from them."""
    rows: list[list[np.ndarray]] = []
    if not len(open_shards(str(folder))):
        raise LtError(f"No sample of {folder} could be drawn.", f"`lt shards info {folder}` counts the reasons.")
    for group in batched(islice(open_shards(str(folder)), _MOST_SHOWN), _COLUMNS):
        rows += [[to_rgb(sample[f"{control}.png"]) for sample in group] for control in controls]
        rows.append([sample.picture for sample in group])
    return sheet(rows)
