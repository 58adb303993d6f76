"""Shards as a source: ours or foreign, local or remote. What cannot be trusted in them becomes a reject."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from lt.datagen.engine.stage import SampleSource
from lt.datagen.shards import Reject, Sample, Shards, open_shards
from lt.datagen.shards.reader import shard_identity


@dataclass(frozen=True)
class ShardSource(SampleSource):
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

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample | Reject]]]:
        bad: list[Reject] = []
        for sample in self._shards.shards[split].samples(on_bad=bad.append):
            while bad:
                yield _as_item(bad.pop(0))
            yield _as_item(sample.adopted())
        yield from map(_as_item, bad)

    @cached_property
    def _shards(self) -> Shards:
        return open_shards(self.where)


def _as_item(read: Sample | Reject) -> tuple[Sample, Callable[[], Sample | Reject]]:
    return (read if isinstance(read, Sample) else Sample(read.key)), lambda: read
