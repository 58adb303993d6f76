"""Trained miniatures that come with the package, so that every system shows something before anything was trained.

recipes/filip/weights/filip-tiny/
  checkpoint.json        the checkpoint's record: settings, card, digest of the data, metrics, versions
  words.txt              the list of words that its texts are numbered by, where there is one
  model.safetensors      its weights: the moving average where one was kept; in half precision
  log.jsonl              the log of the run that made them

`lt:filip-tiny` names such a folder wherever a run may be named. `make weights` makes them again (ship.py).
"""

import importlib
from pathlib import Path

from lt.datagen.shards.errors import LtError
from lt.recipes.registry import SYSTEMS

SCHEME = "lt:"


def weights_folder(system: str) -> Path:
    """Where a system's shipped runs lie: beside its cards."""
    return Path(str(importlib.import_module(SYSTEMS[system]).__file__)).parent / "weights"


def shipped_runs(system: str) -> list[Path]:
    """The folders of a system's shipped runs."""
    return sorted(path for path in weights_folder(system).glob("*") if path.is_dir())


def located(where: str | Path) -> Path:
    """The folder that a run's name stands for: `lt:...` the shipped one, everything else itself.

    Raises:
        LtError: no such weights come with the package; the message lists those that do.
    """
    text = str(where)
    if not text.startswith(SCHEME):
        return Path(where)
    found = present()
    if text not in found:
        raise LtError(f"No weights named {text} come with lt.", f"Known: {', '.join(found)}.")
    return found[text]


def present() -> dict[str, Path]:
    """The runs that come with the package, `lt:...` to their folders."""
    return {SCHEME + folder.name: folder for system in SYSTEMS for folder in shipped_runs(system)}


def or_shipped(run: str | Path) -> str:
    """`runs/filip-tiny` where it is there, else the miniature of that name that comes with the package."""
    return str(run) if Path(run).is_dir() else SCHEME + Path(run).name
