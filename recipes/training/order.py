"""The order of a run's samples: exactly once, from any position.

The order of the samples is a pure function of (sizes of the shards, seed, window): `Order`. The position in it is one integer,
the number of samples that the run has consumed over all ranks. Step s with batch B takes the positions from s*B to s*B + B-1; of
these rank r of R takes the r-th R-th, and cuts it into micro-batches. Loader workers only fetch what they are told, so a run that
was killed anywhere goes on with exactly the sample where it stopped, also with other workers, ranks or micro-batches.

Shuffling: per epoch the shards are permuted and laid end to end; that row is cut into windows of W samples, and each window is
permuted. Two samples of one shard thus lie at most W + (the shard's size) places apart.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from lt.datagen.shards import LtError


class Place(NamedTuple):
    """Where a sample lies: the pass over the data, the number of the shard, the sample's number in it."""

    epoch: int
    shard: int
    index: int


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
