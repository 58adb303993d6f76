"""U-Nets out of diffusers folders (Stable Diffusion 1 and 2), as what a training starts from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.diffusion import Denoiser, NoiseSchedule
from lt.recipes.diffusion import hub
from lt.recipes.diffusion.settings import UNETS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

INDEX = "model_index.json"
"""What makes a folder a diffusers pipeline."""
_HARMLESS = ("sample_size", "upcast_attention")
"""Entries of a U-Net's configuration that change none of its numbers, but for rounding."""


def is_pipeline(where: str | Path) -> bool:
    """Whether this is a diffusers pipeline, by its folder or its name on the hub. Raises as `hub.found` does."""
    return (hub.found(where) / INDEX).is_file()


def unet_digest(folder: Path) -> str:
    """What names a pipeline's U-Net: sha256 over its configuration and its weights."""
    files = sorted(path for path in (folder / "unet").iterdir() if path.suffix in (".json", ".safetensors"))
    return digest_of([[path.name, digest_of_file(path)] for path in files])


def shape_of(folder: Path) -> dict[str, str]:
    """`model.unet` and `model.prediction` of a pipeline, as far as its files say and we know such a U-Net."""
    unet, scheduler = hub.config_of(folder / "unet"), hub.config_of(folder / "scheduler", "scheduler_config.json")
    shape = unet.get("block_out_channels"), unet.get("cross_attention_dim")
    ours = [name for name, one in UNETS.items() if (list(one.channels), one.text_width) == shape]
    kind = scheduler.get("prediction_type", "epsilon")
    return {"model.prediction": kind} | ({"model.unet": ours[0]} if ours else {})


def copy_unet(unet: "UNet2DConditionModel", folder: Path, denoiser: Denoiser) -> None:
    """Copy the weights of a pipeline's U-Net into `unet`.

    Args:
        denoiser: what `unet` is trained as: the pipeline must mean its numbers and its timesteps in the same way.

    Raises:
        LtError: the pipeline has no such U-Net, or another schedule or prediction type.
    """
    from diffusers import UNet2DConditionModel

    hub.without_bars()
    _check_scheduler(folder, denoiser)
    variant, _ = hub.weights_of(folder / "unet")
    try:
        theirs: Any = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True, variant=variant)
    except (OSError, ValueError) as error:
        raise LtError(f"Cannot load the U-Net of {folder}: {' '.join(str(error).split())[:200]}") from None
    said = [name for name in unet.config if not name.startswith("_") and name not in _HARMLESS]
    differ = [name for name in said if _each(theirs, name) != _each(unet, name)]
    try:
        unet.load_state_dict(theirs.state_dict())
    except RuntimeError:
        differ.append("shapes")
    if differ:
        raise LtError(
            f"The U-Net of {folder} is not the one of these settings: {', '.join(differ)} differ.",
            "Choose its shape: --set model.unet=sd15 for Stable Diffusion 1, sd21 for 2.",
        )


def _each(unet: Any, name: str) -> Any:
    """An entry of its configuration; one number for all levels is written out."""
    value, levels = unet.config[name], len(unet.config["block_out_channels"])
    return tuple(value) if isinstance(value, list | tuple) else (value,) * levels


def _check_scheduler(folder: Path, denoiser: Denoiser) -> None:
    config = hub.config_of(folder / "scheduler", "scheduler_config.json")
    try:
        theirs, kind = NoiseSchedule.from_config(config), config.get("prediction_type", "epsilon")
    except ValueError as error:
        raise LtError(f"The scheduler of {folder} cannot be used: {error}.") from None
    if kind != denoiser.prediction_type:
        raise LtError(
            f"The U-Net of {folder} predicts {kind}, these settings train {denoiser.prediction_type}.",
            f"--set model.prediction={kind}",
        )
    if theirs != denoiser.schedule:
        raise LtError(f"{folder} has another noise schedule than we train on: {theirs}.")
