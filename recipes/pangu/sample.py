"""Drawing: prompts and control pictures to shards of pictures, with one painter or several in Coop-Diffusion.

source = PromptSource(("a child in a red shirt",), count=4, seed=0, size=(64, 64))
run_pipeline(make_pipeline(source, Draw((painters.find("runs/a+runs/b"),), (), 64, 64)), out, workers=0)
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
from lt.models.coop import HandOver, Member, fading, hand_over
from lt.models.nn.diffusion import Guided
from lt.models.nn.sampling import Solver, restart_history
from lt.recipes.config import nearest
from lt.recipes.diffusion.pictures import Size, channels_first, fitted, sheet, to_bytes
from lt.recipes.pangu import painters
from lt.recipes.pangu.painters import Located, Painter

T_LOW = 500
"""Where a model of low resolution hands over: the paper's value is not recoverable, the split of its generators is 500."""
GRID = "grid.png"
_MOST_SHOWN, _COLUMNS = 64, 8


@dataclass(frozen=True)
class LowStart:
    """A painter of low resolution that begins, and hands its clean guess over at t = `T_LOW`; its size in pixels."""

    painter: Located
    width: int
    height: int


@dataclass(frozen=True)
class Draw:
    """Fill in the picture (`png`) of every request, from its prompt, seed and control pictures.

    Args:
        members: the painters, the lead first; `weights` are the others' shares in Coop-Diffusion.
        controls: names of the control pictures to follow; each goes to every painter that has such a branch.
        width, height: of the pictures.
        steps, guidance: of sampling; the paper's are 40 and 6.
        styles: pairs of a text that stands before the prompt and the scale of this style (the paper's aesthetic scale is 4).
        low: what begins at a lower resolution.
        batch: pictures at once; it does not change them beyond the rounding of sums.
    """

    members: tuple[Located, ...]
    controls: tuple[str, ...]
    width: int
    height: int
    weights: tuple[float, ...] = ()
    steps: int = 40
    guidance: float = 6.0
    styles: tuple[tuple[str, float], ...] = ()
    low: LowStart | None = None
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
        return {"model": digest_of([located.digest for located, _ in self._sized]), "seed": sample.meta["seed"]}

    @property
    def _sized(self) -> list[tuple[Located, Size]]:
        """Every painter with the size that it draws, the one of low resolution last."""
        sized = [(member, (self.width, self.height)) for member in self.members]
        return sized + ([(self.low.painter, (self.low.width, self.low.height))] if self.low else [])

    def check(self) -> None:
        """Load the painters and see whether they can do what is wanted.

        Raises:
            LtError: see `painters.load`; a scheduler that cannot begin where the low resolution ends.
            UsageError: a control that none of them has; a size that one of them cannot draw; weights that are no shares; too few
                steps.
        """
        loaded = [(painters.load(located), size) for located, size in self._sized]
        _check_controls(self.controls, [painter for painter, _ in loaded])
        for painter, size in loaded:
            _check_size(painter, size)
        if any(not 0 < weight <= 1 for weight in self.weights) or sum(self.weights) > 1:
            raise UsageError(
                f"Coop weights are {self.weights}.", "Each is above 0 and their sum at most 1: the lead has the rest."
            )
        if self.low:
            _check_hand_over(loaded[0][0].scheduler, self.steps)

    def _drawn(self, group: Sequence[Sample]) -> Tensor:
        lead = painters.load(self.members[0])
        size = (self.width, self.height)
        members = [self._member(one, size, group) for one in self.members]
        for place, weight in enumerate(self.weights, start=1):
            shared = members[place].space is lead.space
            # through pixels the autoencoders' error would pass wholly into the result near t = 0
            members[place] = replace(members[place], weight=weight if shared else fading(weight))
        groups = [HandOver(members)]
        if self.low:
            begins = self._member(self.low.painter, (self.low.width, self.low.height), group)
            groups = [HandOver([begins], T_LOW), *groups]
        seeds = [sample.meta["seed"] for sample in group]
        latents = hand_over(groups, lead.scheduler, steps=self.steps, seeds=seeds)
        with torch.no_grad():
            return lead.space.decode(latents)

    def _member(self, located: Located, size: Size, group: Sequence[Sample]) -> Member:
        painter = painters.load(located)
        prompts = [sample["txt"] for sample in group]
        wanted = [control for control in self.controls if control in painter.controls]
        hints = {name: torch.from_numpy(np.stack([_hint(sample, name, size) for sample in group])) for name in wanted}
        condition, empty = painter.conditions(prompts, size, hints)
        styles = [
            (scale, painter.conditions([f"{style} {prompt}" for prompt in prompts], size, hints)[0])
            for style, scale in self.styles
            if scale
        ]
        guided = Guided(painter.model, condition, empty, self.guidance, tuple(styles))
        return Member(guided, painter.space, painter.latent_shape(*size))


def _check_controls(controls: Sequence[str], loaded: Sequence[Painter]) -> None:
    known = sorted({control for painter in loaded for control in painter.controls})
    for control in controls:
        if control not in known:
            hint = nearest(control, known) or f"Train one: lt train pangu --control {control}"
            raise UsageError(f"No control branch {control!r} here.", hint)


def _check_size(painter: Painter, size: Size) -> None:
    factor = painter.space.factor
    if any(side % factor for side in size):
        near = [max(factor, round(side / factor) * factor) for side in size]
        raise UsageError(
            f"{size[0]}x{size[1]} cannot be drawn by {painter.name}: sides must be multiples of {factor}.",
            f"Try {near[0]}x{near[1]}.",
        )


def _check_hand_over(scheduler: Any, steps: int) -> None:
    """Whether the scheduler can begin in the middle, and steps lie on both sides of `T_LOW`."""
    try:
        restart_history(copy.deepcopy(scheduler))
    except ValueError as error:
        raise LtError(
            f"Nothing can be handed over to this model: {error}.", "Its scheduler_config.json names the scheduler."
        ) from None
    ladder = Solver(scheduler, steps, torch.zeros(1)).timesteps
    if not 0 < int((ladder > T_LOW).sum()) < len(ladder):
        raise UsageError(
            f"--steps {steps} leaves no step to one side of t = {T_LOW}, where the low resolution ends.",
            "Take at least --steps 2.",
        )


def _hint(sample: Sample, control: str, size: Size) -> np.ndarray:
    """float32 [3, h, w] in 0..1."""
    return channels_first(fitted(to_rgb(sample[f"{control}.png"]), *size)).astype(np.float32) / 255


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
