"""Control pictures out of files as people have them: transparent, turned, of another aspect, photographs in a drawing's place."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import LtError
from lt.models.perception.registry import load
from lt.recipes.draw.control_files import find_in_photo, read_drawn


def scene(height: int, width: int) -> np.ndarray:
    """Bright boxes on grey, above the middle and to the left."""
    picture = np.full((height, width, 3), 90, np.uint8)
    picture[height // 8 : height // 2, width // 8 : width // 3] = (250, 40, 40)
    picture[height // 4 : height // 3, width // 2 : width - 4] = (30, 30, 240)
    return picture


def saved(file: Path, picture: np.ndarray, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(file, exif=exif)
    return file


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_in_a_drawing_is_black(tmp_path, mode):
    drawn = np.zeros((32, 32, 4), np.uint8)
    drawn[:, :, :3] = 255  # as most programs leave it: white, and transparent
    drawn[8:12, :, 3] = 255
    Image.fromarray(drawn).convert(mode).save(tmp_path / "edge.png")
    edges = read_drawn("edge", tmp_path / "edge.png", (32, 32))
    assert (edges[8:12] == 255).all() and edges.sum() == 4 * 32 * 3 * 255


@pytest.mark.parametrize(("orientation", "turns"), [(3, 2), (6, 1), (8, 3)])
def test_photographs_and_drawings_stand_as_their_exif_says(tmp_path, orientation, turns):
    upright, size = scene(64, 48), (48, 64)
    turned = saved(tmp_path / "turned.png", np.rot90(upright, turns), orientation)
    plain = saved(tmp_path / "plain.png", upright)
    assert np.array_equal(find_in_photo("edge", turned, size), find_in_photo("edge", plain, size))
    lines = np.where(np.arange(64)[:, None, None] == 5, 255, np.zeros((64, 48, 3), np.uint8)).astype(np.uint8)
    turned = saved(tmp_path / "lines.png", np.rot90(lines, turns), orientation)
    assert np.array_equal(read_drawn("edge", turned, size), lines)


def test_a_photograph_of_another_aspect_lies_whole_in_the_middle(tmp_path):
    file = saved(tmp_path / "wide.png", scene(32, 64))
    edges = find_in_photo("edge", file, (64, 64))
    (own,) = load("edges", "opencv").edges([scene(32, 64)])
    assert np.array_equal(edges[16:48], own) and not edges[:16].any() and not edges[48:].any()


def test_a_skeleton_stays_on_its_person_in_another_aspect(tmp_path, monkeypatch):
    """The nose at the photograph's upper left corner lies at the corner of what is shown of it."""
    people = np.zeros((1, 17, 3))
    people[0, [0, 1]] = (2, 2, 2), (60, 2, 2)  # nose and left eye

    class One:
        def poses(self, pictures):
            return [people.copy() for _ in pictures]

    monkeypatch.setattr("lt.recipes.draw.control_files.load", lambda kind, name: One())
    file = saved(tmp_path / "wide.png", scene(32, 64))
    drawn = find_in_photo("pose", file, (64, 64)).max(axis=2)
    rows, columns = np.nonzero(drawn)
    assert rows.min() >= 12 and rows.max() <= 24, "16 rows of black above"
    assert columns.min() <= 4 and columns.max() >= 58


@pytest.mark.parametrize(("control", "wanted"), [("pose", "skeleton"), ("edge", "edge map")])
def test_a_photograph_is_no_drawing(tmp_path, control, wanted):
    file = saved(tmp_path / "photo.png", scene(32, 32))
    with pytest.raises(LtError) as error:
        read_drawn(control, file, (32, 32))
    assert f"is no {wanted} on black: 100% of it is not dark" in error.value.message
    assert error.value.hint == f"To follow the {control} of a photograph: --{control}-of {file}"
    assert read_drawn("layout", file, (32, 32)).shape == (32, 32, 3), "boxes may fill a layout"
