"""Each filter's reason and figure."""

import numpy as np
from known_pictures import disc, instance, sample_of, smooth_background
from PIL import Image

from lt.datagen.shards import Reject, Sample
from lt.datagen.stages.filters import (
    DropDuplicates,
    FilterEntities,
    FilterRecomposition,
    border_share,
    largest_piece,
)
from lt.datagen.stages.masks import MASKS
from lt.datagen.stages.matte import ALPHA


def picture(seed, size=(160, 200)):
    rng = np.random.default_rng(seed)
    return np.asarray(Image.fromarray(rng.integers(0, 255, (8, 10, 3), dtype=np.uint8)).resize(size[::-1]))


def test_near_duplicates_name_the_first_and_the_distance():
    first = picture(0)
    again = np.asarray(Image.fromarray(first).resize((150, 120)))
    samples = [Sample("a", {"png": first}), Sample("b", {"png": picture(1)}), Sample("c", {"png": again})]
    kept_a, kept_b, reject = DropDuplicates()(iter(samples))
    assert (kept_a.key, kept_b.key) == ("a", "b")
    assert isinstance(reject, Reject)
    assert (reject.reason, reject.detail) == ("near-duplicate", "looks like a")
    assert 0 <= reject.figure <= 4


def test_duplicates_are_looked_for_within_one_task_only():
    stage = DropDuplicates()
    for _ in range(2):
        (kept,) = stage(iter([Sample("a", {"png": picture(0)})]))
        assert isinstance(kept, Sample)


def test_negative_distance_keeps_all():
    samples = [Sample(key, {"png": picture(0)}) for key in "ab"]
    assert all(isinstance(item, Sample) for item in DropDuplicates(distance=-1)(iter(samples)))


def test_tiny_and_undecodable_pictures():
    small, broken = DropDuplicates()(iter([Sample("a", {"png": picture(0, (50, 200))}), Sample("b", {"png": b"no"})]))
    assert (small.reason, small.figure) == ("picture-too-small", 50)
    assert broken.reason == "undecodable-image"


def filtered(masks, **settings):
    sample = sample_of(np.zeros((100, 100, 3), np.uint8), [])
    sample.meta["entities"] = [{"category": "cup", "instances": [n]} for n in range(len(masks))]
    sample[MASKS] = np.stack(masks)
    return FilterEntities(**settings).process(sample)


def box(x, y, w, h):
    mask = np.zeros((100, 100), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def test_entities_that_fail_stay_background_and_say_why():
    pieces = np.any([box(10 + 20 * n, 40, 10, 10) for n in range(4)], axis=0)
    sample = filtered([box(40, 40, 30, 30), box(0, 0, 5, 5), pieces, box(0, 0, 100, 10)])
    assert [entity["instances"] for entity in sample.meta["entities"]] == [[0]]
    assert sample[MASKS].shape == (1, 100, 100)
    found = {left["reason"]: left["figure"] for left in sample.meta["left_in_background"]}
    assert found == {"too-small": 0.0025, "too-fragmented": 0.25, "touches-border": round(118 / 216, 3)}


def test_a_sample_without_a_good_entity_is_rejected_by_its_largest():
    reject = filtered([box(0, 0, 100, 40)])
    assert (reject.reason, reject.figure) == ("touches-border", round((100 + 2 * 39) / 276, 3))


def test_joined_instances_may_lie_apart():
    sample = sample_of(np.zeros((100, 100, 3), np.uint8), [])
    sample.meta["entities"] = [{"category": "cup", "instances": [1, 2, 3]}]
    sample[MASKS] = np.any([box(10 + 30 * n, 40, 20, 20) for n in range(3)], axis=0)[None]
    assert isinstance(FilterEntities().process(sample), Sample)


def test_measures():
    assert largest_piece(box(0, 0, 10, 10) | box(50, 50, 10, 30)) == 0.75
    assert largest_piece(np.zeros((5, 5), bool)) == 0
    assert border_share(box(10, 10, 20, 20)) == 0
    assert border_share(np.ones((10, 10), bool)) == 1


def test_poor_recomposition_and_vanished_layers():
    sample = sample_of(smooth_background((60, 60)).astype(np.uint8), [instance(1, box(0, 0, 9, 9))])
    sample[ALPHA] = disc((60, 60), (30, 30), 15)[None]
    sample.meta["recomposition"] = {"rms": 0.02, "psnr_db": 33.98}
    reject = FilterRecomposition().process(sample)
    assert (reject.reason, reject.figure) == ("poor-recomposition", 33.98)
    sample.meta["recomposition"]["psnr_db"] = 41.0
    assert FilterRecomposition().process(sample) is sample
    sample[ALPHA] = sample[ALPHA] * 0.4
    reject = FilterRecomposition().process(sample)
    assert (reject.reason, reject.figure) == ("layer-vanished", 0.0)
