"""Latent spaces: pixels to latents and back, with the scale that diffusion needs; and a small autoencoder of our own.

Source: Latent diffusion (Rombach et al. 2022, section 3.1 and appendix D.1 for the scale factor). Both autoencoders are
diffusers' ``AutoencoderKL``: pretrained ones as they are, the small one as a configuration of it, so that it saves as a
diffusers folder. The small one differs from the paper in its loss: absolute error and KL only, without perceptual
network and discriminator, which would need weights that a machine without downloads does not have.
"""

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


class LatentSpace(Protocol):
    """Where a diffusion model lives. Two models share a space when they hold the *same object*."""

    factor: int

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels ``[b, 3, h, w]`` in -1..1 to scaled latents ``[b, c, h / factor, w / factor]``."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """The way back. Values may leave -1..1."""
        ...


class AutoencoderSpace(nn.Module):
    """A diffusers ``AutoencoderKL`` with what its configuration says of its latents applied: ``(raw - shift) / std * scale``.

    ``scale`` is its ``scaling_factor``, ``shift`` its ``latents_mean`` or else its ``shift_factor``, ``std`` its ``latents_std``
    (each channel's own), as diffusers' pipelines read them.

    Args:
        vae: the autoencoder. One that asks to be upcast (SDXL's overflows in half precision) is turned to float32 here, as
            diffusers' pipelines do.
    """

    def __init__(self, vae: "AutoencoderKL"):
        super().__init__()
        config: Any = vae.config
        self.vae = vae.float() if config.force_upcast and vae.dtype == torch.float16 else vae
        self.factor: int = 2 ** (len(config.block_out_channels) - 1)
        self.channels: int = config.latent_channels

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The posterior's mode, or with a ``generator`` a sample of it. ``[b, 3, h, w]`` in -1..1 to ``[b, c, h/f, w/f]``."""
        config: Any = self.vae.config
        posterior = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
        latents = posterior.mode() if generator is None else posterior.sample(generator)
        shift, std = self._moments(latents)
        return ((latents - shift) * config.scaling_factor / std).to(pixels.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents ``[b, c, h, w]`` to pixels ``[b, 3, h*f, w*f]``, about -1..1."""
        config: Any = self.vae.config
        scaled = latents.to(self.vae.dtype)
        shift, std = self._moments(scaled)
        return self.vae.decode(scaled * std / config.scaling_factor + shift, return_dict=False)[0].to(latents.dtype)

    def _moments(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """Shift and deviation of the raw latents: numbers, or ``[1, c, 1, 1]``."""
        config: Any = self.vae.config
        if config.latents_mean is None or config.latents_std is None:
            return config.shift_factor or 0.0, 1.0
        mean, std = (like.new_tensor(values).view(1, -1, 1, 1) for values in (config.latents_mean, config.latents_std))
        return mean, std


def small_autoencoder(
    widths: tuple[int, ...] = (16, 32, 32), channels: int = 4, sample_size: int = 64, layers: int = 1
) -> "AutoencoderKL":
    """An untrained ``AutoencoderKL`` of about 0.3 million parameters: 64x64 pixels to 16x16x4 latents.

    Args:
        widths: of each level; the downsampling factor is ``2 ** (len(widths) - 1)``.
        channels: of the latent.
        sample_size: the picture size it is meant for.
        layers: residual blocks per level.
    """
    from diffusers import AutoencoderKL

    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "block_out_channels": widths,
        "layers_per_block": layers,
        "latent_channels": channels,
        "norm_num_groups": 8,
        "sample_size": sample_size,
        "scaling_factor": 1.0,
        "force_upcast": False,
    }
    return AutoencoderKL(**config)


def autoencoder_loss(
    vae: "AutoencoderKL", pixels: Tensor, kl_weight: float = 1e-4, generator: torch.Generator | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean absolute error of the reconstruction plus KL to the standard normal, both per element of what they measure.

    Args:
        pixels: ``[b, 3, h, w]`` in -1..1.
        kl_weight: keeps the latents near unit size without blurring.
        generator: of the posterior's noise.

    Returns:
        Scalar loss, and the metrics ``absolute_error``, ``kl`` and ``psnr`` (dB, for pixels in -1..1).
    """
    posterior = vae.encode(pixels).latent_dist  # pyright: ignore[reportAttributeAccessIssue]
    rebuilt = vae.decode(posterior.sample(generator), return_dict=False)[0]
    error = (rebuilt - pixels).abs().mean()
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    psnr = 10 * torch.log10(4 / (rebuilt - pixels).detach().square().mean().clamp(min=1e-12))
    return error + kl_weight * kl, {"absolute_error": error.detach(), "kl": kl.detach(), "psnr": psnr}
