"""Poses in photographs: BlazePose as MediaPipe runs it; its numbers were taken from MediaPipe 0.10.21 itself."""

import importlib.resources

import numpy as np
import pytest

from lt.datagen.shards.codec import decode_image, to_rgb
from lt.models.perception import registry
from lt.models.perception.mediapipe_pose import (
    COCO_OF_LANDMARKS,
    DETECTOR,
    LANDMARKS,
    Crop,
    MediaPipePose,
    coco_keypoints,
    refined,
    suppressed,
)
from lt.models.perception.registry import BackendError, find, load

LACKING = find("pose", "mediapipe").missing
with_models = pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}: make setup")

ASTRONAUT = (  # x, y, visibility of MediaPipe's landmarks that COCO names
    ((225.6, 126.5, 1.0), (251.7, 111.5, 1.0), (208.4, 101.8, 1.0), (269.5, 123.0, 1.0), (191.1, 106.4, 1.0))
    + ((305.0, 253.3, 1.0), (109.5, 239.9, 1.0), (323.8, 372.6, 0.43), (67.7, 413.2, 0.78))
    + ((334.9, 466.0, 0.16), (135.6, 473.3, 0.32), (239.2, 497.2, 0.19), (128.1, 526.3, 0.23))
    + ((244.0, 729.9, 0.05), (130.7, 735.9, 0.02), (235.4, 912.1, 0.01), (127.3, 917.8, 0.01))
)
HOPPER = (
    ((269.3, 222.1, 1.0), (305.6, 186.4, 1.0), (228.9, 191.9, 1.0), (338.1, 208.2, 1.0), (193.3, 214.5, 1.0))
    + ((452.8, 425.7, 1.0), (90.9, 420.5, 1.0), (540.9, 673.8, 0.27), (62.1, 623.4, 0.27))
    + ((514.4, 866.8, 0.04), (70.1, 857.7, 0.09), (372.6, 855.6, 0.0), (170.2, 873.1, 0.0))
    + ((371.7, 1217.3, 0.0), (151.7, 1222.5, 0.0), (359.0, 1519.6, 0.0), (153.4, 1520.2, 0.0))
)


def photo(name: str) -> np.ndarray:
    file = importlib.resources.files("lt.datagen.sources.photos") / "images" / f"{name}.jpg"
    return to_rgb(decode_image(file.read_bytes()))


@with_models
@pytest.mark.parametrize(("name", "theirs"), [("astronaut", ASTRONAUT), ("hopper", HOPPER)])
def test_landmarks_are_mediapipe_s(name, theirs):
    estimator, picture = load("pose", "mediapipe"), photo(name)
    (crop,) = estimator.people(picture)
    ours = estimator.landmarks(picture, crop)[list(COCO_OF_LANDMARKS)]
    assert np.abs(ours[:, :2] - np.array(theirs)[:, :2]).max() < 1, "pixels, of pictures of 512 and more"
    assert np.abs(ours[:, 2] - np.array(theirs)[:, 2]).max() < 0.02


@with_models
def test_people_in_the_picture_and_none_where_there_is_none():
    estimator = load("pose", "mediapipe")
    people, none = estimator.poses([photo("astronaut"), photo("coffee")])
    assert people.shape == (1, 17, 3) and none.shape == (0, 17, 3)
    graded = dict(
        zip(
            ("nose", "left_elbow", "right_elbow", "left_wrist", "left_knee"),
            people[0, [0, 7, 8, 9, 13], 2],
            strict=True,
        )
    )
    assert graded == {"nose": 2, "left_elbow": 1, "right_elbow": 2, "left_wrist": 0, "left_knee": 0}
    assert not people[0, people[0, :, 2] == 0].any(), "no place for what is not seen"


@with_models
def test_a_picture_beside_is_found_where_it_lies():
    estimator, picture = load("pose", "mediapipe"), photo("astronaut")
    beside = np.concatenate([np.zeros_like(picture), picture], axis=1)
    (alone,), (moved,) = (estimator.poses([one])[0] for one in (picture, beside))
    assert (moved[:5, 2] == 2).all()
    assert np.abs(moved[:5, :2] - alone[:5, :2] - (512, 0)).max() < 15, (
        "the face; arms that are cut off depend on the crop"
    )


def test_missing_packages_and_files_say_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda package: None)
    hint = r"pip install 'lt-toolkit\[pose\]' && pip install --no-deps mediapipe==0.10.21"
    with pytest.raises(BackendError, match=hint):
        registry.load.__wrapped__("pose", "mediapipe")
    monkeypatch.undo()
    if not LACKING:
        with pytest.raises(BackendError, match=r"pose_detection\.tflite is not there.*the wheel of mediapipe"):
            load("pose", f"mediapipe:{tmp_path}")


def test_a_crop_maps_to_its_picture_as_it_was_cut():
    picture = np.zeros((60, 80, 3), np.uint8)
    picture[20:24, 50:54] = 255
    for crop in (Crop(50, 25, 32), Crop(48, 24, 40, 0.7), Crop(55, 20, 64, -2.0)):
        cut = crop.of(picture, 128, 0)[:, :, 0]
        rows, columns = np.nonzero(cut > 127)
        middle = crop.to_picture(np.array([[columns.mean(), rows.mean()]]) / 128)[0]
        assert np.abs(middle - (51.5, 21.5)).max() < 0.3


def test_what_overlaps_is_averaged_by_score():
    boxes = np.array([[[0.5, 0.5], [0.2, 0.2]], [[0.52, 0.5], [0.2, 0.2]], [[0.1, 0.1], [0.1, 0.1]]])
    values = np.concatenate([boxes, np.tile(boxes[:, :1], (1, 4, 1))], axis=1)
    first, second = suppressed(values, np.array([0.6, 0.9, 0.7]))
    assert np.allclose(first[0], ((0.5 * 0.6 + 0.52 * 0.9) / 1.5, 0.5)) and np.allclose(second[0], 0.1)
    assert list(suppressed(values[:0], np.zeros(0))) == []


def test_sure_heat_moves_a_point_and_unsure_heat_leaves_it():
    heat = np.full((64, 64, 3), -100.0)
    heat[30, 33, 0] = heat[31, 33, 0] = 4.0
    heat[30, 33, 1] = -1.0
    points = np.array([[32.5 / 64, 30.5 / 64], [32.5 / 64, 30.5 / 64], [1.4, -0.2]])
    moved = refined(points, heat)
    assert np.allclose(moved[0] * 64, (33, 30.5)) and np.array_equal(moved[1:], points[1:])


def test_grades_are_coco_s():
    landmarks = np.tile([10.0, 10.0, 0.9, 0.9], (33, 1))
    landmarks[0] = 10, 10, 0.2, 0.9
    landmarks[11] = 10, 10, 0.9, 0.2
    landmarks[12] = 10, 40, 0.9, 0.9
    points = coco_keypoints(landmarks, 20, 40)
    assert points[0].tolist() == [10, 10, 1] and points[1].tolist() == [10, 10, 2]
    assert points[5].tolist() == points[6].tolist() == [0, 0, 0], "absent; below the picture"


def test_a_broken_file_says_what_to_do(tmp_path):
    pytest.importorskip("ai_edge_litert")
    for file in (DETECTOR, LANDMARKS):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"TFL3 no more")
    with pytest.raises(BackendError, match=r"pose_detection\.tflite cannot be used") as error:
        MediaPipePose(str(tmp_path))
    assert "pip install --no-deps --force-reinstall mediapipe" in error.value.hint
