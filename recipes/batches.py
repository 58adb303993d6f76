"""Shards to batches, exactly once, from any position.

The order of the samples is a pure function of (sizes of the shards, seed, window): `Order`. The position in it is one integer,
the number of samples that the run has consumed over all ranks. Step s with batch B takes the positions from s*B to s*B + B-1; of
these rank r of R takes the r-th R-th, and cuts it into micro-batches. Loader workers only fetch what they are told, so a run that
was killed anywhere goes on with exactly the sample where it stopped, also with other workers, ranks or micro-batches.

Shuffling: per epoch the shards are permuted and laid end to end; that row is cut into windows of W samples, and each window is
permuted. Two samples of one shard thus lie at most W + (the shard's size) places apart: a window should span several shards
(W >= 10 x the shard's size mixes well), or the shards should have been shuffled when they were made. W >= all samples is a
perfect shuffle.

A bad sample (undecodable, damaged, refused by the system's `Example`) keeps its place in the order, but a substitute is shown
there: another one of the set, drawn from (seed, position, attempt). So batches stay full, every good sample is still seen exactly
once per epoch in its own place, and a resumed run meets the same substitutes. Each bad one is counted and logged with its key.
"""

import fcntl
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from lt.datagen.shards import LtError, Sample, SampleError, ShardError, open_shards
from lt.datagen.shards.index import load_index
from lt.datagen.shards.reader import Shard, Shards
from lt.datagen.shards.remote import Location
from lt.datagen.shards.storage import atomic_file, digest_of, lt_home
from lt.recipes.objective import Batch, Example

SUBSTITUTES = 32
"""So many bad samples in a row end the run: the data, not a sample, is broken."""
_OPEN_SHARDS = 256
_OPEN_SAMPLES = 200_000
"""A worker keeps the indexes of so many shards, together of so many samples (about 1 kB each): a window should fit."""
_RETRY_SECONDS = (1, 5, 20)


class Place(NamedTuple):
    """Where a sample lies: the pass over the data, the number of the shard, the sample's number in it."""

    epoch: int
    shard: int
    index: int


class Ordering(Protocol):
    """A position in a run's order to the sample that lies there, as a pure function."""

    def __len__(self) -> int: ...
    def __call__(self, position: int) -> Place: ...
    def substitute(self, position: int, attempt: int) -> Place: ...
    def augmentation(self, place: Place) -> np.random.Generator: ...


class Order:
    """The order of a run's samples, as a function: `order(position)` is the `Place` of the sample at that position.

    Args:
        sizes: samples in each shard.
        seed: of the shuffling.
        window: samples that are shuffled together; 0 = as they lie, for validation.
    """

    def __init__(self, sizes: Sequence[int], seed: int = 0, window: int = 8192):
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.seed = seed
        self.window = window
        self._length = int(self.sizes.sum())
        self._ends = np.cumsum(self.sizes)
        self._row_of = lru_cache(maxsize=2)(self._row)  # batches straddle two epochs, and two windows, at most
        self._permutation_of = lru_cache(maxsize=4)(self._permutation)

    def __len__(self) -> int:
        """Samples in one epoch."""
        return self._length

    def __call__(self, position: int) -> Place:
        epoch, within = divmod(position, self._length)
        shards, ends = self._row_of(epoch)
        if self.window:
            number, offset = divmod(within, self.window)
            within = number * self.window + int(self._permutation_of(epoch, number)[offset])
        row = int(np.searchsorted(ends, within, side="right"))
        shard = int(shards[row])
        return Place(epoch, shard, within - int(ends[row] - self.sizes[shard]))

    def substitute(self, position: int, attempt: int) -> Place:
        """Which sample stands in for a bad one at `position`; another one for each attempt."""
        within = int(generator(self.seed, 2, position, attempt).integers(self._length))
        shard = int(np.searchsorted(self._ends, within, side="right"))
        return Place(position // self._length, shard, within - int(self._ends[shard] - self.sizes[shard]))

    def augmentation(self, place: Place) -> np.random.Generator:
        """The generator for a sample's augmentation: differs per epoch, not with workers or ranks."""
        return generator(self.seed, 3, *place)

    def _row(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The shards' numbers as this epoch lays them end to end, and where each of them ends."""
        shards = np.arange(len(self.sizes))
        if self.window:
            generator(self.seed, 0, epoch).shuffle(shards)
        return shards, np.cumsum(self.sizes[shards])

    def _permutation(self, epoch: int, number: int) -> np.ndarray:
        length = min(self.window, self._length - number * self.window)
        return generator(self.seed, 1, epoch, number).permutation(length)

    def __reduce__(self):  # caches do not cross process borders
        return Order, (self.sizes, self.seed, self.window)


def generator(*numbers: int) -> np.random.Generator:
    """Random numbers that depend on these numbers alone: the seed, what is drawn, and for which place."""
    return np.random.Generator(np.random.PCG64(numbers))


def share(step: int, batch: int, rank: int, ranks: int, micro: int) -> list[range]:
    """The positions of one rank in one step, cut into micro-batches. `micro * ranks` must divide `batch`."""
    start, size = step * batch + rank * (batch // ranks), batch // ranks
    return [range(first, first + micro) for first in range(start, start + size, micro)]


def micro_size(batch: int, micro: int, ranks: int) -> int:
    """Samples per forward pass: `micro`, or the rank's whole share where it is 0.

    Raises:
        LtError: the batch cannot be divided; names sizes that can.
    """
    if batch % ranks:
        fits = max(1, batch // ranks) * ranks
        raise LtError(f"A batch of {batch} cannot be shared by {ranks} ranks.", f"Try --set train.batch={fits}.")
    own = batch // ranks
    micro = min(micro or own, own)
    if own % micro:
        fits = max(size for size in range(1, micro + 1) if own % size == 0)
        raise LtError(
            f"Micro-batches of {micro} do not divide the {own} samples of a rank.", f"Try --set train.micro={fits}."
        )
    return micro


class ShardSet:
    """Shards by number, of one or several folders, with their sizes: random access for loader workers.

    Sizes come from manifests where there are any; else every shard's index is read once. `digest` names the data.
    """

    def __init__(self, sources: Sequence[Shards], cache_gb: float = 0.0):
        found = [entry for shards in sources for entry in _catalogue(shards)]
        self.urls = [url for url, _, _ in found]
        self.sizes = tuple(size for _, size, _ in found)
        self.digest = digest_of([identity for _, _, identity in found])
        self._cache_gb = cache_gb
        self._open: dict[int, Shard] = {}

    @classmethod
    def of(cls, wheres: Sequence[str], cache_gb: float = 0.0) -> "ShardSet":
        """Open folders, tars, brace patterns or URLs. Raises ShardError if one is not there or all are empty."""
        opened = cls([open_shards(where) for where in wheres], cache_gb)
        if not sum(opened.sizes):
            raise ShardError(f"No samples in {', '.join(wheres)}.", "`lt shards info` shows what a folder holds.")
        return opened

    def __len__(self) -> int:
        return sum(self.sizes)

    def read(self, shard: int, index: int) -> Sample:
        """One sample. Raises ShardError if its bytes are damaged or the shard is not what it was at the start."""
        opened = self._shard(shard)
        if len(opened.keys) != self.sizes[shard]:
            raise LtError(
                f"{self.urls[shard]} has {len(opened.keys)} samples, {self.sizes[shard]} were announced.",
                "It was changed while in use, or its manifest is wrong: `lt shards verify`.",
            )
        return opened.read(opened.keys[index])

    def groups(self, group_of: Callable[[Collection[str]], int]) -> list[np.ndarray]:
        """The group of every sample by the names of its fields: int32 [samples], one array a shard. Reads all indexes."""
        found = []
        for shard in range(len(self.sizes)):
            samples = self._shard(shard).index.samples.values()
            found.append(np.array([group_of(places.keys()) for places in samples], dtype=np.int32))
        return found

    def is_local(self, shard: int) -> bool:
        return Location(self.urls[shard]).is_local

    def key(self, shard: int, index: int) -> str:
        return self._shard(shard).keys[index]

    def _shard(self, number: int) -> Shard:
        if number in self._open:
            self._open[number] = self._open.pop(number)  # the least recently used one stays first
        else:
            self._open[number] = open_shard(Location(self.urls[number]), self._cache_gb)
            while len(self._open) > 1 and (len(self._open) > _OPEN_SHARDS or self._samples_open() > _OPEN_SAMPLES):
                self.close(next(iter(self._open)))
        return self._open[number]

    def _samples_open(self) -> int:
        return sum(self.sizes[number] for number in self._open)

    def close(self, shard: int) -> None:
        """Forget an open shard; the next read opens it again."""
        if opened := self._open.pop(shard, None):
            opened.close()

    def __getstate__(self) -> dict[str, Any]:  # open files stay behind
        return {**self.__dict__, "_open": {}}


def _catalogue(shards: Shards) -> list[tuple[str, int, list[str]]]:
    """(url, samples, identity) of every shard; a complete manifest spares reading the indexes."""
    entries = shards.manifest.shards if shards.manifest and shards.manifest.complete else []
    if len(entries) == len(shards.shards):
        pairs = zip(shards.shards, entries, strict=True)
        return [(shard.location.url, entry.count, [entry.name, entry.sha256]) for shard, entry in pairs]
    return [_entry(shard.location) for shard in shards.shards]


def _entry(location: Location) -> tuple[str, int, list[str]]:
    """A foreign shard is known by its name, size and where its fields lie: it may be copied or touched."""
    index = load_index(location)
    if index.sidecar is not None:
        return location.url, len(index.samples), [location.name, index.sidecar.sha256]
    return location.url, len(index.samples), [location.name, str(location.stat()[0]), digest_of(index.samples)]


def open_shard(location: Location, cache_gb: float) -> Shard:
    """A shard ready for random reads: a remote one is copied to the cache folder first, unless `cache_gb` is 0."""
    if location.is_local or not cache_gb:
        return Shard(location)
    shard = Shard(Location(str(_local_copy(location, cache_gb))))
    shard.index = load_index(location)
    return shard


def _local_copy(location: Location, cache_gb: float) -> Path:
    folder = lt_home() / "shards"
    folder.mkdir(parents=True, exist_ok=True)
    copy = folder / f"{digest_of([location.url, *location.stat()])[:32]}.tar"
    with copy.with_suffix(".lock").open("w") as lock:  # workers that want the same shard wait for the first
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.exists():
            _make_room(folder, location.stat()[0], cache_gb)
            with location.open() as source, atomic_file(copy, durable=False) as target:
                shutil.copyfileobj(source, target, 2**22)
    copy.touch()
    return copy


def _make_room(folder: Path, size: int, cache_gb: float) -> None:
    """Remove the copies that were opened longest ago; who has one open can go on reading it."""
    copies = sorted(folder.glob("*.tar"), key=lambda path: path.stat().st_mtime)
    total = size + sum(path.stat().st_size for path in copies)
    for path in copies:
        if total <= cache_gb * 2**30:
            break
        total -= path.stat().st_size
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Bad:
    """A sample that could not be used, and why."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class _Failure:
    """An error that ends the run, on its way from a worker to the training process."""

    message: str
    hint: str


@dataclass
class Examples(Dataset):
    """What loader workers run: positions to a collated batch. `replace` is off in validation: bad samples are left out."""

    shards: ShardSet
    order: Ordering
    example: Example
    replace: bool = True
    _bad: list[Bad] = field(default_factory=list)

    def __getitems__(self, positions: Sequence[int]) -> "Batch | _Failure":
        self._bad = []
        try:
            rows = [row for position in positions if (row := self._row(position)) is not None]
        except LtError as error:
            return _Failure(error.message, error.hint)
        batch = default_collate(rows) if rows else {"key": []}
        return {**batch, "bad": self._bad}

    def fetch(self, positions: Sequence[int]) -> Batch:
        """A batch, made in this process. Raises LtError where `__getitems__` returns a failure."""
        batch = self.__getitems__(positions)
        if isinstance(batch, _Failure):
            raise LtError(batch.message, batch.hint)
        return batch

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
) -> "Iterator[Batch]":
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
    if not workers:
        return DataLoader(examples, batch_sampler=slices, collate_fn=_as_is, pin_memory=pin)
    return DataLoader(
        examples,
        batch_sampler=slices,
        collate_fn=_as_is,
        pin_memory=pin,
        num_workers=workers,
        prefetch_factor=prefetch,
        persistent_workers=True,
        worker_init_fn=_follow,
        multiprocessing_context=_processes(examples.example),
    )


def _opened(loader: DataLoader) -> Iterator[Batch]:
    try:
        for batch in loader:
            if isinstance(batch, _Failure):
                raise LtError(batch.message, batch.hint)
            yield batch
    except RuntimeError as error:
        if "exited unexpectedly" not in str(error) and "killed by signal" not in str(error):
            raise
        raise LtError(
            f"A loader worker died ({str(error).splitlines()[0]}).",
            "Often the memory is full: fewer workers (--set data.workers=1). The same command continues.",
        ) from error


def _as_is(batch: Any) -> Any:
    return batch


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
