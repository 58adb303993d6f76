"""PanGu-Draw in training: one generator (structure, texture or whole), or one control branch of a generator.

The generators are trained apart, as in the paper, in one latent space. A branch's checkpoint names its frozen generator.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from lt.datagen.shards import LtError, Sample
from lt.models.nn.control import HINT, control_branch
from lt.recipes.diffusion import bases, data, objective
from lt.recipes.diffusion.controls import STORED, control_picture
from lt.recipes.diffusion.objective import DiffusionObjective
from lt.recipes.diffusion.unets import is_pipeline
from lt.recipes.diffusion.worlds import build
from lt.recipes.pangu.settings import PanguSettings
from lt.recipes.pictures import channels_first
from lt.recipes.registry import Recipe
from lt.recipes.system import Note
from lt.recipes.training.objective import Objective


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
            size = sample.meta["latent"]["size"]
            row[HINT + self.control] = channels_first(control_picture(sample, self.control, size))
        return row

    def latent(self, sample: Sample, bucket: int | None, rng: np.random.Generator | None) -> np.ndarray:
        whole, side = super().latent(sample, bucket, rng), self.window
        if not side:
            return whole
        room = [length - side for length in whole.shape[1:]]
        top, left = (int(rng.integers(free + 1)) if rng is not None else free // 2 for free in room)
        return whole[:, top : top + side, left : left + side]


class PanguObjective(DiffusionObjective):
    """A `Denoiser` over the generator's part of the time line."""

    settings: PanguSettings

    def __init__(self, settings: PanguSettings):
        super().__init__(settings)
        self.branch: Any = None
        if settings.model.control:
            self._steer()

    def _steer(self) -> None:
        """Take over the generator in `base` as it is; the branch starts as a copy of its encoder (ControlNet)."""
        model = self.settings.model
        self.take(model.base, "model.base")
        self.branch = control_branch(self.unet, self.space.factor, model.hint_widths)
        if model.checkpointing:
            self.branch.enable_gradient_checkpointing()
        self.modules = {"branch": self.branch}
        self.denoiser.network = self.network({model.control: self.branch})

    def take_pipeline(self, where: str) -> str:
        if self.settings.model.generator != "whole":
            raise LtError(f"What is built on {where} learns over the whole time line.", "--set model.generator=whole")
        return super().take_pipeline(where)

    def check_base(self, base: DiffusionObjective, where: Path) -> None:
        super().check_base(base, where)
        model, theirs = self.settings.model, cast(PanguObjective, base).settings.model
        if theirs.control or (theirs.stage, theirs.buckets) != (model.stage, model.buckets):
            raise LtError(
                f"{where} is no {model.generator} generator at {model.stage.size} pixels.",
                "Name one, or change model.generator, t_struct, high, low and buckets.",
            )

    def example(self) -> Row:
        model = self.settings.model
        window = model.trained_side // self.space.factor if model.windows else 0
        told = bool(model.buckets), bool(self.shape.ids)
        return Row(self.located.digest, self.texts, self.tokenizer, *told, model.control, window)

    def export(self, folder: Path) -> None:
        """A branch is written with its generator, as a pipeline with a ControlNet. See `DiffusionObjective.export`.

        Each generator becomes a pipeline of its own: diffusers' pipelines know one U-Net, so PanGu-Draw's two draw together only
        through `lt sample pangu`.
        """
        if self.branch is None:
            super().export(folder)
        else:
            self.pipeline([self.branch]).save_pretrained(folder)


def restore(where: Path) -> PanguObjective:
    """A trained generator or branch, in eval mode. Raises as `diffusion.objective.restored` does."""
    return cast(PanguObjective, objective.restored(where, "pangu"))


def outline(settings: PanguSettings) -> Objective | None:
    """See `Recipe.outline`. A branch needs its generator."""
    return None if settings.model.control else objective.outline(settings)


def completes(settings: PanguSettings) -> list[str]:
    """After the structure generator: the texture generator, and the branches for the controls that figures hold."""
    if settings.model.generator != "structure" or settings.model.control:
        return []
    return [f"tiny-{part}" for part in ("texture", *STORED)]


def inherited(settings: PanguSettings) -> Mapping[str, Any]:
    """See `Recipe.inherited`. Only an adapter learns from windows as its base did."""
    if is_pipeline(settings.base):
        return {**bases.inherited(settings), "model.generator": "whole"}
    own = ("generator", "t_struct", "high", "low", "drop_small") + (() if settings.model.control else ("windows",))
    return bases.inherited(settings, own)


def world(settings: PanguSettings, note: Note) -> tuple[list[str], str]:
    """Figures and scenes; figures alone where a control picture is needed that scenes do not hold."""
    return build(settings.world, note, only_figures=settings.model.control in STORED)


def prepare(settings: PanguSettings, train: Sequence[str], validation: str, note: Note) -> tuple[list[str], str]:
    """See `diffusion.data.prepare`."""
    model = settings.model
    return data.prepare(settings, train, validation, note, control=model.control, name=model.generator)


RECIPE = Recipe(
    name="pangu",
    settings=PanguSettings,
    objective=PanguObjective,
    world=world,
    folder=Path(__file__).parent,
    prepare=prepare,
    completes=completes,
    inherited=inherited,
    outline=outline,
)
