"""U-Nets out of diffusers folders (Stable Diffusion 1 and 2), as what a training starts from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.diffusion import Denoiser, NoiseSchedule
from lt.recipes.diffusion.quiet import without_bars
from lt.recipes.diffusion.settings import UNETS

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

INDEX = "model_index.json"
"""What makes a folder a diffusers pipeline."""
_SILENT = ("attention_head_dim", "norm_num_groups", "act_fn")
"""What changes a U-Net's numbers and no shape of its weights."""


def is_pipeline(folder: Path) -> bool:
    """Whether this is the folder of a diffusers pipeline."""
    return (folder / INDEX).is_file()


def unet_digest(folder: Path) -> str:
    """What names a pipeline's U-Net: sha256 over its configuration and its weights."""
    files = sorted(path for path in (folder / "unet").iterdir() if path.suffix in (".json", ".safetensors"))
    return digest_of([[path.name, digest_of_file(path)] for path in files])


def shape_of(folder: Path) -> dict[str, str]:
    """`model.unet` and `model.prediction` of a pipeline, as far as its files say and we know such a U-Net."""
    unet, scheduler = (_config(folder / part) for part in ("unet/config.json", "scheduler/scheduler_config.json"))
    shape = unet.get("block_out_channels"), unet.get("cross_attention_dim")
    ours = [name for name, one in UNETS.items() if (list(one.channels), one.text_width) == shape]
    kind = scheduler.get("prediction_type", "epsilon")
    return {"model.prediction": kind} | ({"model.unet": ours[0]} if ours else {})


def _config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # loading says what is wrong
    return found if isinstance(found, dict) else {}


def load_unet(unet: "UNet2DConditionModel", folder: Path, denoiser: Denoiser) -> None:
    """Copy the weights of a pipeline's U-Net into `unet`.

    Args:
        denoiser: what `unet` is trained as: the pipeline must mean its numbers and its timesteps in the same way.

    Raises:
        LtError: the pipeline has no such U-Net, or another schedule or prediction type.
    """
    from diffusers import UNet2DConditionModel

    without_bars()
    _check_scheduler(folder, denoiser)
    try:
        theirs: Any = UNet2DConditionModel.from_pretrained(folder / "unet", use_safetensors=True)
    except (OSError, ValueError) as error:
        raise LtError(f"Cannot load the U-Net of {folder}: {' '.join(str(error).split())[:200]}") from None
    differ = [name for name in _SILENT if _each(theirs, name) != _each(unet, name)]
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
    value = unet.config[name]
    levels = len(unet.config["block_out_channels"])
    return value if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else (value,) * levels


def _check_scheduler(folder: Path, denoiser: Denoiser) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        theirs, kind = NoiseSchedule.from_config(config), config.get("prediction_type", "epsilon")
    except (OSError, ValueError) as error:
        raise LtError(f"The scheduler of {folder} cannot be used: {error}.") from None
    if kind != denoiser.prediction_type:
        raise LtError(
            f"The U-Net of {folder} predicts {kind}, these settings train {denoiser.prediction_type}.",
            f"--set model.prediction={kind}",
        )
    if theirs != denoiser.schedule:
        raise LtError(f"{folder} has another noise schedule than we train on: {theirs}.")
