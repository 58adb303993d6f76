"""Batches of one group only: for samples whose tensors differ in shape by group, such as pictures of several sizes.

An epoch is the batches of all groups in a drawn order. Each group has its own `Order`, cut into whole batches; what fills no
whole batch of its group is left out of that epoch (other samples in another one, for the group's order is drawn anew) and
counted in `left_out`. Still a pure function of the position, so runs go on exactly where they stopped, see `order.py`.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from lt.datagen.shards import LtError
from lt.recipes.training.order import Order, Place, generator


class GroupedOrder(Order):
    """The order of a run whose batches hold one group each.

    Args:
        groups: the group of every sample, int [samples], one array a shard; as `ShardSet.groups` gives them.
        batch: samples in a batch. Positions n * batch to (n + 1) * batch - 1 are one batch.
        seed, window: of the groups' own orders.

    Raises:
        LtError: no group fills a batch.
    """

    def __init__(self, groups: Sequence[np.ndarray], batch: int, seed: int = 0, window: int = 8192):
        super().__init__([len(shard) for shard in groups], seed, window)
        self.groups, self.batch = list(groups), batch
        names = np.unique(np.concatenate(self.groups))
        self._members = [[np.flatnonzero(shard == name) for shard in self.groups] for name in names]
        self._orders = [Order([len(found) for found in members], seed, window) for members in self._members]
        whole = [len(order) // batch for order in self._orders]
        self._batches = np.repeat(np.arange(len(whole)), whole)
        self.left_out = sum(len(order) % batch for order in self._orders)
        if not len(self._batches):
            largest = max((len(order) for order in self._orders), default=0)
            raise LtError(
                f"No size of picture has a whole batch of {batch:,} samples; the commonest has {largest:,}.",
                f"Name more data, or smaller batches: --set train.batch={2 ** int(np.log2(max(1, largest)))}.",
            )
        self._laid_of = lru_cache(maxsize=2)(self._laid)

    def __len__(self) -> int:
        """Samples in one epoch."""
        return len(self._batches) * self.batch

    def __call__(self, position: int) -> Place:
        group, epoch, within = self._locate(position)
        order = self._orders[group]
        return self._place(group, order(epoch * len(order) + within))

    def substitute(self, position: int, attempt: int) -> Place:
        """Which sample of the same group stands in for a bad one at `position`; another one for each attempt."""
        group, epoch, _ = self._locate(position)
        return self._place(group, self._orders[group].substitute(position, attempt))._replace(epoch=epoch)

    def _locate(self, position: int) -> tuple[int, int, int]:
        """(group, epoch, place in the group's own epoch)."""
        number, offset = divmod(position, self.batch)
        epoch, row = divmod(number, len(self._batches))
        laid, ranks = self._laid_of(epoch)
        return int(laid[row]), epoch, int(ranks[row]) * self.batch + offset

    def _place(self, group: int, own: Place) -> Place:
        return own._replace(index=int(self._members[group][own.shard][own.index]))

    def _laid(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The group of each batch of this epoch, and how many batches of the same group come before it."""
        laid = generator(self.seed, 5, epoch).permutation(self._batches)
        ranks = np.empty_like(laid)
        for group in range(len(self._orders)):
            ranks[laid == group] = np.arange((laid == group).sum())
        return laid, ranks

    def __reduce__(self):  # caches do not cross process borders
        return GroupedOrder, (self.groups, self.batch, self.seed, self.window)
