"""Shards as a source: ours or foreign, local or remote. What cannot be trusted in them becomes a reject."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from lt.datagen.shards import Reject, Sample, Shards, open_shards
from lt.datagen.shards.reader import shard_identity


@dataclass(frozen=True)
class ShardSource:
    """Every sample of `where` (folder, tar, brace pattern or URL); one input shard is one task."""

    where: str
    name: ClassVar[str] = "shards"

    def settings(self) -> dict[str, Any]:
        return {}

    def inputs(self) -> list[str]:
        return [":".join(shard_identity(shard)) for shard in self._shards.shards]

    def licences(self) -> list[str]:
        return list(self._shards.manifest.licences) if self._shards.manifest else []

    def splits(self) -> list[int]:
        return list(range(len(self._shards.shards)))

    def read(self, split: int) -> Iterator[Sample | Reject]:
        bad: list[Reject] = []
        for sample in self._shards.shards[split].samples(on_bad=bad.append):
            yield from bad
            bad.clear()
            yield sample.adopted()
        yield from bad

    @cached_property
    def _shards(self) -> Shards:
        return open_shards(self.where)
