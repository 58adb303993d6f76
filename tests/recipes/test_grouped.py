"""Batches of one group: each sample once an epoch, remainders counted, and the same batches for any workers after any stop."""

import pickle
from collections import Counter

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from lt.datagen.shards import LtError, Sample, ShardWriter
from lt.recipes.training.grouped import GroupedOrder
from lt.recipes.training.loader import Examples, Validation, training_loader
from lt.recipes.training.order import Order, share
from lt.recipes.training.shards import ShardSet

GROUPS = st.lists(st.lists(st.integers(0, 3), max_size=30), min_size=1, max_size=6)


@given(GROUPS, st.integers(1, 4), st.integers(0, 99), st.integers(1, 50), st.integers(0, 3))
def test_an_epoch_has_every_sample_once_but_the_counted_remainders(shards, batch, seed, window, epoch):
    sizes = Counter(group for shard in shards for group in shard)
    if not any(size >= batch for size in sizes.values()):
        with pytest.raises(LtError, match="whole batch"):
            GroupedOrder([np.array(shard, dtype=int) for shard in shards], batch, seed, window)
        return
    order = GroupedOrder([np.array(shard, dtype=int) for shard in shards], batch, seed, window)
    assert order.left_out == sum(size % batch for size in sizes.values()) == sizes.total() - len(order)
    places = [order(position) for position in range(epoch * len(order), (epoch + 1) * len(order))]
    assert {place.epoch for place in places} == {epoch}
    assert len({(place.shard, place.index) for place in places}) == len(order)
    group_of = [shards[place.shard][place.index] for place in places]
    assert all(len(set(group_of[first : first + batch])) == 1 for first in range(0, len(order), batch))
    fresh = pickle.loads(pickle.dumps(order))
    assert [fresh(position) for position in range((epoch + 1) * len(order))][epoch * len(order) :] == places
    stand_in = order.substitute(epoch * len(order), 1)
    assert shards[stand_in.shard][stand_in.index] == group_of[0] and stand_in.epoch == epoch


def test_epochs_mix_the_groups_anew_and_leave_out_others():
    order = GroupedOrder([np.arange(60) % 3, np.zeros(41, int)], 8, seed=1)
    epochs = [[order(p)[1:] for p in range(e * len(order), (e + 1) * len(order))] for e in range(3)]
    assert order.left_out == 61 % 8 + 20 % 8 + 20 % 8
    assert epochs[0] != epochs[1] and len({frozenset(epoch) for epoch in epochs}) == 3
    assert set(epochs[0]) | set(epochs[1]) | set(epochs[2]) > set(epochs[0])


def _write(folder, shards=3, each=14):
    """Squares of 8 pixels and bars of 4x8, told apart by their fields."""
    for number in range(shards):
        with ShardWriter(folder / f"shard-{number:06d}.tar", durable=False) as writer:
            for index in range(each):
                wide = (number + index) % 3 == 0
                pixels = np.full((4 if wide else 8, 8), 10 * number + index, np.uint8)
                writer.write(Sample(f"s-{number}-{index:02d}", {f"image-{int(wide):02d}.npy": pixels}))


def group_of(fields) -> int:
    return int("image-01.npy" in fields)


def _batches(shards, slices, workers):
    order = GroupedOrder(shards.groups(group_of), 6, seed=3, window=16)
    loader = training_loader(Examples(shards, order, toy.OnlyField()), iter(slices), workers, 2, pin=False)
    return [(batch["key"], tuple(batch["image"].shape[1:])) for batch in loader]


def test_a_run_goes_on_with_the_same_batches_with_other_workers_and_ranks(tmp_path):
    _write(tmp_path)
    shards = ShardSet([str(tmp_path)])
    steps = range(12)  # into the second epoch
    whole = _batches(shards, [part for s in steps for part in share(s, 6, 0, 1, 6)], 0)
    assert {shape for _, shape in whole} == {(8, 8), (4, 8)}
    assert _batches(shards, [part for s in steps[5:] for part in share(s, 6, 0, 1, 6)], 2) == whole[5:]
    ranks = [_batches(shards, [part for s in steps for part in share(s, 6, r, 2, 3)], 0) for r in range(2)]
    assert [(a[0] + b[0], a[1]) for a, b in zip(*ranks, strict=True)] == whole
    assert all(a[1] == b[1] for a, b in zip(*ranks, strict=True)), "ranks work on one size at a time"


def test_validation_shows_every_sample_once_in_batches_of_one_group(tmp_path):
    _write(tmp_path)
    shards = ShardSet([str(tmp_path)])
    examples = Examples(shards, Order(shards.sizes, window=0), toy.OnlyField(), replace=False)
    shown = list(Validation(examples, 40, 8, 0, False, shards.groups(group_of)))
    keys = [key for batch in shown for key in batch["key"]]
    assert sorted(keys) == [shards.key(*examples.order(position)[1:]) for position in range(40)]
    assert {tuple(batch["image"].shape[1:]) for batch in shown} == {(8, 8), (4, 8)}


def test_plain_runs_are_grouped_by_nothing(shards):
    found = ShardSet([str(shards)])
    examples = Examples(found, Order(found.sizes, window=0), toy.Crop(), replace=False)
    shown = [batch["key"] for batch in Validation(examples, 50, 20, 0, False)]
    assert [len(keys) for keys in shown] == [20, 20, 10]
    rows = [found.read(*examples.order(position)[1:]) for position in range(20)]
    assert shown[0] == [row.key for row in rows]
