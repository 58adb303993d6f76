"""Control branches: pictures (a pose, an edge map, a layout) that steer a frozen U-Net.

Source: ControlNet (Zhang et al. 2023, section 3): a trainable copy of the U-Net's encoder reads the control picture and
adds to the skip connections through convolutions that start at zero, so an untrained branch changes nothing. diffusers'
``ControlNetModel`` serves unchanged; ours are the network that joins several branches with one U-Net, and the choice of
hint encoder by downsampling factor (diffusers' default fits only factor 8).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lt.models.nn.diffusion import Condition
from lt.models.nn.unet import call_unet, unet_arguments, weights_dtype

if TYPE_CHECKING:
    from diffusers import ControlNetModel, UNet2DConditionModel

HINT = "hint."
"""Control pictures are named in conditions as ``hint.pose``, ``hint.edge`` ...: ``[b, 3, H, W]`` in 0..1, H and W in pixels."""


def control_branch(
    unet: "UNet2DConditionModel", factor: int = 8, hint_widths: tuple[int, ...] = (16, 32, 96, 256)
) -> "ControlNetModel":
    """A new branch for ``unet``: its encoder copied, zero convolutions on the way out.

    Args:
        factor: pixels per latent, a power of two; the hint encoder halves the picture so often.
        hint_widths: widths of the hint encoder for factor 8; a smaller factor takes the first of them.
    """
    from diffusers import ControlNetModel

    halvings = factor.bit_length() - 1
    if 2**halvings != factor or halvings >= len(hint_widths):
        raise ValueError(f"factor {factor} is no power of two up to {2 ** (len(hint_widths) - 1)}")
    branch = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=hint_widths[: halvings + 1])
    if unet.config["addition_embed_type"] != "text":
        return branch
    # from_unet copies the weights that pool the text, but not their number of heads
    heads = unet.config["addition_embed_type_num_heads"]
    again: Any = ControlNetModel.from_config(branch.config, addition_embed_type_num_heads=heads)
    again.load_state_dict(branch.state_dict())
    return again


class ControlledUNet(nn.Module):
    """A U-Net with named control branches or none, as the ``network`` of a :class:`~lt.models.nn.diffusion.Denoiser`.

    States keep their own precision; the U-Net sees them in its weights'. A branch acts where its hint is in the condition. To
    train one, freeze ``unet`` and pass the branch's parameters on.

    Args:
        unet: diffusers' U-Net.
        branches: name -> diffusers' ControlNet.
        scales: strength of each branch, 1 where not stated.
    """

    def __init__(
        self,
        unet: nn.Module,
        branches: Mapping[str, nn.Module] | None = None,
        scales: Mapping[str, float] | None = None,
    ):
        super().__init__()
        self.unet = unet
        self.branches = nn.ModuleDict(dict(branches or {}))
        self.scales = dict(scales or {})
        unknown = set(self.scales) - set(self.branches)
        if unknown:
            raise ValueError(f"no branch named {sorted(unknown)}; branches: {sorted(self.branches)}")

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """See :func:`~lt.models.nn.unet.call_unet`; hints are taken out of the condition first."""
        hints = {name.removeprefix(HINT): value for name, value in condition.items() if name.startswith(HINT)}
        words = {name: value for name, value in condition.items() if not name.startswith(HINT)}
        low = z.to(weights_dtype(self.unet))
        return call_unet(self.unet, low, t, words, **self.residuals(low, t, words, hints)).to(z.dtype)

    def residuals(self, z: Tensor, t: Tensor, words: Condition, hints: Mapping[str, Tensor]) -> dict[str, Any]:
        """The branches' contributions, summed, under the names of diffusers' U-Net; empty without hints.

        Raises:
            ValueError: a hint that no branch knows, or of another size than the latent calls for; a masked text, which
                ControlNet cannot read.
        """
        if not hints:
            return {}
        unknown = set(hints) - set(self.branches)
        if unknown:
            raise ValueError(f"no control branch for {sorted(unknown)}; known: {sorted(self.branches)}")
        arguments = unet_arguments(words)
        if "encoder_attention_mask" in arguments:
            raise ValueError("control branches cannot mask text: set padded text features to zero, leave text_mask out")
        down, mid = None, torch.zeros((), device=z.device)
        for name, hint in hints.items():
            more, more_mid = self._branch(name, z, t, hint, arguments)
            down = more if down is None else [one + other for one, other in zip(down, more, strict=True)]
            mid = mid + more_mid
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}

    def _branch(
        self, name: str, z: Tensor, t: Tensor, hint: Tensor, arguments: dict[str, Any]
    ) -> tuple[list[Tensor], Tensor]:
        branch: Any = self.branches[name]
        factor = 2 ** (len(branch.config.conditioning_embedding_out_channels) - 1)
        expected = [side * factor for side in z.shape[-2:]]
        if list(hint.shape[-2:]) != expected:
            raise ValueError(
                f"the {name} picture is {list(hint.shape[-2:])}, this latent needs {expected} (height, width)"
            )
        strength = self.scales.get(name, 1.0)
        return branch(z, t, controlnet_cond=hint, conditioning_scale=strength, **arguments, return_dict=False)
