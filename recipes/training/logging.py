"""What a run writes while it goes: one json line per event, TensorBoard, pictures as PNG.

runs/filip-tiny/
  log.jsonl            {"event": "train", "step": 10, "loss": 4.1, "lr": 0.0001, "data_s": 0.001, "compute_s": 0.21, ...}
  pictures/            step-00000200-alignment.png
  tensorboard/

A resumed run takes back what was written after the checkpoint that it goes on from, so that every step appears once.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards.codec import encode_image
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import atomic_file, write_bytes, writing
from lt.recipes.training.loader import Bad


class RunLog:
    """The log of one run.

    Args:
        out: the run's folder.
        step: steps done so far; lines of later ones are removed.
        tensorboard: also write TensorBoard files.
        silent: write nothing (all ranks but the first).
    """

    def __init__(self, out: Path, step: int, tensorboard: bool, silent: bool = False):
        self._out = out
        self._file = None
        self._board = None
        if silent:
            return
        path = out / "log.jsonl"
        _keep_until(out, step)
        with writing(path):
            out.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            self._board = _board(out / "tensorboard", step)

    def write(self, event: str, step: int, **values: Any) -> None:
        """One line. `step` is the number of steps done when it happened."""
        if self._file is None:
            return
        line = json.dumps({"event": event, "step": step, **values}, ensure_ascii=False, default=str)
        with writing(self._out / "log.jsonl"):
            self._file.write(f"{line}\n")
            self._file.flush()

    def metrics(self, event: str, step: int, metrics: Mapping[str, float]) -> None:
        """A line of metrics, also for TensorBoard under `event/`."""
        self.write(event, step, **metrics)
        if self._board:
            for name, value in metrics.items():
                self._board.add_scalar(f"{event}/{name}", value, step)

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """uint8 RGB [h, w, 3] by name, as PNG files and for TensorBoard."""
        if self._file is None:
            return
        for name, picture in pictures.items():
            write_bytes(self._out / "pictures" / f"step-{step:08d}-{name}.png", encode_image(picture, "png"))
            if self._board:
                self._board.add_image(name, picture, step, dataformats="HWC")

    def bad(self, step: int, samples: Iterable[Bad]) -> None:
        """A line for every bad sample that was replaced."""
        for sample in samples:
            self.write("bad", step, key=sample.key, reason=sample.reason, detail=sample.detail)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board:
            self._board.close()


def read_log(out: Path, event: str = "") -> list[dict[str, Any]]:
    """The lines of a run's log, of one event or of all; a last line that a kill cut off is left out."""
    path, found = out / "log.jsonl", []
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(text))
    return [line for line in found if not event or line["event"] == event]


def _keep_until(out: Path, step: int) -> None:
    if kept := read_log(out):
        with atomic_file(out / "log.jsonl", "w") as file:
            file.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept if line["step"] <= step)


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise LtError(
            f"TensorBoard is not installed ({error}).",
            "pip install 'lt-toolkit[train]', or --set log.tensorboard=false: log.jsonl holds the same metrics.",
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
