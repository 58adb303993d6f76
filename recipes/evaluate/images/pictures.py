"""Sets of pictures to be measured, at one size, and their features: computed once, cached under LT_HOME by digest."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from safetensors import safe_open

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, Sample, SampleError, Shards, open_shards
from lt.datagen.shards.storage import digest_of, lt_home
from lt.recipes.evaluate.features import store_tensors
from lt.recipes.evaluate.images.inception import Inception
from lt.recipes.judge.judge import Judge
from lt.recipes.pictures import Size, fitted

Answer = TypeVar("Answer")
BATCH = 32
_CACHE_VERSION = 2
"""Goes up when pictures are read or prepared otherwise."""


Extractor = Judge | Inception
"""What turns pictures into features, and says what the Fréchet and the kernel distance of these are called."""


@dataclass(frozen=True)
class PictureSet:
    """The first `limit` pictures of shards; what cannot be decoded is counted in `passed_over`.

    Args:
        where: folder, tar, pattern or URL.
        limit: None = all.
        size: (width, height) that every picture is scaled and cut to; None = they are of one size, which they keep.
    """

    where: str
    limit: int | None = None
    size: Size | None = None
    passed_over: Counter[str] = field(default_factory=Counter)

    @cached_property
    def shards(self) -> Shards:
        return open_shards(self.where)

    @cached_property
    def count(self) -> int:
        """Samples, whether their pictures can be decoded or not."""
        return min(self.limit or len(self.shards), len(self.shards))

    @cached_property
    def digest(self) -> str:
        return digest_of([self.shards.digest(), self.count])

    @cached_property
    def own_size(self) -> Size:
        """(width, height) of the pictures: that of the first one where none was asked for.

        Raises:
            LtError: there is no picture.
        """
        if self.size:
            return self.size
        for sample in self._decoded():
            return sample.picture.shape[1], sample.picture.shape[0]
        raise self.empty

    @property
    def empty(self) -> LtError:
        """What to raise where there is no picture."""
        return LtError(f"{self.where} holds no picture.", f"`lt shards info {self.where}` tells what it holds.")

    def samples(self) -> Iterator[Sample]:
        """Samples whose pictures can be decoded, in order, each with its picture at `own_size`.

        Raises:
            LtError: a picture of another size than the first, or one that would have to be enlarged.
        """
        width, height = self.own_size
        for sample in islice(self._decoded(), self.limit):
            picture = sample.picture
            found = picture.shape[1], picture.shape[0]
            if found != (width, height):
                self._check_size(sample.key, found, (width, height))
                sample[sample.picture_field] = fitted(picture, width, height)
            yield sample

    def asked(self, ask: Callable[[Sample], Answer], bad: Counter[str]) -> Iterator[tuple[Sample, Answer]]:
        """Samples with what they answer; those that do with a SampleError are counted in `bad`."""
        for sample in self.samples():
            try:
                yield sample, ask(sample)
            except SampleError as error:
                bad[error.reason] += 1

    def _decoded(self) -> Iterator[Sample]:
        self.passed_over.clear()
        for sample in self.shards.samples(on_bad=lambda reject: self.passed_over.update([reject.reason])):
            try:
                _ = sample.picture
            except SampleError as error:
                self.passed_over[error.reason] += 1
                continue
            yield sample

    def _check_size(self, key: str, found: Size, wanted: Size) -> None:
        what = f"{key} of {self.where} is {found[0]}x{found[1]}, the drawn pictures are {wanted[0]}x{wanted[1]}"
        if self.size is None:
            raise LtError(f"{what}: they are not all of one size.", "Measure each size by itself.")
        if found[0] < wanted[0] or found[1] < wanted[1]:
            raise LtError(f"{what}: enlarging the reference would blur it.", "Name a reference of that size or larger.")


@dataclass(frozen=True)
class Extracted:
    """Features float32 [n, d] of a set, and what was passed over."""

    features: np.ndarray
    passed_over: dict[str, int]
    from_cache: bool


def extract(pictures: PictureSet, extractor: Extractor, cache: bool = True) -> Extracted:
    """Features of a set, from the cache where they are there.

    Raises:
        LtError: no picture could be used; see `PictureSet.samples`.
    """
    how = [extractor.name, extractor.digest, extractor.resize]
    identity = [_CACHE_VERSION, how, pictures.digest, pictures.own_size]
    path = lt_home() / "features" / f"images-{digest_of(identity)[:40]}.safetensors"
    if cache and path.is_file():
        with safe_open(path, "pt") as file:
            return Extracted(file.get_tensor("features").numpy(), json.loads(file.metadata()["passed_over"]), True)
    groups = batched(pictures.samples(), BATCH)
    parts = [extractor.features([sample.picture for sample in group]) for group in groups]
    if not parts:
        raise pictures.empty
    features = np.concatenate(parts).astype(np.float32)
    if cache:
        told = {"passed_over": json.dumps(pictures.passed_over)}
        store_tensors(path, {"features": torch.from_numpy(features)}, told)
    return Extracted(features, dict(pictures.passed_over), False)
