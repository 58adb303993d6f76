"""Autoencoders by where they lie (runs of `lt train vae`, checkpoints, diffusers folders), with the digest of what they are."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.autoencoder import AutoencoderSpace
from lt.recipes.diffusion.quiet import without_bars
from lt.recipes.shipped import located
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

_WEIGHTS = "diffusion_pytorch_model.safetensors"
_FORMAT = 1  # of what the digest covers


@dataclass(frozen=True)
class Located:
    """An autoencoder's folder (a checkpoint, not its run) and digest: what a cache and a checkpoint remember of it."""

    folder: str
    digest: str


def locate(where: str) -> Located:
    """Find an autoencoder without loading it.

    Raises:
        LtError: there is none.
    """
    folder = located(where)
    if config := _diffusers_folder(folder):
        return Located(str(config.absolute()), _digest([config / "config.json", config / _WEIGHTS]))
    if not folder.is_dir():
        hint = "Train it first: lt train vae" if Path(where).name.startswith("vae") else "Name a run of `lt train vae`."
        raise LtError(f"There is no autoencoder in {where}.", hint)
    checkpoint = checkpoints.chosen(folder)
    record = Record.load(checkpoint)
    if record.system != "vae":
        raise LtError(
            f"{where} is a checkpoint of {record.system}, not an autoencoder.", "Name a run of `lt train vae`."
        )
    return Located(str(checkpoint.absolute()), checkpoints.digest_of_weights(record))


@lru_cache(maxsize=4)
def load(found: Located) -> AutoencoderSpace:
    """The latent space, in eval mode, without gradients, on the CPU.

    Raises:
        LtError: what lies there is not what was located, or cannot be used.
    """
    if locate(found.folder).digest != found.digest:
        raise LtError(f"The autoencoder in {found.folder} was changed while it was in use.", "Start again.")
    vae: Any
    if _diffusers_folder(Path(found.folder)):
        from diffusers import AutoencoderKL

        without_bars()
        vae = AutoencoderKL.from_pretrained(found.folder, use_safetensors=True)
    else:
        objective: Any = checkpoints.restore(Path(found.folder))[0]
        vae = objective.ready(Path(found.folder))  # see `VaeObjective`, which is a guest of this room
    return AutoencoderSpace(vae.eval().requires_grad_(False))


def _diffusers_folder(folder: Path) -> Path | None:
    """The folder itself or its `vae`, where an AutoencoderKL lies."""
    return next((part for part in (folder, folder / "vae") if (part / _WEIGHTS).is_file()), None)


def _digest(files: list[Path]) -> str:
    return digest_of([_FORMAT, *(digest_of_file(file) for file in files)])
