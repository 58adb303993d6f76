"""Settings of `lt train pangu`, and what follows from them."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lt.models import pangu
from lt.models.nn.unet import PANGU, SD15, SD21, TINY, TINY_WHOLE, UNetShape
from lt.models.pangu import BUCKETS_512, BUCKETS_1024, TrainingStage
from lt.recipes.config import Section, Settings, free
from lt.recipes.diffusion.worlds import WorldSettings

UNETS: dict[str, UNetShape] = {"tiny": TINY, "tiny-whole": TINY_WHOLE, "sd15": SD15, "sd21": SD21, "pangu": PANGU}
BUCKETS = {512: BUCKETS_512.sizes, 1024: BUCKETS_1024.sizes}
"""The released lists of sizes, by the side of their square."""
DEFAULT_AUTOENCODER = "runs/vae-tiny"


def _released(value: Any) -> Any:
    return BUCKETS.get(value, value) if isinstance(value, int) else value


class ModelSettings(Section):
    """One generator, or one control branch of it."""

    generator: Literal["structure", "texture", "whole"] = "structure"
    """`structure` learns t >= t_struct, `texture` t < t_struct (PanGu-Draw's two halves); `whole` learns all, for comparison."""
    unet: Literal["tiny", "tiny-whole", "sd15", "sd21", "pangu"] = "tiny"
    """Shape of the U-Net; `tiny` has half the size and cost of `tiny-whole`; `pangu`, the paper's, also reads the pooled
    text and the bucket's number."""
    t_struct: int = Field(default=pangu.T_STRUCT, gt=0, lt=1000)
    """Where the time line is split (of 1000 steps)."""
    high: int = Field(default=64, ge=8)
    """Side in pixels of the squares that `structure` and `whole` learn from; smaller pictures are enlarged."""
    low: int = Field(default=32, ge=8)
    """Side in pixels of the squares that `texture` learns from; pictures whose shorter side is less are left out."""
    windows: bool = False
    """With `texture`: learn from windows of `low` pixels, cut at random out of squares of `high` pixels, instead of pictures
    brought to `low`; pictures smaller than `high` are left out. A drawing at half size has other outlines."""
    buckets: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_released)] = ()
    """Instead of squares: sizes [width, height] in pixels, of which each picture takes the nearest in aspect; 512 or 1024 is
    the paper's list. Which pictures are left out, `low` and `high` still say. Batches hold one size each."""
    drop_small: bool = False
    """With `whole`: leave pictures out whose shorter side is less than `high`, instead of enlarging them."""
    autoencoder: str = DEFAULT_AUTOENCODER
    """The latent space: a run of `lt train vae`, or a diffusers folder."""
    text: tuple[str, ...] = ()
    """Folders of frozen text encoders (transformers or diffusers format), set side by side; none = a small one of its own. The
    pooled text is that of the last one with a projection (CLIPTextModelWithProjection)."""
    text_length: int = Field(default=77, ge=4)
    """Places for tokens with frozen encoders; the small one has 64."""
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """What the U-Net predicts."""
    min_snr: float = Field(default=0.0, ge=0)
    """Min-SNR weighting (arXiv 2303.09556) with this gamma; 0 = plain mean square error, as in the paper."""
    offset_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of a constant per channel that is added to the noise."""
    drop_text: float = Field(default=0.1, ge=0, le=1)
    """Share of samples that learn without their caption, for classifier-free guidance."""
    control: Literal["", "pose", "edge", "layout", "color"] = ""
    """Train this control branch instead of the generator, which stays as it is in `base`."""
    base: str = ""
    """With `control`: the generator that the branch steers: run, checkpoint, or diffusers folder (Stable Diffusion 1 or 2)."""
    checkpointing: bool = free(False)
    """Compute the U-Net's blocks again in the backward pass instead of keeping what they computed: less memory, more time."""
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

    @model_validator(mode="after")
    def _bucket_is_told(self) -> "ModelSettings":
        shape = UNETS[self.unet]
        if shape.ids and not self.buckets:
            raise ValueError(f"the U-Net {self.unet} is told the number of a bucket: set model.buckets, such as 1024")
        if shape.pooled_width and not self.text:
            raise ValueError(f"the U-Net {self.unet} reads pooled text: name frozen encoders in model.text")
        if any(min(size) < 8 for size in self.buckets) or len(self.buckets) not in (0, *range(2, 100)):
            raise ValueError("buckets are 2 to 99 sizes [width, height] of at least 8 pixels")
        return self

    @property
    def kept(self) -> tuple[int, int]:
        """Side in pixels that pictures are brought to before they are encoded, and shorter side of the smallest that are kept."""
        return (self.high, self.high) if self.windows else (self.stage.size, self.stage.keep_from)

    @property
    def stage(self) -> TrainingStage:
        """The generator's timesteps, size and data policy, as models/pangu.py states them."""
        if self.generator == "whole":
            return pangu.monolithic(self.high, self.high if self.drop_small else 0)[0]
        structure, texture = pangu.time_decoupled(self.high, self.low, self.t_struct)
        return structure if self.generator == "structure" else texture


class PanguSettings(Settings):
    """Settings of `lt train pangu`."""

    model: ModelSettings = ModelSettings()
    world: WorldSettings = WorldSettings()
