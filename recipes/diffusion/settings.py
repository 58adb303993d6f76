"""Settings that all systems share that denoise latents from captions."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from lt.models.nn.unet import PANGU, SD15, SD21, TINY, TINY_WHOLE, UNetShape
from lt.models.pangu import BUCKETS_512, BUCKETS_1024
from lt.recipes.config import Section, Settings, free
from lt.recipes.diffusion.worlds import WorldSettings
from lt.recipes.words import WordSettings

UNETS: dict[str, UNetShape] = {"tiny": TINY, "tiny-whole": TINY_WHOLE, "sd15": SD15, "sd21": SD21, "pangu": PANGU}
BUCKETS = {512: BUCKETS_512.sizes, 1024: BUCKETS_1024.sizes}
"""The released lists of sizes, by the side of their square."""
DEFAULT_AUTOENCODER = "runs/vae-tiny"


def _released(value: Any) -> Any:
    return BUCKETS.get(value, value) if isinstance(value, int) else value


class DenoiserSettings(Section):
    """A U-Net that denoises latents, and what tells it the caption. Systems add what is theirs, `side` at least."""

    unet: Literal["tiny", "tiny-whole", "sd15", "sd21", "pangu"] = "tiny"
    """Shape of the U-Net; `tiny` has half the size and cost of `tiny-whole`; `pangu`, the paper's, also reads the pooled
    text and the bucket's number."""
    buckets: Annotated[tuple[tuple[int, int], ...], BeforeValidator(_released)] = ()
    """Instead of squares: sizes [width, height] in pixels, of which each picture takes the nearest in aspect; 512 or 1024 is
    PanGu-Draw's list. Batches hold one size each."""
    autoencoder: str = DEFAULT_AUTOENCODER
    """The latent space: a run of `lt train vae`, a diffusers folder, or a name on Hugging Face's hub (owner/name[@revision])."""
    text: tuple[str, ...] = ()
    """Frozen text encoders, set side by side: folders (transformers or diffusers format) or names on the hub; none = a small one
    of its own. The pooled text is that of the last one with a projection (CLIPTextModelWithProjection)."""
    text_length: int = Field(default=77, ge=4)
    """Places for tokens with frozen encoders; the small one has 64."""
    prediction: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    """What the U-Net predicts."""
    min_snr: float = Field(default=0.0, ge=0)
    """Min-SNR weighting (arXiv 2303.09556) with this gamma; 0 = plain mean square error."""
    offset_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of a constant per channel that is added to the noise."""
    drop_text: float = Field(default=0.1, ge=0, le=1)
    """Share of samples that learn without their caption, for classifier-free guidance."""
    checkpointing: bool = free(False)
    """Compute the U-Net's blocks again in the backward pass instead of keeping what they computed: less memory, more time."""

    @model_validator(mode="after")
    def _bucket_is_told(self) -> "DenoiserSettings":
        if self.shape.ids and not self.buckets:
            raise ValueError(f"the U-Net {self.unet} is told the number of a bucket: set model.buckets, such as 1024")
        if self.shape.pooled_width and not self.text:
            raise ValueError(f"the U-Net {self.unet} reads pooled text: name frozen encoders in model.text")
        if any(min(size) < 8 for size in self.buckets) or len(self.buckets) not in (0, *range(2, 100)):
            raise ValueError("buckets are 2 to 99 sizes [width, height] of at least 8 pixels")
        return self

    @property
    def shape(self) -> UNetShape:
        """Of the U-Net, for latents of any size and number of channels."""
        return UNETS[self.unet]

    @property
    def side(self) -> int:
        """Side in pixels of the squares that it draws."""
        raise NotImplementedError

    @property
    def trained_side(self) -> int:
        """Side in pixels of the squares that it learns from."""
        return self.side

    @property
    def kept(self) -> tuple[int, int]:
        """Side in pixels that pictures are brought to before they are encoded, and shorter side of the smallest that are kept."""
        return self.trained_side, 0

    @property
    def timesteps(self) -> range:
        """The part of the time line (of 1000 steps) that it learns."""
        return range(1000)


class LoraSettings(Section):
    """A small adapter (LoRA, arXiv 2106.09685) is trained and stored, the model beside it stays as it is."""

    rank: int = Field(default=0, ge=0)
    """Rank of the adapter's matrices; 0 = train the model itself."""
    base: str = free("")
    """The model that gets the adapter: run, checkpoint, `lt:...`, or Stable Diffusion 1 or 2 as a folder or name on the hub."""
    alpha: float = Field(default=0.0, ge=0)
    """The adapter's output is multiplied by alpha / rank; 0 = by one."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] = Field(default=("to_q", "to_k", "to_v", "to_out.0"), min_length=1)
    """Layers of the U-Net that get one, by the ends of their paths."""

    @model_validator(mode="after")
    def _rank_has_a_base(self) -> "LoraSettings":
        if bool(self.rank) != bool(self.base):
            raise ValueError("rank and base go together: an adapter is for a model that stays as it is")
        return self


class DiffusionSettings(Settings):
    """What a diffusion run needs: `model`, to which each system adds, an adapter, and the built-in worlds."""

    model: DenoiserSettings = DenoiserSettings()
    lora: LoraSettings = LoraSettings()
    text: WordSettings = WordSettings()
    world: WorldSettings = WorldSettings()

    @property
    def base(self) -> str:
        """The model that stays as it is beside what is trained, "" if there is none."""
        return self.lora.base
