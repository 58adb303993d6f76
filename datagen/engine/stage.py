"""What a pipeline is made of: a source that deals out splits, and stages from samples to samples.

    @dataclass(frozen=True)
    class Resize(SampleStage):
        '''Shrink pictures so that the long side is at most `side` pixels.'''
        side: int = 512
        name: ClassVar[str] = "resize"

        def process(self, sample: Sample) -> Sample | Reject: ...

A stage is a frozen dataclass: its fields are its settings, and their digest goes into the lineage of what it made. Stages cross
process borders by pickling, so models are loaded lazily, once per worker (`functools.lru_cache` on a module-level loader).
"""

import contextlib
import dataclasses
import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from lt.datagen.shards import LtError, Reject, Sample, SampleError
from lt.datagen.shards.codec import short
from lt.datagen.shards.storage import digest_of

Item = TypeVar("Item")
UNFORESEEN = "unforeseen-error"
"""The reason of a sample at which a source or stage raised anything but SampleError."""
log = logging.getLogger("lt.samples")
"""Where the tracebacks go; the engine keeps them in a file beside the shard."""


class Stage(Protocol):
    """An iterator of samples to an iterator of samples and rejects. A filter returns a `Reject` instead of dropping.

    A step with more to say in the lineage than its settings, such as `model` (digest) or `parents` (keys), has a method
    `lineage(sample)` that is asked after every sample that it yields. A field `seed` needs no such method.
    """

    name: ClassVar[str]

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]: ...


@dataclass(frozen=True)
class SampleStage:
    """A stage that looks at one sample at a time: override `process`. A SampleError inside it becomes a reject."""

    name: ClassVar[str] = ""

    def process(self, sample: Sample) -> Sample | Reject:
        raise NotImplementedError

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        yield from each(self.process, samples)


def each(process: Callable[[Sample], Sample | Reject], samples: Iterable[Sample]) -> Iterator[Sample | Reject]:
    """`process` on one sample at a time; what it raises costs that sample alone."""
    for sample in samples:
        yield attempt(sample, partial(process, sample))


def attempt(sample: Sample, make: Callable[[], Sample | Reject]) -> Sample | Reject:
    """What is made of `sample`, or its reject. Raises LtError, see `reject_for`."""
    try:
        return make()
    except Exception as error:
        return reject_for(error, sample)


def reject_for(error: Exception, sample: Sample) -> Reject:
    """The reject of a sample at which a step raised `error`; a traceback goes into `log` where it was not foreseen.

    Raises:
        LtError: `error` itself, where it is one: a message for people says what is wrong with the whole run.
    """
    if isinstance(error, LtError):
        raise error
    if isinstance(error, SampleError):
        return Reject.of(sample, error.reason, error.figure, error.detail)
    log.error("%s", sample.key, exc_info=error)
    return Reject.of(sample, UNFORESEEN, detail=f"{type(error).__name__}: {short(error)}")


class Source(Protocol):
    """Where samples come from. A split is a small json-able value; each split becomes one task and one shard.

    `settings` is what the user chose; `inputs` are digests of what is read. Both go into the run's digest, so that a changed
    input is noticed. `read` yields rejects for samples that cannot be had (missing file, undecodable picture).
    """

    name: ClassVar[str]

    def settings(self) -> dict[str, Any]:
        return stage_settings(self)

    def inputs(self) -> list[str]:
        return []

    def licences(self) -> list[str]:
        return []

    def splits(self) -> list[Any]: ...

    def read(self, split: Any) -> Iterator[Sample | Reject]: ...


class SampleSource(Source):
    """A source that can tell which samples a split holds before it reads them: override `items`.

    What reading one of them raises costs that sample alone, even the process.
    """

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample | Reject]]]:
        """Each sample as it is known before (its key, perhaps json), and what reads it."""
        raise NotImplementedError

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        for known, read in self.items(split):
            yield attempt(known, read)


@dataclass(frozen=True)
class Pipeline:
    """A data set as its ordered stages. `tolerance`: largest recomposition error (RMS, 0..1) that `verify` accepts."""

    name: str
    source: Source
    stages: tuple[Stage, ...] = ()
    tolerance: float | None = None

    @property
    def on_device(self) -> bool:
        """Whether a stage computes on an accelerator where there is one, which it says with an attribute `on_device`."""
        return any(getattr(stage, "on_device", False) for stage in self.stages)


def stage_settings(stage: object) -> dict[str, Any]:
    """The fields of a step's dataclass, as json-able values."""
    return dataclasses.asdict(stage) if dataclasses.is_dataclass(stage) and not isinstance(stage, type) else {}


def stage_digest(stage: Stage) -> str:
    """12 hex digits over name and settings: what the lineage calls `params`."""
    return digest_of([stage.name, stage_settings(stage)])[:12]


def ranges(count: int, size: int) -> list[list[int]]:
    """[first, end) of each split of `size` out of `count` items."""
    return [[first, min(first + size, count)] for first in range(0, count, size)]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of up to `size` items: for stages that want batches."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def rng_for(seed: int, *names: str) -> np.random.Generator:
    """A generator that depends only on the seed and names (a sample's key, say), not on order, workers or platform."""
    digest = hashlib.sha256("\0".join([str(seed), *names]).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


_model_seconds = 0.0


@contextlib.contextmanager
def model_time() -> Iterator[None]:
    """Count the block as time spent inside a model, for the stage's metrics."""
    global _model_seconds
    start = time.perf_counter()
    try:
        yield
    finally:
        _model_seconds += time.perf_counter() - start


def model_seconds() -> float:
    """Seconds spent inside `model_time` blocks by this process so far."""
    return _model_seconds
