"""Depth order from masks and picture."""

import cv2
import numpy as np
from known_pictures import instance, sample_of

from lt.datagen.stages.entities import ChooseEntities
from lt.datagen.stages.masks import MASKS, MakeMasks
from lt.datagen.stages.zorder import (
    OrderLayers,
    best_order,
    bite_cue,
    overlap_cue,
    pair_cues,
    shared_boxes,
    support_cue,
    total,
    within_cue,
)


def box(x, y, w, h):
    mask = np.zeros((100, 100), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def ordered(known):
    front, behind = known.alphas[1] > 0.5, (known.alphas[0] > 0.5) & ~(known.alphas[1] > 0.5)
    sample = sample_of(known.picture, [instance(1, front), instance(2, behind)])
    for stage in (ChooseEntities(), MakeMasks(), OrderLayers()):
        sample = stage.process(sample)
    return sample


def test_the_disc_that_bites_lies_in_front(two_discs):
    sample = ordered(two_discs)
    assert [entity["instances"] for entity in sample.meta["entities"]] == [[2], [1]]
    assert np.array_equal(sample[MASKS][1], two_discs.alphas[1] > 0.5)
    (pair,) = sample.meta["zorder"]
    assert (pair["front"], pair["behind"], pair["touching"]) == (1, 0, True)
    assert pair["cues"]["bite"] > 0.5
    assert 0 < pair["strength"] <= 1


def test_shared_pixels_belong_to_whom_they_look_like():
    a, b = box(10, 10, 50, 50), box(40, 10, 50, 50)
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[b], rgb[a] = (0, 0, 250), (250, 0, 0)
    lab = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB).astype(np.float32)
    assert overlap_cue(lab, a, b) == 1
    assert overlap_cue(lab, b, a) == -1
    assert overlap_cue(lab, box(0, 0, 9, 9), box(50, 50, 9, 9)) is None


def test_a_notch_tells_who_is_bitten():
    whole, plate = box(40, 0, 20, 40), box(10, 20, 80, 60) & ~box(40, 0, 20, 40)
    assert bite_cue(whole, plate) > 0.9
    assert bite_cue(plate, whole) < -0.9


def test_a_small_thing_inside_lies_on_the_large_one():
    assert within_cue(box(30, 30, 10, 10), box(10, 10, 60, 60)) == 1
    assert within_cue(box(10, 10, 60, 60), box(30, 30, 10, 10)) == -1
    assert within_cue(box(0, 0, 10, 10), box(50, 50, 40, 40)) is None


def test_what_stands_lower_is_nearer_unless_things_are_piled():
    lab = np.zeros((100, 100, 3), np.float32)
    assert "support" not in pair_cues(lab, box(10, 50, 30, 30), box(12, 60, 26, 30), False, 4)
    assert pair_cues(lab, box(10, 60, 30, 30), box(12, 20, 26, 20), False, 4)["support"] == 1
    assert support_cue(box(0, 50, 10, 40), box(60, 10, 10, 40)) == 1
    assert support_cue(box(0, 15, 10, 40), box(60, 10, 10, 40)) == 0.5
    assert shared_boxes(box(0, 0, 10, 10), box(5, 0, 10, 20)) == (0.5, 0.25)


def test_the_best_order_outvotes_a_weak_circle():
    assert best_order(3, {(0, 1): -0.9, (1, 2): -0.8, (0, 2): 0.1}) == (0, 1, 2)
    assert best_order(2, {(0, 1): 0.3}) == (1, 0)
    assert best_order(1, {}) == (0,)


def test_total_is_the_weighted_mean():
    assert total({"bite": 1.0, "support": -1.0}) == (1.0 - 0.6) / 1.6
    assert total({}) == 0
