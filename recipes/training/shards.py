"""The shards of a run by number: sizes, digest, random access for loader workers, copies of remote shards."""

import fcntl
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, Sample, ShardError, open_shards
from lt.datagen.shards.index import index_of
from lt.datagen.shards.reader import Shard, Shards, shard_identity
from lt.datagen.shards.remote import Location
from lt.datagen.shards.storage import atomic_file, digest_of, lt_home

_OPEN_SHARDS = 256
_OPEN_SAMPLES = 200_000
"""A worker keeps the indexes of so many shards, together of so many samples (about 1 kB each): a window should fit."""


class ShardSet:
    """Shards by number, of one or several folders, with their sizes: random access for loader workers.

    Sizes come from manifests where there are any; else every shard's index is read once. `digest` names the data,
    whatever code made them.
    """

    def __init__(self, wheres: Sequence[str], cache_gb: float = 0.0):
        """Open folders, tars, brace patterns or URLs. Raises ShardError if one is not there or all are empty."""
        found = [entry for where in wheres for entry in _catalogue(open_shards(where))]
        self.urls = [url for url, _, _ in found]
        self.sizes = tuple(size for _, size, _ in found)
        self.digest = digest_of([identity for _, _, identity in found])
        self._cache_gb = cache_gb
        self._open: dict[int, Shard] = {}
        if not len(self):
            raise ShardError(f"No samples in {', '.join(wheres)}.", "`lt shards info` shows what a folder holds.")

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
        indexes = (self._shard(shard).index for shard in range(len(self.sizes)))
        return [np.array([group_of(one.keys()) for one in index.samples.values()], np.int32) for index in indexes]

    def is_local(self, shard: int) -> bool:
        return Location(self.urls[shard]).is_local

    def key(self, shard: int, index: int) -> str:
        return self._shard(shard).keys[index]

    def _shard(self, number: int) -> Shard:
        if number in self._open:
            self._open[number] = self._open.pop(number)  # the least recently used one stays first
        else:
            self._open[number] = open_shard(Location(self.urls[number]), self._cache_gb)
            while len(self._open) > 1 and self._are_too_many():
                self.close(next(iter(self._open)))
        return self._open[number]

    def _are_too_many(self) -> bool:
        return len(self._open) > _OPEN_SHARDS or sum(self.sizes[number] for number in self._open) > _OPEN_SAMPLES

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
        return [(shard.location.url, entry.count, [entry.name, entry.content]) for shard, entry in pairs]
    opened = (Shard(shard.location) for shard in shards.shards)  # not kept: an index takes 1 kB a sample
    return [(shard.location.url, len(shard), shard_identity(shard)) for shard in opened]


def open_shard(location: Location, cache_gb: float) -> Shard:
    """A shard ready for random reads: a remote one is copied to the cache folder first, unless `cache_gb` is 0."""
    if location.is_local or not cache_gb:
        return Shard(location)
    shard = Shard(Location(str(_local_copy(location, cache_gb))))
    shard.index = index_of(location)[0]
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
