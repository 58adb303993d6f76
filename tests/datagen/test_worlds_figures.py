"""The world figures: exact layers; key points that agree with picture, skeleton and caption; the person's own left and right."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.datagen.engine.stage import rng_for
from lt.datagen.pose import (
    COCO_KEYPOINTS,
    FACE,
    LIMB_DARKNESS,
    OPENPOSE_COLOURS,
    OPENPOSE_LIMBS,
    OPENPOSE_POINTS,
    draw_openpose,
    openpose_points,
)
from lt.datagen.shards import Sample, captions_of
from lt.datagen.shards.compose import composite
from lt.datagen.shards.errors import UsageError
from lt.datagen.shards.sample import check_key, is_known_field
from lt.datagen.sources.figure_body import ACTIONS, BUILDS, joints, sample_stance
from lt.datagen.sources.figure_drawing import GARMENT_COLOURS, Shape
from lt.datagen.sources.figures import FiguresSource
from lt.datagen.sources.held_out import split_of
from lt.datagen.worlds import world_pipeline
from lt.models.perception.opencv import Canny

SIZE = 128


@pytest.fixture(scope="module")
def figures() -> list[Sample]:
    source = FiguresSource(120, "train", 0, SIZE)
    return [source.sample(number) for number in range(120)]


def points(sample: Sample) -> dict[str, tuple[float, float, int]]:
    (keypoints,) = sample.meta["keypoints"]
    return {name: tuple(point) for name, point in zip(COCO_KEYPOINTS, keypoints, strict=True)}


def pixel(point: tuple[float, ...]) -> tuple[int, int]:
    """Row and column of the pixel that a key point lies in."""
    return math.floor(point[1]), math.floor(point[0])


# Exact, the same everywhere


def test_pictures_are_exact_after_encoding(figures):
    for sample in figures:
        check_key(sample.key)
        assert all(is_known_field(name) for name in sample.fields)
        read = Sample(sample.key, {name: sample.encoded(name) for name in sample.fields})
        assert np.array_equal(composite(read["background.png"], [read["layer-00.png"]]), read["png"])
        assert read["pose.png"].shape == (SIZE, SIZE, 3)
        assert set(np.unique(read["edge.png"])) <= {0, 255}
        assert np.array_equal(read["edge.png"], Canny().edges([read["png"]])[0])
        assert read["edge.png"].any()


@given(seed=st.integers(-(2**40), 2**40), size=st.integers(64, 160), split=st.sampled_from(["train", "test"]))
@settings(max_examples=20, deadline=None)
def test_any_seed_and_size_is_exact_and_the_same_again(seed, size, split):
    sample, again = (FiguresSource(1, split, seed, size).sample(0) for _ in range(2))
    assert [sample.encoded(name) for name in sample.fields] == [again.encoded(name) for name in again.fields]
    assert np.array_equal(composite(sample["background.png"], [sample["layer-00.png"]]), sample["png"])
    assert sample["png"].shape == (size, size, 3)


def test_a_figure_is_the_same_at_every_size():
    small, large = (FiguresSource(4, "train", 5, size) for size in (64, 256))
    for number in range(4):
        a, b = small.sample(number), large.sample(number)
        assert a.meta["captions"] == b.meta["captions"]
        assert np.allclose(np.array(points(a)["nose"][:2]) * 4, points(b)["nose"][:2], atol=0.03)


def test_train_and_test_are_apart_by_combination(figures):
    source = FiguresSource(60, "test", 0, 64)
    for sample in [*figures, *(source.sample(number) for number in range(60))]:
        drawn = sample.meta["figure"]
        top, bottom = f"{drawn['top']['colour']} top", f"{drawn['bottom']['colour']} bottom"
        pairs = [(f"{drawn['action']} {drawn['side']}", top)] + ([(top, bottom)] if drawn["bottom"]["kind"] else [])
        assert split_of(pairs) == sample.meta["split"]


def test_unknown_splits_are_refused():
    with pytest.raises(UsageError, match="figures has no split 'novel'"):
        world_pipeline("figures", 1, split="novel")


# Key points


def test_seen_key_points_lie_on_the_person(figures):
    for sample in figures:
        alpha = sample["layer-00.png"][..., 3]
        for name, point in points(sample).items():
            if point[2] == 0:
                assert point == (0, 0, 0)
            else:
                assert alpha[pixel(point)] > 200, (sample.key, name)


def test_the_face_shows_where_it_should(figures):
    for sample in figures:
        drawn, at = sample.meta["figure"], points(sample)
        if drawn["view"] == "back":
            assert {at[name][2] for name in ("nose", "left_eye", "right_eye")} == {1}
        elif drawn["view"] == "side":
            far, near = ("right", "left") if drawn["facing"] == "left" else ("left", "right")
            assert (at[f"{far}_eye"][2], at[f"{near}_eye"][2]) == (1, 2)
            assert at["nose"][2] == 2
        else:
            assert {at[name][2] for name in ("nose", "left_eye", "right_eye")} == {2}


def test_left_is_the_persons_left(figures):
    for sample in figures:
        at, view = points(sample), sample.meta["figure"]["view"]
        if view != "side":
            for joint in ("shoulder", "hip", "ear", "eye"):
                difference = at[f"left_{joint}"][0] - at[f"right_{joint}"][0]
                if at[f"left_{joint}"][2] and at[f"right_{joint}"][2]:
                    assert (difference > 0) == (view == "front"), (sample.key, joint)


def test_from_the_waist_up_the_legs_are_out_of_the_picture(figures):
    halves = [sample for sample in figures if sample.meta["figure"]["half"]]
    assert halves
    for sample in halves:
        at = points(sample)
        assert [at[f"{side}_{joint}"][2] for side in ("left", "right") for joint in ("knee", "ankle")] == [0] * 4
        assert at["left_shoulder"][2] == at["right_shoulder"][2] == 2
        assert "from the waist up" in sample["txt"]
        assert "上半身" in captions_of(sample, "zh")[0]


def test_a_joint_behind_another_limb_is_hidden():
    hidden = {"left_wrist": 0, "right_wrist": 0, "left_shoulder": 0, "right_shoulder": 0}
    for number in range(150):
        sample = FiguresSource(150, "train", 3, 64).sample(number)
        if sample.meta["figure"]["view"] == "side":
            at = points(sample)
            far = "right" if sample.meta["figure"]["facing"] == "left" else "left"
            for joint in ("wrist", "shoulder"):
                hidden[f"{far}_{joint}"] += at[f"{far}_{joint}"][2] == 1
            assert at[f"{'left' if far == 'right' else 'right'}_shoulder"][2] == 2
    assert all(hidden[f"{side}_shoulder"] > 5 for side in ("left", "right"))


def test_a_shape_covers_what_it_draws():
    line = Shape("x", ((0, 0), (10, 0)), 2, "#000000")
    assert line.covers((5, 0.9))
    assert line.covers((10.9, 0))
    assert not line.covers((5, 1.1))
    square = Shape("x", ((0, 0), (10, 0), (10, 10), (0, 10)), 0.2, "#000000", closed=True)
    assert square.covers((5, 5))
    assert not square.covers((5, 10.2))
    disc = Shape("x", ((1, 1),), 2, "#000000")
    assert disc.covers((1.6, 1.6))
    assert not disc.covers((1.8, 1.8))


# Poses


def describe(action: str, at: dict, side: str, facing: int) -> bool:
    """Whether the joints (y down, body coordinates) do what the action says."""
    other = "left" if side == "right" else "right"
    x, y = {k: p[0] for k, p in at.items()}, {k: p[1] for k, p in at.items()}

    def both(test) -> bool:
        return test("left") and test("right")

    ahead = 1 if facing == 0 else facing
    checks = {
        "stand": lambda: both(lambda s: y[f"{s}_wrist"] > y[f"{s}_elbow"] > y[f"{s}_shoulder"]),
        "wave": lambda: y[f"{side}_wrist"] < y[f"{side}_shoulder"] < y["hips"] and y[f"{other}_wrist"] > y[f"{other}_elbow"],
        "hands up": lambda: both(lambda s: y[f"{s}_wrist"] < y["head"]),
        "arms out": lambda: both(lambda s: abs(y[f"{s}_wrist"] - y[f"{s}_shoulder"]) < 0.09),
        "arm out": lambda: abs(y[f"{side}_wrist"] - y[f"{side}_shoulder"]) < 0.09 and y[f"{other}_wrist"] > y[f"{other}_elbow"],
        "on hips": lambda: both(lambda s: abs(x[f"{s}_wrist"]) < abs(x[f"{s}_elbow"]) and y[f"{s}_wrist"] > y[f"{s}_elbow"]),
        "jump": lambda: both(lambda s: y[f"{s}_wrist"] < y[f"{s}_shoulder"]),
        "raise knee": lambda: y[f"{side}_knee"] < y[f"{other}_knee"] - 0.05 and y[f"{side}_ankle"] < y[f"{other}_ankle"] - 0.05,
        "leg out": lambda: abs(x[f"{side}_ankle"]) > abs(x[f"{other}_ankle"]) + 0.2,
        "dance": lambda: min(y["left_wrist"], y["right_wrist"]) < y["head"],
        "walk": lambda: abs(x["left_ankle"] - x["right_ankle"]) > 0.15,
        "run": lambda: abs(x["left_ankle"] - x["right_ankle"]) > 0.25,
        "sit": lambda: both(lambda s: abs(y[f"{s}_knee"] - y[f"{s}_hip"]) < 0.06 < (x[f"{s}_knee"] - x[f"{s}_hip"]) * ahead),
        "kick": lambda: (x[f"{side}_ankle"] - x[f"{other}_ankle"]) * ahead > 0.25,
        "bow": lambda: x["head"] * ahead > 0.15,
        "reach": lambda: both(lambda s: (x[f"{s}_wrist"] - x[f"{s}_shoulder"]) * ahead > 0.25),
        "squat": lambda: both(lambda s: y[f"{s}_knee"] < y[f"{s}_hip"] + 0.06),
    }  # fmt: skip
    return bool(checks[action]())


@pytest.mark.parametrize("action", ACTIONS)
def test_every_pose_does_what_it_is_called(action):
    for seed in range(60):
        rng = rng_for(seed, action)
        stance = sample_stance(rng, action)
        at = joints(stance, BUILDS[seed % len(BUILDS)])
        assert describe(action, at, stance.side, stance.facing), (action, seed)
        if stance.facing:
            assert (at["nose"][0] - at["head"][0]) * stance.facing > 0 or action == "bow"


def test_feet_stand_on_the_ground_and_nothing_is_cut_off(figures):
    for sample in figures:
        body = sample["layer-00.png"][..., 3] > 60  # without the shadow
        assert not body[0].any()
        assert not body[:, 0].any()
        assert not body[:, -1].any()
        left, top, width, height = sample.meta["layers"][0]["bbox"]
        assert (top + height == SIZE) == sample.meta["figure"]["half"]
        assert left > 0
        assert left + width < SIZE


# Captions


def test_captions_name_the_clothes_that_are_drawn(figures):
    for sample in figures:
        drawn = sample.meta["figure"]
        if drawn["view"] == "side" or drawn["action"] == "bow":
            continue
        at = points(sample)
        middle = np.mean(
            [at[f"{side}_{joint}"][:2] for side in ("left", "right") for joint in ("shoulder", "hip")], axis=0
        )
        if drawn["half"] or drawn["action"] != "on hips":
            assert nearest_garment(sample["png"][pixel(tuple(middle))]) == drawn["top"]["colour"], sample.key
        assert f"{drawn['top']['colour']} {drawn['top']['kind']}" in sample["txt"]
        if drawn["bottom"]["kind"]:
            assert f"{drawn['bottom']['colour']} {drawn['bottom']['kind']}" in sample["txt"]


def nearest_garment(colour: np.ndarray) -> str:
    table = {name: [int(code[i : i + 2], 16) for i in (1, 3, 5)] for name, code in GARMENT_COLOURS.items()}
    return min(table, key=lambda name: np.abs(np.array(table[name]) - colour.astype(int)).sum())


def test_captions_in_both_languages(figures):
    for sample in figures:
        en, zh = sample.meta["captions"]["en"], sample.meta["captions"]["zh"]
        drawn = sample.meta["figure"]
        assert len(en) == len(zh) == 3
        assert sample["txt"] == en[0]
        for text in zh:
            assert not any("a" <= letter <= "z" for letter in text)
            assert "{" not in text and "，，" not in text
        if drawn["side"]:
            assert {"left": "左", "right": "右"}[drawn["side"]] in zh[0]
            assert f"the {drawn['side']} " in en[0]
        assert ("seen from behind" in en[0]) == ("背对着我们" in zh[0]) == (drawn["view"] == "back")
        assert (" a orange" not in en[0]) and (" an red" not in en[0])


def test_a_caption_word_by_word():
    source = FiguresSource(400, "train", 1, 64)
    said = {}
    for number in range(60):
        sample = source.sample(number)
        said.setdefault(sample.meta["figure"]["action"], sample.meta["captions"])
    assert "waving the left hand" in said["wave"]["en"][0] or "waving the right hand" in said["wave"]["en"][0]
    assert "举着双手" in said["hands up"]["zh"][0]
    assert said["walk"]["zh"][0].endswith(("向左走", "向右走"))


# The picture of the skeleton


def test_openpose_colours_at_the_joints(figures):
    for sample in figures[:40]:
        (keypoints,) = sample.meta["keypoints"]
        drawn = openpose_points(keypoints)
        picture = sample["pose.png"]
        for name, colour in zip(OPENPOSE_POINTS, OPENPOSE_COLOURS, strict=True):
            if name not in drawn or not alone(name, drawn):
                continue
            assert np.abs(picture[pixel(drawn[name])].astype(int) - colour).max() <= 60, (sample.key, name)
        if not drawn:
            assert not picture.any()


def alone(name: str, drawn: dict) -> bool:
    return all(math.dist(drawn[name], other) > 4 for key, other in drawn.items() if key != name)


def test_openpose_picture_by_hand():
    keypoints = np.zeros((17, 3))
    keypoints[COCO_KEYPOINTS.index("left_shoulder")] = 100.5, 60.5, 2
    keypoints[COCO_KEYPOINTS.index("right_shoulder")] = 40.5, 60.5, 1
    picture = draw_openpose([keypoints], 160, 120)
    assert picture.shape == (120, 160, 3)
    at = {name: index for index, name in enumerate(OPENPOSE_POINTS)}
    assert picture[60, 100].tolist() == list(OPENPOSE_COLOURS[at["left_shoulder"]])
    assert picture[60, 40].tolist() == list(OPENPOSE_COLOURS[at["right_shoulder"]])
    assert picture[60, 70].tolist() == list(OPENPOSE_COLOURS[at["neck"]])
    limb = OPENPOSE_LIMBS.index(("neck", "left_shoulder"))
    assert picture[60, 85].tolist() == [int(value * LIMB_DARKNESS) for value in OPENPOSE_COLOURS[limb]]
    assert not picture[20].any()


def test_hidden_faces_are_not_drawn_and_lone_points_have_no_neck():
    keypoints = np.zeros((17, 3))
    keypoints[0] = 5, 5, 1
    keypoints[5] = 20, 20, 1
    assert openpose_points(keypoints) == {"left_shoulder": (20.0, 20.0)}
    assert sorted(FACE) == [0, 1, 2, 3, 4]
    assert len(OPENPOSE_LIMBS) == 17
    assert len(OPENPOSE_POINTS) == len(set(OPENPOSE_POINTS)) == len(OPENPOSE_COLOURS) == 18


def test_two_people_are_both_drawn():
    one, two = np.zeros((17, 3)), np.zeros((17, 3))
    one[9], two[9] = (10.5, 10.5, 2), (50.5, 10.5, 2)
    picture = draw_openpose([one, two], 64, 64)
    assert picture[10, 10].tolist() == picture[10, 50].tolist() != [0, 0, 0]


def test_digests_of_a_run_do_not_depend_on_order():
    source = FiguresSource(10, "train", 2, 64)

    def digest(number: int) -> str:
        sample = source.sample(number)
        return hashlib.sha256(b"".join(sample.encoded(name) for name in sample.fields)).hexdigest()

    assert [digest(n) for n in (3, 1, 2)] == [digest(n) for n in (1, 2, 3)][2:] + [digest(n) for n in (1, 2)]
