"""The order of samples is a pure function; workers, ranks and micro-batches do not change what a run sees."""

import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st

from lt.datagen.shards import LtError, Sample, ShardError
from lt.datagen.shards.manifest import Sidecar
from lt.recipes.training import loader
from lt.recipes.training.loader import Examples, Validation, training_loader
from lt.recipes.training.order import Order, micro_size, share
from lt.recipes.training.shards import ShardSet

SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(sum)


@given(SIZES, st.integers(0, 2**40), st.integers(1, 100), st.integers(0, 5))
def test_every_sample_comes_exactly_once_per_epoch(sizes, seed, window, epoch):
    order = Order(sizes, seed, window)
    total = len(order)
    places = [order(position) for position in range(epoch * total, (epoch + 1) * total)]
    assert {place.epoch for place in places} == {epoch}
    everything = [(shard, index) for shard, size in enumerate(sizes) for index in range(size)]
    assert sorted((place.shard, place.index) for place in places) == everything


@given(SIZES, st.integers(0, 99), st.integers(1, 100), st.lists(st.integers(0, 1000), min_size=1, max_size=30))
def test_any_position_can_be_asked_in_any_order(sizes, seed, window, positions):
    order = Order(sizes, seed, window)
    one_by_one = {position: order(position) for position in range(max(positions) + 1)}
    fresh = pickle.loads(pickle.dumps(order))
    assert [fresh(position) for position in positions] == [one_by_one[position] for position in positions]


@given(SIZES, st.integers(0, 99), st.integers(1, 40))
def test_a_sample_stays_inside_its_window(sizes, seed, window):
    """Windows are cut from the permuted shards laid end to end: what is read at a time is bounded."""
    order = Order(sizes, seed, window)
    shards, _ = order._row(0)
    row = [(int(shard), index) for shard in shards for index in range(sizes[shard])]
    for position in range(len(order)):
        place = order(position)
        assert row.index((place.shard, place.index)) // window == position // window


def test_epochs_and_seeds_differ_and_validation_is_in_order():
    order = Order([50, 50], 1, 1000)
    first, second = ([order(p)[1:] for p in range(start, start + 100)] for start in (0, 100))
    assert first != second and sorted(first) == sorted(second)
    assert [Order([50, 50], 2, 1000)(p)[1:] for p in range(100)] != first
    assert [Order([2, 1], window=0)(p) for p in range(4)] == [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]


def test_a_window_over_everything_is_a_fair_shuffle():
    """With the window over all samples, the mean place of each is the middle: 400 epochs, 6 standard errors."""
    order, epochs, total = Order([5] * 4, 3, 20), 400, 20
    places = np.zeros(total)
    for position in range(epochs * total):
        place = order(position)
        places[place.shard * 5 + place.index] += position % total
    assert abs(places / epochs - (total - 1) / 2).max() < 6 * np.sqrt((total**2 - 1) / 12 / epochs)


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5))
def test_ranks_and_micro_batches_cut_a_step_into_its_positions(step, ranks, parts, micro):
    batch = ranks * parts * micro
    positions = [p for rank in range(ranks) for part in share(step, batch, rank, ranks, micro) for p in part]
    assert positions == list(range(step * batch, (step + 1) * batch))


def test_sizes_that_do_not_divide_are_refused_with_one_that_does():
    assert (micro_size(48, 0, 2), micro_size(48, 100, 2), micro_size(48, 8, 2)) == (24, 24, 8)
    with pytest.raises(LtError, match=r"48 cannot be shared by 5 ranks. Try --set train.batch=45"):
        micro_size(48, 0, 5)
    with pytest.raises(LtError, match=r"Micro-batches of 9 do not divide the 24 .*train.micro=8"):
        micro_size(48, 9, 2)


def _examples(where, seed=0, window=64, **options) -> Examples:
    found = ShardSet([str(where)])
    return Examples(found, Order(found.sizes, seed, window), toy.Crop(), **options)


def _rows(examples: Examples, slices, workers: int) -> tuple[list[str], torch.Tensor, list]:
    made = list(training_loader(examples, iter(slices), workers, 2, pin=False))
    keys = [key for batch in made for key in batch["key"]]
    return keys, torch.cat([batch["image"] for batch in made]), [bad for batch in made for bad in batch["bad"]]


def test_workers_ranks_and_micro_batches_give_the_same_rows(shards):
    """Also the augmentation: noise is drawn per (seed, epoch, sample). 13 steps run into the second epoch."""
    examples = _examples(shards)
    steps = range(13)
    alone = _rows(examples, [part for s in steps for part in share(s, 24, 0, 1, 24)], 0)
    for workers in (1, 3):
        keys, images, _ = _rows(examples, [part for s in steps for part in share(s, 24, 0, 1, 8)], workers)
        assert keys == alone[0] and torch.equal(images, alone[1])
    ranks = [_rows(examples, [p for s in steps for p in share(s, 24, rank, 2, 6)], 0) for rank in range(2)]
    images = torch.stack([rank[1].view(13, 12, -1) for rank in ranks], 1).view(alone[1].shape)
    assert torch.equal(images, alone[1])
    assert not torch.equal(alone[1][:24], _rows(_examples(shards, seed=1), [range(24)], 0)[1])


def test_resuming_in_the_middle_gives_the_rest(shards):
    examples = _examples(shards)
    everything = _rows(examples, [range(s * 10, s * 10 + 10) for s in range(30)], 0)
    rest = _rows(examples, [range(s * 10, s * 10 + 10) for s in range(17, 30)], 1)
    assert rest[0] == everything[0][170:] and torch.equal(rest[1], everything[1][170:])


def test_bad_samples_keep_their_place_and_are_replaced_the_same_way_each_time(tmp_path):
    keys = toy.write_shards(tmp_path, 80, bad=(3, 41, 42))
    rejected = {keys[number] for number in (3, 41, 42)}
    examples = _examples(tmp_path)
    seen, _, bad = _rows(examples, [range(40), range(40, 80)], 0)
    assert {one.key for one in bad} == rejected and {one.reason for one in bad} == {"undecodable-image"}
    where = [examples.order(position) for position in range(80)]
    own = [examples.shards.key(place.shard, place.index) for place in where]
    assert [one == other for one, other in zip(seen, own, strict=True)] == [key not in rejected for key in own]
    assert not rejected & set(seen)
    again, _, counted = _rows(examples, [range(20), range(20, 80)], 1)
    assert again == seen and [(one.key, one.reason) for one in counted] == [(one.key, one.reason) for one in bad]


def test_damaged_bytes_are_a_bad_sample_and_nothing_but_bad_ones_ends_the_run(tmp_path):
    keys = toy.write_shards(tmp_path, 30, per_shard=30)
    shard = tmp_path / "shard-000000.tar"
    offset, _, _ = Sidecar.load(tmp_path / "shard-000000.json").index[keys[0]]["png"]
    data = bytearray(shard.read_bytes())
    data[offset] ^= 1
    shard.write_bytes(data)
    _, _, bad = _rows(_examples(tmp_path), [range(30)], 0)
    assert [(one.key, one.reason) for one in bad] == [(keys[0], "damaged-bytes")]
    toy.write_shards(tmp_path / "all", 30, bad=tuple(range(30)))
    for workers in (0, 1):
        with pytest.raises(LtError, match=r"32 bad samples in a row, the last: toy-000.. .undecodable-image"):
            _rows(_examples(tmp_path / "all"), [range(30)], workers)


def test_validation_leaves_bad_samples_out_and_can_be_iterated_again(tmp_path):
    keys = toy.write_shards(tmp_path, 50, bad=(0, 1, 2, 3, 20))
    validation = Validation(_examples(tmp_path, window=0, replace=False), 48, 4, 1, pin=False)
    for _ in range(2):
        made = list(validation)
        assert [key for batch in made for key in batch["key"]] == [
            keys[n] for n in range(48) if n not in (0, 1, 2, 3, 20)
        ]
    assert torch.equal(made[0]["image"], next(iter(validation))["image"]), "no augmentation"


def test_a_dead_worker_is_explained(shards):
    found = ShardSet([str(shards)])
    with pytest.raises(LtError, match=r"A loader worker died .*data.workers=1"):
        _rows(Examples(found, Order(found.sizes), toy.Dying()), [range(4)], 1)


def _foreign(path, count: int) -> None:
    """A tar as img2dataset writes it: no sidecar, no manifest."""
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            fields = {"png": np.full((16, 16, 3), number, np.uint8), "json": {"colour": number % 4}}
            sample = Sample(f"{number:05d}", fields)
            for field in ("png", "json"):
                info = tarfile.TarInfo(f"{number:05d}.{field}")
                info.size = len(sample.encoded(field))
                tar.addfile(info, io.BytesIO(sample.encoded(field)))


def test_foreign_shards_and_several_folders_are_read_alike(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    (tmp_path / "foreign").mkdir()
    _foreign(tmp_path / "foreign" / "00000.tar", 7)
    toy.write_shards(tmp_path / "ours", 5)
    found = ShardSet([str(tmp_path / "foreign"), str(tmp_path / "ours")])
    assert found.sizes == (7, 5)
    keys, _, _ = _rows(Examples(found, Order(found.sizes), toy.Crop()), [range(12)], 0)
    assert sorted(keys) == [f"{n:05d}" for n in range(7)] + [f"toy-{n:05d}" for n in range(5)]
    before = found.digest
    (tmp_path / "foreign" / "00000.tar").touch()
    assert ShardSet([str(tmp_path / "foreign"), str(tmp_path / "ours")]).digest == before
    _foreign(tmp_path / "foreign" / "00000.tar", 8)
    assert ShardSet([str(tmp_path / "foreign"), str(tmp_path / "ours")]).digest != before
    with pytest.raises(LtError, match="8 samples, 7 were announced"):
        pickle.loads(pickle.dumps(found)).read(0, 0)  # as a worker that starts now


def test_remote_shards_are_copied_once_and_the_oldest_copy_goes(tmp_path, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    toy.write_shards(tmp_path / "ours", 60, per_shard=20)
    remote = fsspec.filesystem("memory")
    for path in (tmp_path / "ours").iterdir():
        remote.pipe(f"/toy-remote/{path.name}", path.read_bytes())
    found = ShardSet(["memory://toy-remote"], cache_gb=1)
    assert found.digest == ShardSet([str(tmp_path / "ours")]).digest, "where the bytes lie does not matter"
    seen, images, _ = _rows(Examples(found, Order(found.sizes), toy.Crop()), [range(60)], 0)
    local, expected, _ = _rows(_examples(tmp_path / "ours", window=8192), [range(60)], 0)
    assert seen == local and torch.equal(images, expected)
    copies = tmp_path / "home" / "shards"
    assert len(list(copies.glob("*.tar"))) == 3
    size = (tmp_path / "ours" / "shard-000000.tar").stat().st_size
    tight = ShardSet(["memory://toy-remote"], cache_gb=1.5 * size / 2**30)
    (copies / next(copies.glob("*.tar"))).unlink()
    assert [tight.read(shard, 0).key for shard in range(3)] == ["toy-00000", "toy-00020", "toy-00040"]
    assert len(list(copies.glob("*.tar"))) < 3
    direct = ShardSet(["memory://toy-remote"], cache_gb=0)
    assert direct.read(1, 3).key == "toy-00023"


def test_a_store_that_does_not_answer_is_asked_again_and_then_stops_the_run(shards, monkeypatch):
    naps, answers = [], iter([ShardError("no answer"), ShardError("no answer"), None])
    found = ShardSet([str(shards)])
    read = found.read

    def unreliable(shard, index):
        if error := next(answers, None):
            raise error from ConnectionError()
        return read(shard, index)

    monkeypatch.setattr(found, "read", unreliable)
    monkeypatch.setattr(loader.time, "sleep", naps.append)
    assert len(_rows(Examples(found, Order(found.sizes), toy.Crop()), [range(3)], 0)[0]) == 3
    assert naps == [1, 5]
    answers = iter([ShardError("gone")] * 9)
    with pytest.raises(LtError, match="gone"):
        _rows(Examples(found, Order(found.sizes), toy.Crop()), [range(3)], 0)


def test_nothing_there_is_said():
    with pytest.raises(ShardError, match="No shards"):
        ShardSet(["nowhere"])
