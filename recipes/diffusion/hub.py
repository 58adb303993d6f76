"""Pretrained models by name: a folder, a run, `lt:...`, or a name on Hugging Face's hub, `owner/name` or `owner/name@revision`.

A name on the hub stands for the folder of that revision in the hub's cache, whose own name is the commit. It is looked up there
first, so what was fetched once needs no network, and does not change under a run.
"""

import json
import re
from pathlib import Path
from typing import Any

from lt.datagen.shards import LtError
from lt.recipes.shipped import located

_NAME = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)(?:@([\w.-]+))?((?:/[\w.-]+)*)")
_FETCHED = [
    "*.json",
    "*.txt",
    "*.model",
    "*/*.safetensors",
    "model*.safetensors",
    "diffusion_pytorch_model*.safetensors",
]
_LEFT = ["*.non_ema.*", "*.fp16.*"]
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:-\d+-of-\d+)?(?:\.(\w+))?(?:-\d+-of-\d+)?\.safetensors")
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def found(where: str | Path) -> Path:
    """The folder that a model's name stands for; where the name is no folder but one of the hub, that of the hub's cache.

    Raises:
        LtError: no such weights come with lt; the hub's model is neither in the cache nor to be fetched.
    """
    folder, name = located(where), _name(str(where))
    if name is None or folder.exists():
        return folder
    repo, revision, inside = name
    try:
        return (_cached(repo, revision) or Path(_snapshot(repo, revision))) / inside
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:160]
        fetch = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
        raise LtError(
            f"{where} is no folder here, and cannot be fetched from the hub: {reason}",
            f"Fetch it where there is a network: {fetch}; or give the folder that holds it.",
        ) from None


def is_here(where: str | Path) -> bool:
    """Whether a model's folder is there, or in the hub's cache. Fetches nothing."""
    name = _name(str(where))
    return located(where).is_dir() or (name is not None and _cached(*name[:2]) is not None)


def revision_of(folder: Path) -> str:
    """The commit of a folder that lies in the hub's cache; "" for other folders."""
    parts = folder.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""


def _name(where: str) -> tuple[str, str | None, str] | None:
    """Repository, revision and the folder inside of it; None where the name is a path, of something that may be missing."""
    match = _NAME.fullmatch(where)
    if match is None or where.startswith(("runs/", "data/")) or Path(where).parent.is_dir():
        return None
    return match[1], match[2], match[3].removeprefix("/")


def _cached(repo: str, revision: str | None) -> Path | None:
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(_snapshot(repo, revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _snapshot(repo: str, revision: str | None, local_files_only: bool = False) -> str:
    from huggingface_hub import snapshot_download

    return snapshot_download(
        repo, revision=revision, local_files_only=local_files_only, allow_patterns=_FETCHED, ignore_patterns=_LEFT
    )


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """A configuration of diffusers or transformers; {} where none can be read."""
    try:
        read = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def weights_of(folder: Path) -> tuple[str | None, list[Path]]:
    """A model's weights: which variant a folder holds (None where there are plain ones, else as `fp16`), and its files.

    Raises:
        LtError: there are none, or only pickled ones.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    matches = [match for name in names if (match := _WEIGHTS.fullmatch(name))]
    if matches:
        variant = min((match[1] for match in matches), key=lambda one: (one is not None, one != "fp16"))
        return variant, [folder / match[0] for match in matches if match[1] == variant]
    if pickled := [name for name in names if name.endswith(_PICKLED)]:
        raise LtError(
            f"{folder} holds pickled weights alone ({pickled[0]}), which lt does not open: they may run programs.",
            "Where you trust them, load them with diffusers or transformers and save_pretrained() them as safetensors.",
        )
    raise LtError(f"{folder} holds no weights: there is no *.safetensors.")


def without_bars() -> None:
    """Load and save without the bars that transformers and diffusers draw on stderr, terminal or not, in this process."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
