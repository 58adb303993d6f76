"""The small autoencoder as a recipe: diffusers' `AutoencoderKL` at a few hundred thousand parameters, trained on the worlds.

Latents get unit variance through a scale that is measured at every validation, with the weights that are validated, and
stored beside them: an autoencoder that was never validated does not know its scale, and says so when it is used.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from lt.datagen.shards import LtError, Sample
from lt.models.nn.autoencoder import autoencoder_loss, small_autoencoder
from lt.recipes.config import Section, Settings
from lt.recipes.diffusion.worlds import WorldSettings, build
from lt.recipes.pictures import channels_first, fitted, sheet, to_bytes, to_signed
from lt.recipes.registry import Recipe
from lt.recipes.training.objective import Batch, Metrics, Objective, Report

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_SHOWN = 8


class ModelSettings(Section):
    """The autoencoder."""

    size: int = Field(default=64, ge=8)
    """Side of the training pictures in pixels: others are scaled and cut to it. Any other size can be encoded later."""
    widths: tuple[int, ...] = Field(default=(16, 32, 32), min_length=1)
    """Channels of each level; every level but the first halves the picture: three levels make 64 pixels 16 latents."""
    channels: int = Field(default=4, ge=1)
    """Channels of the latents."""
    layers: int = Field(default=1, ge=1)
    """Residual blocks per level."""
    kl: float = Field(default=1e-4, ge=0)
    """Weight of the KL term, which keeps latents near unit size."""


class VaeSettings(Settings):
    """Settings of `lt train vae`."""

    model: ModelSettings = ModelSettings()
    world: WorldSettings = WorldSettings()


@dataclass(frozen=True)
class Picture:
    """A sample to `image` uint8 [3, size, size]. Never augmented: captions name left and right."""

    size: int
    scaled: bool = False
    """In training, decode JPEGs no larger than is needed."""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        image = sample.image(self.size if rng is not None and self.scaled else 0)
        return {"image": channels_first(fitted(image, self.size, self.size))}


class Autoencoder(nn.Module):
    """An `AutoencoderKL` and, as a stored number, the standard deviation of its latents (0 = not measured yet)."""

    deviation: Tensor

    def __init__(self, vae: "AutoencoderKL"):
        super().__init__()
        self.vae = vae
        self.register_buffer("deviation", torch.zeros(()))


class VaeObjective(Objective):
    """Absolute error and KL in training, PSNR of the posterior's mode in validation."""

    def __init__(self, settings: VaeSettings):
        model = settings.model
        self.settings = settings
        vae = small_autoencoder(model.widths, model.channels, model.size, model.layers)
        self.modules = {"autoencoder": Autoencoder(vae)}

    @property
    def autoencoder(self) -> Autoencoder:
        return cast(Autoencoder, self.modules["autoencoder"])

    def example(self) -> Picture:
        return Picture(self.settings.model.size, self.settings.data.decode == "scaled")

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return autoencoder_loss(self.autoencoder.vae, to_signed(batch["image"]), self.settings.model.kl)

    def validate(self, batches: Iterable[Batch]) -> Report:
        """PSNR in dB, averaged over pictures (the score); the latents' deviation is measured; originals over reconstructions."""
        ratios, moments, shown = [], [], []
        for batch in batches:
            pixels = to_signed(batch["image"])
            latents = self.autoencoder.vae.encode(pixels).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
            rebuilt = self.autoencoder.vae.decode(latents, return_dict=False)[0].clamp(-1, 1)
            ratios.append(psnr(rebuilt, pixels))
            flat = latents.double()
            moments.append(torch.stack([flat.sum(), flat.square().sum(), flat.new_tensor(flat.numel())]))
            if len(shown) < _SHOWN:
                shown += list(zip(to_bytes(pixels), to_bytes(rebuilt), strict=True))
        if not ratios:
            raise LtError("The validation set has no usable samples.", "Name another one: --set data.validation=DIR.")
        total, squares, count = torch.stack(moments).sum(0)
        deviation = (squares / count - (total / count) ** 2).clamp(min=0).sqrt()
        self.autoencoder.deviation.copy_(deviation)
        score = float(torch.cat(ratios).mean())
        columns = list(zip(*shown[:_SHOWN], strict=True))
        metrics = {"psnr": score, "latent_deviation": float(deviation)}
        return Report(metrics, score, {"reconstruction": sheet(columns)})

    def ready(self, where: Path) -> "AutoencoderKL":
        """The autoencoder with its scale stored in its configuration.

        Raises:
            LtError: the scale was never measured, or the latents do not vary.
        """
        deviation = float(self.autoencoder.deviation)
        if not deviation > 1e-6:
            raise LtError(
                f"The scale of the latents of {where} is not known (deviation {deviation:g}): it is measured in validation.",
                "Train with validation data: --set data.validation=DIR.",
            )
        self.autoencoder.vae.register_to_config(scaling_factor=1 / deviation)
        return self.autoencoder.vae

    def export(self, folder: Path) -> None:
        """Write a diffusers `AutoencoderKL` folder."""
        self.ready(folder).save_pretrained(folder)


def psnr(rebuilt: Tensor, pixels: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture in dB: [b, 3, h, w] in -1..1 to [b]."""
    error = (rebuilt.float() - pixels.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


RECIPE = Recipe(
    name="vae",
    settings=VaeSettings,
    objective=VaeObjective,
    world=lambda settings, note: build(settings.world, note),
    folder=Path(__file__).parent,
    must_validate=True,
)
