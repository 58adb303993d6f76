"""PanGu-Draw: time-decoupled training. Two half-size generators, one for large t, one for small t, trained apart.

Paper: Lu et al., "PanGu-Draw: Advancing Resource-Efficient Text-to-Image Synthesis with Time-Decoupled Training and
Reusable Coop-Diffusion", arXiv 2312.16486, and the released inference code (mindone, pangu_draw_v3). Coop-Diffusion is
in ``coop.py``.

Faithful: the split at T_struct = 500 of 1000 steps; epsilon prediction on Stable Diffusion's scaled-linear schedule;
structure learns from all data with small pictures enlarged, texture only from the sharp part at the lower resolution;
both share latent space, text features and start noise, and nothing is re-noised at the switch; SDXL-like U-Net with the
index of the size bucket instead of pixel sizes; the released size buckets; style guidance (``nn.diffusion.guide``).

Different, and why: the released sampler picks the network by the *previous* step's index, so one step below 500 is
still answered by the structure generator, which never learned it; here the current t decides. Multistep solvers restart
at the switch, because their history is another network's. Optimiser, learning rate and the accounting behind the
paper's efficiency table are not recoverable: the ledger below states its own arithmetic.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from lt.models.nn.diffusion import Condition, Denoiser

T_STRUCT = 500
_TIMESTEPS, _STEPS = 1000, 40


class TimeDecoupled(Denoiser):
    """Several generators that share the time line: at every t exactly one answers, chosen by the t that is asked for.

    It is a :class:`Denoiser` over all timesteps, so it samples, validates and joins Coop-Diffusion like a single model.
    Training happens on the generators, one at a time (their own ``loss`` draws only from their own timesteps).

    Args:
        generators: denoisers whose ``timesteps`` tile ``0..T-1``, in any order; PanGu-Draw has two (structure, texture).

    Raises:
        ValueError: gaps or overlaps in time, or generators of different schedules or prediction types.
    """

    def __init__(self, *generators: Denoiser):
        ordered = sorted(generators, key=lambda one: one.timesteps.start, reverse=True)
        first = ordered[0]
        super().__init__(nn.Identity(), first.schedule, prediction_type=first.prediction_type)
        edges = [one.timesteps.stop for one in ordered] + [0]
        if edges[0] != self.schedule.num_train_timesteps or edges[1:] != [one.timesteps.start for one in ordered]:
            raise ValueError(f"generators must tile 0..T-1, got {[str(one.timesteps) for one in ordered]}")
        if {(one.schedule, one.prediction_type) for one in ordered} != {(self.schedule, self.prediction_type)}:
            raise ValueError("generators differ in schedule or prediction type: they could not share one sampling run")
        self.generators = nn.ModuleList(ordered)

    def segment(self, t: Tensor | float) -> int:
        """Index, from large t to small, of the generator that answers at ``t`` (a fraction between two is the lower one's)."""
        starts = [one.timesteps.start for one in self._ordered]
        return next(index for index, start in enumerate(starts) if float(t) >= start)

    @property
    def _ordered(self) -> list[Denoiser]:
        return list(self.generators)  # pyright: ignore[reportReturnType]

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Raw output ``[b, ...]``; ``t`` scalar, or ``[b]`` with different generators inside one batch."""
        if t.ndim == 0:
            return self._ordered[self.segment(t)](z, t, condition)
        segments = torch.tensor([self.segment(one) for one in t.tolist()], device=z.device)
        output = None
        for index in segments.unique().tolist():
            rows = (segments == index).nonzero().squeeze(1)
            part = self._ordered[index](z[rows], t[rows], {name: value[rows] for name, value in condition.items()})
            output = part.new_empty((len(z), *part.shape[1:])) if output is None else output
            output[rows] = part
        assert output is not None, "an empty batch"
        return output


@dataclass(frozen=True)
class SizeBuckets:
    """Allowed picture sizes; networks are told the *index* of the size, so a size outside the list has no embedding.

    Attributes:
        sizes: (width, height) in pixels, in the order that gives the index.
    """

    sizes: tuple[tuple[int, int], ...]

    def nearest(self, width: int, height: int) -> int:
        """Index of the bucket with the nearest aspect ratio (in logarithm, so that 2:1 and 1:2 are equally far from 1:1)."""
        wanted = math.log(width / height)
        return min(range(len(self.sizes)), key=lambda i: abs(math.log(self.sizes[i][0] / self.sizes[i][1]) - wanted))

    def ids(self, width: int, height: int, count: int) -> Tensor:
        """The condition ``ids`` ``[count, 1]``, float32, that tells a U-Net of the PanGu shape exactly this size.

        Raises:
            ValueError: no such bucket; the message lists them.
        """
        if (width, height) not in self.sizes:
            known = ", ".join(f"{w}x{h}" for w, h in self.sizes)
            raise ValueError(f"{width}x{height} is no size this model has learned; its sizes: {known}")
        return torch.full((count, 1), float(self.sizes.index((width, height))))


# As in the released inference code, in its order.
BUCKETS_512 = SizeBuckets(
    ((256, 1024), (256, 960), (320, 768), (384, 640), (448, 576), (512, 512))
    + ((576, 448), (640, 384), (768, 320), (960, 256), (1024, 256))
)
BUCKETS_1024 = SizeBuckets(
    ((512, 2048), (512, 1920), (768, 1536), (864, 1536), (960, 1280))
    + ((1024, 1024), (1280, 960), (1536, 768), (1920, 512), (2048, 512))
)


@dataclass(frozen=True)
class TrainingStage:
    """One training of a scheme, with the paper's data and resolution policy as data.

    Attributes:
        name: of the generator.
        timesteps: what it learns.
        size: side of the square that training pictures are brought to, in pixels.
        keep_from: pictures whose shorter side is below it are not used; 0 keeps all, small ones are enlarged to ``size``.
        network: "whole", or "half" of the parameters.
        start: the side whose result it starts from when sampling a cascade, 0 for noise.
    """

    name: str
    timesteps: range
    size: int
    keep_from: int
    network: Literal["whole", "half"] = "whole"
    start: int = 0

    def keeps(self, width: int, height: int) -> bool:
        """Whether a picture of this size takes part."""
        return min(width, height) >= self.keep_from

    def enlarges(self, width: int, height: int) -> bool:
        """Whether a picture that takes part is blurred by enlarging it to the training size."""
        return min(width, height) < self.size


def time_decoupled(high: int = 1024, low: int = 512, t_struct: int = T_STRUCT) -> tuple[TrainingStage, ...]:
    """PanGu-Draw's scheme: structure at ``high`` on everything, texture at ``low`` on what is at least ``low``."""
    return (
        TrainingStage("structure", range(t_struct, _TIMESTEPS), high, 0, "half"),
        TrainingStage("texture", range(t_struct), low, low, "half"),
    )


def monolithic(size: int = 1024, keep_from: int = 0) -> TrainingStage:
    """One whole model on all timesteps; ``keep_from`` says whether small pictures are enlarged (0) or dropped (``size``)."""
    return TrainingStage("whole", range(_TIMESTEPS), size, keep_from)


SCHEMES: dict[str, tuple[TrainingStage, ...]] = {
    "time-decoupled": time_decoupled(),
    # the usual scheme: one whole model at low, then the same model at high resolution; small pictures are dropped at both
    "resolution-boost": (
        TrainingStage("low", range(_TIMESTEPS), 512, 512),
        TrainingStage("high", range(_TIMESTEPS), 1024, 1024),
    ),
    # three whole models, each starting from the picture of the one before
    "cascaded": (
        TrainingStage("base", range(_TIMESTEPS), 256, 0),
        TrainingStage("upsampler", range(_TIMESTEPS), 512, 512, start=256),
        TrainingStage("upsampler-2", range(_TIMESTEPS), 1024, 1024, start=512),
    ),
    "monolithic": (monolithic(),),
}
"""What the paper's efficiency table compares, at its sizes."""


@dataclass(frozen=True)
class LedgerRow:
    """What one stage of a scheme uses and costs.

    Attributes:
        images: pictures that take part; ``enlarged`` of them were enlarged.
        training: multiply-adds of all training passes (forward and backward = 3 forwards, by the usual count).
        sampling: multiply-adds that the stage spends on one sampled picture.
    """

    stage: str
    images: int
    enlarged: int
    training: float
    sampling: float


def ledger(
    stages: Sequence[TrainingStage],
    sizes: Sequence[tuple[int, int]],
    forward_cost: Callable[[TrainingStage, int], float],
) -> list[LedgerRow]:
    """The arithmetic of data and cost: what the paper's efficiency table compares, by a stated rule.

    Training: every stage sees each of its pictures once, at three forward passes' worth. Sampling takes 40 steps without
    guidance (which multiplies all schemes alike): a scheme whose stages cover different timesteps divides them among its
    stages, at its highest resolution; a resolution boost samples with its last stage only; a cascade runs every stage in full
    at its own size.

    Args:
        sizes: (width, height) of every picture of the collection.
        forward_cost: multiply-adds of one forward pass of a stage's network on a square of the given side
            (``nn.unet.multiply_adds`` with the latent's side, or a measured figure).
    """
    highest = max(stage.size for stage in stages)
    whole_line = sum(len(stage.timesteps) for stage in stages)
    cascade = any(stage.start for stage in stages)
    apart = whole_line == max(stage.timesteps.stop for stage in stages)
    rows = []
    for place, stage in enumerate(stages):
        kept = [size for size in sizes if stage.keeps(*size)]
        enlarged = sum(stage.enlarges(*size) for size in kept)
        training = 3 * len(kept) * forward_cost(stage, stage.size)
        if cascade:
            sampling = _STEPS * forward_cost(stage, stage.size)
        elif apart:
            sampling = _STEPS * len(stage.timesteps) / whole_line * forward_cost(stage, highest)
        else:
            sampling = _STEPS * forward_cost(stage, stage.size) if place == len(stages) - 1 else 0.0
        rows.append(LedgerRow(stage.name, len(kept), enlarged, training, sampling))
    return rows


def images_used(stages: Sequence[TrainingStage], sizes: Sequence[tuple[int, int]]) -> int:
    """How many different pictures of a collection any stage of a scheme uses."""
    return sum(any(stage.keeps(*size) for stage in stages) for size in sizes)
