"""Trained miniatures that come with the package, so that every system shows something before anything was trained.

recipes/filip/weights/filip-tiny/
  checkpoint.json        the checkpoint's record: settings, card, digest of the data, metrics, versions
  model.safetensors      its weights: the moving average where one was kept; in half precision
  log.jsonl              the log of the run that made them

`lt:filip-tiny` names such a folder wherever a run may be named. `make weights` makes them again (ship.py).
"""

from pathlib import Path

from lt.datagen.shards.errors import LtError

SCHEME = "lt:"
RUNS: dict[str, tuple[str, ...]] = {
    "filip": ("filip-tiny",),
    "wukong": ("wukong-tiny",),
    "pangu": ("vae-tiny", "pangu-tiny", "pangu-tiny-texture", "pangu-tiny-pose", "pangu-tiny-edge"),
}
"""The runs that each system ships, in the order in which one builds on another."""
_RECIPES = Path(__file__).parent


def weights_folder(system: str) -> Path:
    """Where a system's shipped runs lie."""
    return _RECIPES / system / "weights"


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
    folders = [weights_folder(system) / run for system, runs in RUNS.items() for run in runs]
    return {SCHEME + folder.name: folder for folder in folders if folder.is_dir()}


def or_shipped(run: str | Path) -> str:
    """`runs/filip-tiny` where it is there, else the miniature of that name that comes with the package."""
    return str(run) if Path(run).is_dir() else SCHEME + Path(run).name
