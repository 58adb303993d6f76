"""Masks from polygons and both kinds of run lengths, against pycocotools and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from lt.models.perception.annotations import mask_of, unpack

MASKS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1))


def uncompressed(mask):
    flat, counts, value = mask.flatten(order="F"), [], 0
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    return {"counts": counts, "size": list(mask.shape)}


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_both_kinds_of_run_lengths_give_the_mask_back(mask):
    packed = coco.encode(np.asfortranarray(mask))
    text = {"counts": packed["counts"].decode("ascii"), "size": list(mask.shape)}
    for rle in (uncompressed(mask), text, {**packed, "size": list(mask.shape)}):
        assert np.array_equal(mask_of(rle, *mask.shape), mask.astype(bool))
    assert unpack(packed["counts"]) == uncompressed(mask)["counts"]


def test_polygon_covers_its_pixels_and_several_are_joined():
    mask = mask_of([[2, 1, 6, 1, 6, 4, 2, 4], [8, 8, 10, 8, 10, 10, 8, 10]], 12, 12)
    want = np.zeros((12, 12), bool)
    want[1:4, 2:6] = want[8:10, 8:10] = True
    assert np.array_equal(mask, want)


def test_nothing_known_is_none():
    assert mask_of(None, 4, 4) is None
    assert mask_of([], 4, 4) is None


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([[1, 2, 3, 4]], "polygon"),
        ([[1, 2, 3, 4, 5]], "polygon"),
        ([[0, 0, float("nan"), 3, 3, 3]], "polygon"),
        ({"counts": [5], "size": [2, 2]}, "sum to 4"),
        ({"counts": [-1, 5], "size": [2, 2]}, "sum to 4"),
        ({"counts": [4], "size": [4, 1]}, "picture is"),
        ({"counts": "~~~~", "size": [2, 2]}, "compressed"),
        ({"counts": coco.encode(np.ones((9, 9), np.uint8, order="F"))["counts"], "size": [2, 2]}, "sum to 4"),
        ("a mask", "want polygons"),
    ],
)
def test_malformed_segmentations_are_refused(segmentation, says):
    with pytest.raises(ValueError, match=says):
        mask_of(segmentation, 2, 2)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30))
def test_any_bytes_as_run_lengths_are_a_mask_or_refused(counts):
    try:
        assert mask_of({"counts": counts, "size": [5, 7]}, 5, 7).shape == (5, 7)
    except (ValueError, AttributeError) as error:
        assert isinstance(error, ValueError) or counts == b""
