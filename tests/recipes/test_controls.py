"""Control pictures that are computed: layouts of named boxes, and coarse colours."""

import numpy as np
import pytest

from lt.datagen.shards import Sample, SampleError
from lt.datagen.sources.figures import FiguresSource
from lt.recipes.diffusion.controls import color_picture, colour_of, control_picture, draw_layout, layout_picture


def test_color_is_the_mean_of_each_of_eight_by_eight_cells():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    cells = picture.reshape(8, 8, 8, 8, 3).mean((1, 3))
    found = color_picture(picture, (64, 64))
    assert np.abs(found[::8, ::8] - cells).max() < 1, "rounded along each side"
    assert np.array_equal(found, np.kron(found[::8, ::8], np.ones((8, 8, 1), np.uint8)))
    wide = color_picture(picture, (96, 48))
    assert wide.shape == (48, 96, 3) and len(np.unique(wide.reshape(-1, 3), axis=0)) == 8 * 16


def test_a_layout_has_the_boxes_in_their_names_colours_the_last_on_top():
    red, blue = colour_of("apple"), colour_of("red panda")
    drawn = draw_layout([("apple", (0, 0, 4, 4)), ("red panda", (2, 2, 4, 2))], (8, 8), (16, 16))
    assert (drawn[:4, :8] == red).all() and (drawn[4:8, :4] == red).all() and (drawn[4:8, 4:12] == blue).all()
    assert not drawn[8:].any() and not drawn[:, 12:].any()
    cut = draw_layout([("apple", (0, 0, 8, 2)), ("red panda", (0, 3, 8, 2))], (8, 8), (16, 8))
    assert not cut[:2].any() and (cut[2:6] == blue).all() and not cut[6:].any(), "the upper box is cut away"


def test_colours_are_those_of_the_names_for_ever():
    assert colour_of("person") == colour_of(" Person ") == (179, 198, 236)
    names = [f"thing {number}" for number in range(500)]
    assert len({colour_of(name) for name in names}) == 500
    assert all(64 <= channel <= 255 for name in names for channel in colour_of(name))


def test_layouts_come_from_layers_or_from_cocos_instances():
    figure = FiguresSource(1, "test", size=64).sample(0)
    x, y, width, height = figure.meta["layers"][0]["bbox"]
    drawn = layout_picture(figure, (64, 64))
    assert (drawn[y : y + height, x : x + width] == colour_of("person")).all()
    assert (drawn > 0).all(-1).sum() == width * height
    boxes = [{"category": "dog", "bbox": [0, 0, 2, 2]}, {"category": "car", "bbox": [0, 0, 4, 4]}]
    crowd = {"category": "people", "bbox": [0, 0, 8, 8], "iscrowd": 1}
    photo = Sample("photo", {"json": {"width": 8, "height": 8, "instances": [*boxes, crowd]}})
    drawn = layout_picture(photo, (8, 8))
    assert (drawn[:2, :2] == colour_of("dog")).all() and (drawn[3, 3] == colour_of("car")).all()
    assert not drawn[4:].any()


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"width": 8, "height": 8},
        {"layers": [{"category": "cat", "bbox": [0, 0, 2, 2]}]},
        {"width": 8, "height": 8, "layers": [{"category": "cat", "bbox": [0, 0, float("nan"), 2]}]},
        {"width": 8, "height": 8, "layers": [{"category": "cat", "bbox": "here"}]},
        {"width": 0, "height": 8, "layers": [{"category": "cat", "bbox": [0, 0, 2, 2]}]},
        {"width": 8, "height": 8, "instances": 7},
        {"width": 8, "height": 8, "layers": ["cat"]},
    ],
)
def test_a_sample_without_boxes_is_a_bad_sample(meta):
    with pytest.raises(SampleError, match="no-layout"):
        layout_picture(Sample("s", {"json": meta}), (8, 8))


def test_a_samples_own_control_picture_comes_first():
    own = np.full((4, 4), 9, np.uint8)
    picture = np.full((8, 8, 3), 200, np.uint8)
    assert (control_picture(Sample("s", {"color.png": own, "png": picture}), "color", (8, 8)) == 9).all()
    assert (control_picture(Sample("s", {"png": picture}), "color", (8, 8)) == 200).all()
    with pytest.raises(SampleError, match="no-pose"):
        control_picture(Sample("s", {"png": picture}), "pose", (8, 8))
