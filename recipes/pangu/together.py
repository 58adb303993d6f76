"""Painters draw together: Coop-Diffusion, a start at low resolution, styles; what users call and what the study measures."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lt.datagen.shards import LtError, Sample, UsageError
from lt.models.coop import HandOver, Member, fading, hand_over
from lt.models.nn.diffusion import Guided
from lt.models.nn.sampling import Solver, restart_history
from lt.recipes.draw.painters import Painter, PainterFiles, open_painter
from lt.recipes.draw.stage import Draw
from lt.recipes.pictures import Size

T_LOW = 500
"""Where a model of low resolution hands over: the paper's value is not recoverable, the split of its generators is 500."""


def member(painter: Painter, guided: Guided, size: Size, weight: float = 0.0, lead: Painter | None = None) -> Member:
    """A painter that draws together with others, of which `lead` leads; None where it leads itself.

    The weight in another latent space than the lead's fades to zero from t = 300 to 200: through pixels, the autoencoders'
    error would pass wholly into the result near t = 0.
    """
    if lead is None or painter.autoencoder != lead.autoencoder:
        return Member(guided, painter.space, painter.latent_shape(*size), fading(weight) if lead else weight)
    return Member(guided, lead.space, painter.latent_shape(*size), weight)


def draw_together(lead: Painter, groups: Sequence[HandOver], seeds: Sequence[int], steps: int, **how: Any) -> Tensor:
    """Pictures [b, 3, h, w] in about -1..1, by groups of members that draw one after the other.

    Args:
        lead: of the last group, whose latent space the result is in; all walk down the ladder of its scheduler.
        how: see `joint_denoise`.
    """
    return lead.decoded(hand_over(groups, lead.scheduler, steps=steps, seeds=seeds, **how))


@dataclass(frozen=True)
class DrawTogether(Draw):
    """One painter or several fill in the pictures.

    Args:
        others: painters that draw along with the lead; `weights` are their shares.
        styles: pairs of a text that stands before the prompt and the scale of this style (the paper's aesthetic scale is 4).
        low: a painter of low resolution, and its size in pixels, that begins, and hands its clean guess over at t = `T_LOW`.
    """

    others: tuple[PainterFiles, ...] = ()
    weights: tuple[float, ...] = ()
    styles: tuple[tuple[str, float], ...] = ()
    low: tuple[PainterFiles, Size] | None = None
    name: ClassVar[str] = "pangu"

    @property
    def painters(self) -> list[tuple[PainterFiles, Size]]:
        """The lead, the others, the one of low resolution last."""
        return [(files, self.size) for files in (self.painter, *self.others)] + ([self.low] if self.low else [])

    def check(self) -> None:
        """See `Draw.check`.

        Raises:
            LtError: a scheduler that cannot begin where the low resolution ends.
            UsageError: weights that are no shares; too few steps.
        """
        super().check()
        if any(not 0 < weight <= 1 for weight in self.weights) or sum(self.weights) > 1:
            raise UsageError(
                f"Coop weights are {self.weights}.", "Each is above 0 and their sum at most 1: the lead has the rest."
            )
        if self.low:
            _check_hand_over(open_painter(self.painter).scheduler, self.steps)

    def drawn(self, group: Sequence[Sample], **how: Any) -> Tensor:
        if not self.others and not self.low:
            return super().drawn(group, styles=self.styles, **how)
        lead = open_painter(self.painter)
        weighted = zip((self.painter, *self.others), (0.0, *self.weights), strict=True)
        members = [self._member(files, self.size, group, weight=weight, lead=lead) for files, weight in weighted]
        groups = [HandOver([self._member(*self.low, group)], T_LOW)] if self.low else []
        seeds, hook = [sample.meta["seed"] for sample in group], how.pop("hook", None)
        return draw_together(lead, [*groups, HandOver(members, hook=hook)], seeds, self.steps, **how)

    def _member(self, files: PainterFiles, size: Size, group: Sequence[Sample], **how: Any) -> Member:
        """`how`: weight and lead, see `member`."""
        painter = open_painter(files)
        prompts, hints = [sample["txt"] for sample in group], self.hints(painter, group, size)
        return member(painter, painter.told(prompts, size, self.guidance, hints, self.styles), size, **how)


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
