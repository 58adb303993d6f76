"""Pipelines for the engine's tests, in a module that worker processes can import.

Worker processes take over `sys.path` of the process that spawned them; `conftest.py` puts this folder on it.
"""

import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline, SampleSource, SampleStage, batched, model_time, rng_for
from lt.datagen.shards import Reject, Sample, SampleError


@dataclass(frozen=True)
class Numbers:
    """`tasks` splits of `size` samples each, numbered through; every seventh cannot be read."""

    tasks: int = 4
    size: int = 12
    seed: int = 0
    same_keys: bool = False
    name: ClassVar[str] = "numbers"

    def settings(self) -> dict[str, Any]:
        return {"tasks": self.tasks, "size": self.size, "seed": self.seed}

    def inputs(self) -> list[str]:
        return []

    def licences(self) -> list[str]:
        return ["CC0-1.0"]

    def splits(self) -> list[Any]:
        return [[task * self.size, (task + 1) * self.size] for task in range(self.tasks)]

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        for number in range(*split):
            key = f"n-{number % self.size if self.same_keys else number:06d}"
            if number % 7 == 6:
                yield Reject(key, "unreadable")
                continue
            picture = rng_for(self.seed, key).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            yield Sample(key, {"png": picture, "txt": f"number {number}", "json": {"number": number}})


@dataclass(frozen=True)
class Files(SampleSource):
    """Eight samples in one split: `wrong` of them raises, `deadly` ends the process."""

    wrong: int = -1
    deadly: int = -1
    name: ClassVar[str] = "files"

    def splits(self) -> list[Any]:
        return [[0, 8]]

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample]]]:
        for number in range(*split):
            yield Sample(f"f-{number}", {"json": {"file": number}}), partial(self._sample, number)

    def _sample(self, number: int) -> Sample:
        if number == self.deadly:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == self.wrong:
            raise KeyError("width")
        return Sample(f"f-{number}", {"json": {"number": number}})


@dataclass(frozen=True)
class Unread(Numbers):
    """Ends the process before there is a sample."""

    tasks: int = 1

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        os._exit(4)


@dataclass(frozen=True)
class Batches:
    """Takes samples by fours; where number 3 is among them it raises."""

    name: ClassVar[str] = "batches"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for group in batched(samples, 4):
            if 3 in [sample.meta["number"] for sample in group]:
                raise ZeroDivisionError("no such batch")
            yield from group


@dataclass(frozen=True)
class Slow(SampleStage):
    """Sleeps as a model would."""

    seconds: float = 0.0
    name: ClassVar[str] = "slow"

    def process(self, sample: Sample) -> Sample | Reject:
        with model_time():
            time.sleep(self.seconds)
        return sample


@dataclass(frozen=True)
class Told(SampleStage):
    """Notes in the folder `marks` on which device it computes: a file a worker, named `device pid`."""

    marks: str
    on_device: ClassVar[bool] = True
    name: ClassVar[str] = "told"

    def process(self, sample: Sample) -> Sample | Reject:
        (Path(self.marks) / f"{os.environ.get('LT_DEVICE')} {os.getpid()}").touch()
        return sample


@dataclass(frozen=True)
class NoMultiples(SampleStage):
    """Rejects multiples of `of`, half of them by raising."""

    of: int = 5
    name: ClassVar[str] = "no-multiples"

    def process(self, sample: Sample) -> Sample | Reject:
        number = sample.meta["number"]
        if number % (2 * self.of) == 0:
            raise SampleError("even-multiple", f"{number} is a multiple of {2 * self.of}", number)
        if number % self.of == 0:
            return Reject.of(sample, "odd-multiple", number)
        return sample


@dataclass(frozen=True)
class Trouble(SampleStage):
    """Brings trouble at sample `at`: `once` per file `mark`, or always where there is none."""

    kind: str
    at: int = 3
    mark: str = ""
    name: ClassVar[str] = "trouble"

    def process(self, sample: Sample) -> Sample | Reject:
        if sample.meta["number"] == self.at and self._is_due():
            print("a word before the end", flush=True)
            if self.kind == "exit":
                os._exit(3)
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.kind == "hang":
                time.sleep(3600)
            if self.kind == "bug":
                raise ValueError("a bug in a stage")
        return sample

    def _is_due(self) -> bool:
        if not self.mark:
            return True
        try:
            Path(self.mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


@dataclass(frozen=True)
class Hang(Trouble):
    """A second stage of trouble in the same pipeline."""

    name: ClassVar[str] = "hang"


def tiny(tasks: int = 4, size: int = 12, of: int = 5, seconds: float = 0.0, seed: int = 0) -> Pipeline:
    """A source and two stages that take no time."""
    return Pipeline("tiny", Numbers(tasks, size, seed), (Slow(seconds), NoMultiples(of)))


def troubled(kind: str, mark: str = "", tasks: int = 4) -> Pipeline:
    return Pipeline("troubled", Numbers(tasks), (Trouble(kind, mark=mark), NoMultiples()))


def dealt(marks: Path, tasks: int = 6) -> Pipeline:
    return Pipeline("dealt", Numbers(tasks, 6), (Slow(0.02), Told(str(marks)), NoMultiples()))


def devices_told(marks: Path) -> list[str]:
    """The device of each worker that has left a mark, in order; the marks are removed."""
    told = sorted(path.name.split()[0] for path in marks.iterdir())
    for path in marks.iterdir():
        path.unlink()
    return told


def digests(out: Path) -> dict[str, str]:
    """Names and sha256 of all shards in a folder, from their bytes."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.glob("*.tar"))}


def run_and_tell(pipeline: Pipeline, out: Path, progress: Connection) -> None:
    """A run without workers that says through `progress` how many tasks it has done, from the first sample on."""
    run_pipeline(pipeline, out, workers=0, on_progress=lambda state: progress.send(state.done))


def script(pipeline: str, out: Path, workers: int = 2) -> str:
    """Code for `python -c` that runs `pipeline`; prints how many tasks it has done, from the first sample on."""
    return f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background inherits that it is ignored
sys.path.insert(0, {str(Path(__file__).parent)!r})
from engine_pipelines import *
from lt.datagen.engine.run import run_pipeline

def show(state):
    if state.stages:
        print(state.done, flush=True)

if __name__ == "__main__":
    try:
        run_pipeline({pipeline}, {str(out)!r}, workers={workers}, on_progress=show)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(1)
"""
