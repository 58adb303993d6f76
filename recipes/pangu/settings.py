"""Settings of `lt train pangu`, and what follows from them."""

from typing import Literal

from pydantic import Field, model_validator

from lt.models import pangu
from lt.models.pangu import TrainingStage
from lt.recipes.config import free
from lt.recipes.diffusion.settings import DenoiserSettings, DiffusionSettings


class ModelSettings(DenoiserSettings):
    """One generator, or one control branch of it."""

    generator: Literal["structure", "texture", "whole"] = "structure"
    """`structure` learns t >= t_struct, `texture` t < t_struct (PanGu-Draw's two halves); `whole` learns all, for comparison."""
    t_struct: int = Field(default=pangu.T_STRUCT, gt=0, lt=1000)
    """Where the time line is split (of 1000 steps)."""
    high: int = Field(default=64, ge=8)
    """Side in pixels of the squares that `structure` and `whole` learn from; smaller pictures are enlarged. With `buckets`, this
    and `low` still say which pictures are left out."""
    low: int = Field(default=32, ge=8)
    """Side in pixels of the squares that `texture` learns from; pictures whose shorter side is less are left out."""
    windows: bool = False
    """With `texture`: learn from windows of `low` pixels, cut at random out of squares of `high` pixels, instead of pictures
    brought to `low`; pictures smaller than `high` are left out. A drawing at half size has other outlines."""
    drop_small: bool = False
    """With `whole`: leave pictures out whose shorter side is less than `high`, instead of enlarging them."""
    control: Literal["", "pose", "edge", "layout", "color"] = ""
    """Train this control branch instead of the generator, which stays as it is in `base`."""
    base: str = free("")
    """With `control`: the generator that the branch steers: run, checkpoint, or diffusers folder (Stable Diffusion 1 or 2)."""
    hint_widths: tuple[int, ...] = (16, 32, 64, 128)
    """With `control`: widths of the encoder of the control picture, of which the first are taken, one more than the latent's
    halvings."""

    @model_validator(mode="after")
    def _control_has_a_base(self) -> "ModelSettings":
        if bool(self.control) != bool(self.base):
            raise ValueError("control and base go together: a branch steers the generator of a run")
        return self

    @model_validator(mode="after")
    def _windows_fit(self) -> "ModelSettings":
        if self.windows and (self.generator != "texture" or self.control or self.buckets or self.low > self.high):
            raise ValueError(
                "windows are for the texture generator, without control and buckets, and low is at most high"
            )
        return self

    @property
    def stage(self) -> TrainingStage:
        """The generator's timesteps, size and data policy, as models/pangu.py states them."""
        if self.generator == "whole":
            return pangu.monolithic(self.high, self.high if self.drop_small else 0)
        structure, texture = pangu.time_decoupled(self.high, self.low, self.t_struct)
        return structure if self.generator == "structure" else texture

    @property
    def side(self) -> int:
        return self.high

    @property
    def trained_side(self) -> int:
        return self.stage.size

    @property
    def kept(self) -> tuple[int, int]:
        return (self.high, self.high) if self.windows else (self.stage.size, self.stage.keep_from)

    @property
    def timesteps(self) -> range:
        return self.stage.timesteps


class PanguSettings(DiffusionSettings):
    """Settings of `lt train pangu`."""

    model: ModelSettings = ModelSettings()

    @property
    def base(self) -> str:
        return self.lora.base or self.model.base

    @model_validator(mode="after")
    def _one_beside_the_generator(self) -> "PanguSettings":
        if self.lora.rank and self.model.control:
            raise ValueError("a control branch has no adapter: it is trained beside a generator that stays as it is")
        return self
