"""Worlds that make any number of samples: each depends on seed, split and its own number alone, never on order or workers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any, ClassVar

from lt.datagen.engine.stage import SampleSource, ranges
from lt.datagen.shards import Sample
from lt.datagen.shards.errors import UsageError

MIN_SIZE, MAX_SIZE = 64, 4096


@dataclass(frozen=True)
class NumberedSource(SampleSource):
    """Samples `0 .. count - 1` of a split and seed; override `sample`.

    Args:
        count: how many samples.
        split: one of `known_splits`.
        seed: any integer.
        size: side of the pictures in pixels, 64 to 4096.
        shard_size: samples a shard.

    Raises:
        UsageError: a value is outside its range.
    """

    count: int
    split: str = "train"
    seed: int = 0
    size: int = 256
    shard_size: int = 500
    name: ClassVar[str] = ""
    thing: ClassVar[str] = ""
    """What a sample's key begins with; the name unless a world says otherwise."""
    known_splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __post_init__(self) -> None:
        if self.split not in self.known_splits:
            near = get_close_matches(self.split, self.known_splits, 1)
            hint = f"Did you mean {near[0]!r}? " if near else ""
            raise UsageError(
                f"{self.name} has no split {self.split!r}.", f"{hint}Known: {', '.join(self.known_splits)}."
            )
        if not MIN_SIZE <= self.size <= MAX_SIZE:
            raise UsageError(f"size is {self.size} pixels.", f"Choose {MIN_SIZE} to {MAX_SIZE}.")
        if self.count < 1 or self.shard_size < 1:
            raise UsageError(f"count is {self.count}, shard_size {self.shard_size}.", "Both must be 1 or more.")

    def sample(self, number: int) -> Sample:
        """The sample of this number."""
        raise NotImplementedError

    def splits(self) -> list[list[int]]:
        """[first, end) ranges of numbers."""
        return ranges(self.count, self.shard_size)

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample]]]:
        for number in range(*split):
            yield Sample(self.key(number)), partial(self.sample, number)

    def key(self, number: int) -> str:
        return f"{self.thing or self.name}-{self.split}-{self.seed}-{number:06d}"
