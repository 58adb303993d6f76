"""Positions to batches, by worker processes.

A bad sample (undecodable, damaged, refused by the system's `Example`) keeps its place in the order, but a substitute is shown
there: another one of the set, drawn from (seed, position, attempt). Each bad one is counted and logged with its key.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from lt.datagen.shards import LtError, Sample, SampleError, ShardError
from lt.recipes.training.objective import Batch, Example
from lt.recipes.training.order import Order, Place
from lt.recipes.training.shards import ShardSet

SUBSTITUTES = 32
"""So many bad samples in a row end the run: the data, not a sample, is broken."""
_RETRY_SECONDS = (1, 5, 20)


@dataclass(frozen=True)
class Bad:
    """A sample that could not be used, and why."""

    key: str
    reason: str
    detail: str = ""


@dataclass
class Examples(Dataset):
    """What loader workers run: positions to a collated batch. `replace` is off in validation: bad samples are left out."""

    shards: ShardSet
    order: Order
    example: Example
    replace: bool = True
    _bad: list[Bad] = field(default_factory=list)

    def __getitem__(self, positions: Sequence[int]) -> Batch | LtError:
        """A batch, or the error that ends the run, on its way from a worker to the training process."""
        try:
            return self.fetch(positions)
        except LtError as error:
            return error

    def fetch(self, positions: Sequence[int]) -> Batch:
        """A batch. Raises LtError where the data, not a sample, is broken."""
        self._bad = []
        rows = [row for position in positions if (row := self._row(position)) is not None]
        batch = default_collate(rows) if rows else {"key": []}
        return {**batch, "bad": self._bad}

    def _row(self, position: int) -> Mapping[str, Any] | None:
        place = self.order(position)
        for attempt in range(SUBSTITUTES):
            try:
                return self._made(place)
            except SampleError as error:
                self._bad.append(Bad(self.shards.key(place.shard, place.index), error.reason, error.detail))
            if not self.replace:
                return None
            place = self.order.substitute(position, attempt)
        raise LtError(
            f"{SUBSTITUTES} bad samples in a row, the last: {self._bad[-1].key} ({self._bad[-1].reason}).",
            "`lt shards verify` and `lt shards show` tell what is wrong with the data.",
        )

    def _made(self, place: Place) -> Mapping[str, Any]:
        sample = _patiently(self.shards, place)
        rng = self.order.augmentation(place) if self.replace else None
        return {**self.example(sample, rng), "key": sample.key}


def _patiently(shards: ShardSet, place: Place) -> Sample:
    """Read a sample. Damaged bytes are the sample's fault, a store that does not answer is not: wait, try again, then stop."""
    for pause in (*_RETRY_SECONDS, None):
        try:
            return shards.read(place.shard, place.index)
        except ShardError as error:
            if error.__cause__ is None:
                raise SampleError("damaged-bytes", error.message) from None
            if pause is None or (isinstance(error.__cause__, FileNotFoundError) and shards.is_local(place.shard)):
                raise
            shards.close(place.shard)  # the connection, or a cached copy that made room for others
            time.sleep(pause)
    raise AssertionError


def training_loader(
    examples: Examples, slices: Iterable[Sequence[int]], workers: int, prefetch: int, pin: bool
) -> Iterator[Batch]:
    """Batches for the given positions, one after the other, made by `workers` processes."""
    return _opened(_loader(examples, slices, workers, prefetch, pin))


class Validation:
    """Validation batches in their order, as often as they are iterated; the workers stay.

    Args:
        groups: where batches may hold one group only, see `ShardSet.groups`: then group after group.
    """

    def __init__(
        self,
        examples: Examples,
        limit: int,
        size: int,
        workers: int,
        pin: bool,
        groups: Sequence[np.ndarray] | None = None,
    ):
        together: dict[int, list[int]] = {}
        for position in range(min(limit, len(examples.order))):
            place = examples.order(position)
            together.setdefault(int(groups[place.shard][place.index]) if groups else 0, []).append(position)
        slices = [own[first : first + size] for own in together.values() for first in range(0, len(own), size)]
        self._loader = _loader(examples, slices, min(workers, len(slices)), 2, pin)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for batch in _opened(self._loader) if batch["key"])


def _loader(examples: Examples, slices: Any, workers: int, prefetch: int, pin: bool) -> DataLoader:
    return DataLoader(
        examples,
        batch_size=None,
        sampler=slices,
        pin_memory=pin,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=bool(workers),
        worker_init_fn=_follow,
        multiprocessing_context=_processes(examples.example) if workers else None,
    )


def _opened(loader: DataLoader) -> Iterator[Batch]:
    try:
        for batch in loader:
            if isinstance(batch, LtError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
            raise
        raise LtError(
            f"A loader worker died ({str(error).splitlines()[0]}).",
            "Often the memory is full: fewer workers (--set data.workers=1). The same command continues.",
        ) from error


def _follow(worker: int) -> None:
    """Ctrl-C reaches the whole process group: the training process decides, workers go when it goes, however it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():
        Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """End this worker once the training process is gone: one that was killed cannot send its workers home.

    Torch's own watch looks at the process that forked the worker, which is the fork server, and that lives on.
    """
    parent.join()
    os._exit(1)


def _processes(example: Example) -> Any:
    """Workers are forked from a clean server process that has imported what they need: as safe as spawning, and fast."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    module = getattr(example, "__module__", __name__)
    context.set_forkserver_preload([__name__, *([] if module == "__main__" else [module])])
    return context


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Tensors of a batch on the device; copies from pinned memory do not wait."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
