"""Autoencoders by name (runs of `lt train vae`, checkpoints, diffusers folders, the hub), with the digest of what they are."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.autoencoder import AutoencoderSpace
from lt.recipes.diffusion import hub
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

_FORMAT = 1  # of what the digest covers


@dataclass(frozen=True)
class Located:
    """An autoencoder's folder (a checkpoint, not its run) and digest: what a cache and a checkpoint remember of it."""

    folder: str
    digest: str


def locate(where: str) -> Located:
    """Find an autoencoder without loading it.

    Raises:
        LtError: there is none, or it is of a kind that is not known.
    """
    folder = hub.found(where)
    if part := _diffusers_folder(folder):
        files = part / "config.json", *hub.weights_of(part)[1]
        return Located(str(part.absolute()), digest_of([_FORMAT, *map(digest_of_file, files)]))
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

        hub.without_bars()
        variant, _ = hub.weights_of(Path(found.folder))
        vae = AutoencoderKL.from_pretrained(found.folder, use_safetensors=True, variant=variant)
    else:
        objective: Any = checkpoints.restore(Path(found.folder))[0]
        vae = objective.ready(Path(found.folder))  # see `VaeObjective`, which is a guest of this room
    return AutoencoderSpace(vae.eval().requires_grad_(False))


def _diffusers_folder(folder: Path) -> Path | None:
    """The folder itself or its `vae`, where an AutoencoderKL lies."""
    for part in (folder, folder / "vae"):
        kind = hub.config_of(part).get("_class_name")
        if kind == "AutoencoderKL":
            return part
        if kind:
            raise LtError(f"{part} holds a model of the class {kind}.", "Name a folder with an AutoencoderKL.")
    return None
