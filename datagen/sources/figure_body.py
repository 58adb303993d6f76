"""The articulated person: builds, poses as joint angles, and where the joints come to lie.

Body coordinates: the unit is the standing height of an adult, x to the viewer's right, y down, the middle of the hips at the
origin. An angle is measured from straight down, in degrees: seen from front or back positive is outwards (to the person's own
side), seen from the side positive is forwards. Left and right are the person's own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]
SIDES = ("left", "right")
OTHER = {"left": "right", "right": "left"}


@dataclass(frozen=True)
class Build:
    """Proportions, in standing heights. `width` scales shoulders, hips and limbs; `head` the head; `scale` everything."""

    name: str
    width: float = 1.0
    head: float = 1.0
    leg: float = 1.0
    scale: float = 1.0


BUILDS = (
    Build("slim", width=0.88),
    Build("medium"),
    Build("broad", width=1.18),
    Build("child", width=0.95, head=1.3, leg=0.84, scale=0.74),
)

NECK, TORSO, HEAD = 0.055, 0.285, 0.082  # HEAD is half the height of the head
SHOULDER, HIP = 0.098, 0.058  # half widths
UPPER_ARM, FOREARM, THIGH, SHIN, FOOT = 0.15, 0.14, 0.225, 0.215, 0.06


@dataclass(frozen=True)
class Stance:
    """A pose in angles.

    Args:
        action: a key of `ACTIONS`.
        view: `front`, `back` or `side`.
        facing: from the side, where the nose points: -1 to the viewer's left, 1 to the right; else 0.
        side: the limb that the action names (`waving the left hand`), or empty.
        angles: `left_arm` ... `right_leg` to (upper, lower) degrees.
        lean: of the upper body; to the viewer's right, or from the side forwards.
        lift: how far the lowest foot is above the ground.
    """

    action: str
    view: str
    facing: int
    side: str
    angles: Mapping[str, tuple[float, float]]
    lean: float = 0.0
    lift: float = 0.0

    @property
    def near(self) -> str:
        """Which of the person's sides is towards the viewer, seen from the side."""
        return "left" if self.facing < 0 else "right"


@dataclass(frozen=True)
class Action:
    """How an action is drawn and told. `{side}` is the person's limb, `{way}` the viewer's direction.

    From the front: `this` arm and leg (of the side named) and `other`. From the side: near and far limbs, or, where the
    action names a leg, that leg and the other.
    """

    en: str
    zh: str
    view: str
    arms: tuple[tuple[float, float], tuple[float, float]]
    legs: tuple[tuple[float, float], tuple[float, float]]
    lean: float = 0.0
    lift: float = 0.0

    @property
    def names_side(self) -> bool:
        return "{side}" in self.en

    @property
    def is_upright(self) -> bool:
        """Whether the legs say nothing, so that the figure may be shown from the waist up."""
        return self.view == "front" and self.legs == _STAND


_DOWN = (11, 6)
_STAND = ((5, 3), (5, 3))

ACTIONS: dict[str, Action] = {
    "stand": Action("standing", "站着", "front", (_DOWN, _DOWN), _STAND),
    "wave": Action("waving the {side} hand", "挥着{side}手", "front", ((112, 166), _DOWN), _STAND),
    "hands up": Action("holding both hands up", "举着双手", "front", ((156, 172), (156, 172)), _STAND),
    "arms out": Action(
        "stretching both arms out to the sides", "向两侧张开双臂", "front", ((90, 90), (90, 90)), _STAND
    ),
    "arm out": Action(
        "holding the {side} arm out to the side", "向身侧平举着{side}臂", "front", ((89, 89), _DOWN), _STAND
    ),
    "on hips": Action("standing with both hands on the hips", "双手叉腰站着", "front", ((52, -46), (52, -46)), _STAND),
    "jump": Action("jumping", "高高跳起", "front", ((132, 150), (132, 150)), ((34, 8), (34, 8)), lift=0.11),
    "raise knee": Action("raising the {side} knee", "抬着{side}膝", "front", ((70, 80), (70, 80)), ((64, -34), (3, 2))),
    "leg out": Action(
        "kicking the {side} leg out to the side",
        "向身侧踢着{side}腿",
        "front",
        ((60, 66), (60, 66)),
        ((62, 60), (2, 1)),
    ),
    "dance": Action("dancing", "跳着舞", "front", ((132, 168), (52, -46)), ((26, 8), (6, 3)), lean=-5),
    "walk": Action("walking to the {way}", "向{way}走", "side", ((-26, -6), (28, 44)), ((27, 12), (-18, -34)), lean=2),
    "run": Action("running to the {way}", "向{way}跑", "side", ((-48, 44), (44, 128)), ((60, -6), (-20, -84)), lean=12),
    "sit": Action(
        "sitting on a stool, facing {way}", "面朝{way}坐在凳子上", "side", ((24, 68), (28, 72)), ((87, 3), (82, 0))
    ),
    "kick": Action(
        "kicking with the {side} leg, facing {way}",
        "面朝{way}用{side}腿踢",
        "side",
        ((-42, -20), (44, 66)),
        ((64, 52), (-5, -10)),
        lean=-9,
    ),
    "bow": Action("bowing to the {way}", "向{way}鞠躬", "side", ((14, 8), (10, 5)), ((-3, -1), (2, 0)), lean=60),
    "reach": Action(
        "holding both arms out in front, facing {way}",
        "面朝{way}向前平举双臂",
        "side",
        ((88, 87), (84, 83)),
        ((8, 2), (-7, -10)),
    ),
    "squat": Action(
        "squatting, facing {way}", "面朝{way}蹲着", "side", ((72, 76), (68, 72)), ((104, -28), (96, -32)), lean=24
    ),
}
"""What the figure may do. Angles are (this or near, other or far), each (upper, lower)."""

JITTER = 4.0
"""Degrees (standard deviation) by which every angle varies."""


def sample_stance(rng: np.random.Generator, action: str) -> Stance:
    """A stance of this action, with sides, direction and angles varied."""
    told = ACTIONS[action]
    side = SIDES[int(rng.integers(2))]
    view, facing = told.view, 0
    if view == "side":
        facing = -1 if rng.random() < 0.5 else 1
    elif rng.random() < 0.15:
        view = "back"
    near = "left" if facing < 0 else "right"
    this_arm = side if view != "side" else near
    this_leg = side if view != "side" or told.names_side else near
    noise = np.clip(rng.normal(0, JITTER, (4, 2)), -2 * JITTER, 2 * JITTER)
    angles = {
        name: (float(pair[0] + wobble[0]), float(pair[1] + wobble[1]))
        for name, pair, wobble in zip(
            (f"{this_arm}_arm", f"{OTHER[this_arm]}_arm", f"{this_leg}_leg", f"{OTHER[this_leg]}_leg"),
            (*told.arms, *told.legs),
            noise * np.array([[1], [1], [0.4], [0.4]]),
            strict=True,
        )
    }
    lean = (told.lean + float(rng.normal(0, 1.5))) * (1 if view == "side" or side == "left" else -1)
    return Stance(action, view, facing, side if told.names_side else "", angles, lean, told.lift)


def joints(stance: Stance, build: Build) -> dict[str, Point]:
    """All joints by name, in body coordinates: COCO's, and `neck`, `head`, `top`, `left_hand`, `left_toe` ...

    The feet are where the legs lead them; `place` in `figures` puts them on the ground.
    """
    points: dict[str, Point] = {"hips": (0.0, 0.0)}
    up = _direction(180 - stance.lean * (stance.facing or 1), 1)
    points["neck"] = _along((0.0, 0.0), up, TORSO)
    points["head"] = _along(points["neck"], up, NECK + HEAD * build.head)
    points["top"] = _along(points["head"], up, HEAD * build.head)
    _add_face(points, stance, build, up)
    for side in SIDES:
        sign = _outwards(stance, side)
        depth = 0.012 * (1 if side == stance.near else -1)
        across = stance.facing * -depth if stance.facing else sign
        half = (1.0, 1.0) if stance.facing else (SHOULDER * build.width, HIP * build.width)
        points[f"{side}_shoulder"] = _aside(points["neck"], up, across * half[0], -0.02)
        points[f"{side}_hip"] = (across * half[1], 0.0)
        for limb, names, lengths in (
            ("arm", ("shoulder", "elbow", "wrist"), (UPPER_ARM, FOREARM)),
            ("leg", ("hip", "knee", "ankle"), (THIGH * build.leg, SHIN * build.leg)),
        ):
            start, middle, end = (f"{side}_{name}" for name in names)
            upper, lower = stance.angles[f"{side}_{limb}"]
            points[middle] = _along(points[start], _direction(upper, sign), lengths[0])
            points[end] = _along(points[middle], _direction(lower, sign), lengths[1])
        _add_ends(points, stance, side, sign)
    return points


def _outwards(stance: Stance, side: str) -> int:
    """The x direction of positive angles: forwards from the side, else away from the body."""
    if stance.facing:
        return stance.facing
    return 1 if (side == "left") == (stance.view == "front") else -1


def _add_face(points: dict[str, Point], stance: Stance, build: Build, up: Point) -> None:
    """Nose, eyes and ears about the middle of the head."""
    head, size = points["head"], HEAD * build.head
    if stance.facing:
        forward = stance.facing * size
        points["nose"] = _aside(head, up, 0.9 * forward, -0.06 * size)
        for side in SIDES:
            points[f"{side}_eye"] = _aside(head, up, 0.55 * forward, 0.16 * size)
            points[f"{side}_ear"] = _aside(head, up, -0.12 * forward, 0.0)
        return
    points["nose"] = _aside(head, up, 0.0, -0.08 * size)
    for side in SIDES:
        sign = _outwards(stance, side)
        points[f"{side}_eye"] = _aside(head, up, sign * 0.34 * size, 0.14 * size)
        points[f"{side}_ear"] = _aside(head, up, sign * 0.9 * size, 0.0)


def _add_ends(points: dict[str, Point], stance: Stance, side: str, sign: int) -> None:
    """The hand beyond the wrist, the toe from the ankle: forwards from the side, down and a little outwards from the front."""
    points[f"{side}_hand"] = _along(points[f"{side}_wrist"], _direction(stance.angles[f"{side}_arm"][1], sign), 0.022)
    shin = stance.angles[f"{side}_leg"][1]
    toe = _direction(shin + 84, sign) if stance.facing else _direction(shin + 38, sign)
    points[f"{side}_toe"] = _along(points[f"{side}_ankle"], toe, FOOT if stance.facing else FOOT * 0.5)


def _direction(degrees: float, sign: int) -> Point:
    return sign * math.sin(math.radians(degrees)), math.cos(math.radians(degrees))


def _along(start: Point, direction: Point, length: float) -> Point:
    return start[0] + direction[0] * length, start[1] + direction[1] * length


def _aside(start: Point, up: Point, across: float, above: float) -> Point:
    """From `start`, `across` to the viewer's right and `above` along `up`, in a body that leans."""
    return start[0] - up[1] * across + up[0] * above, start[1] + up[0] * across + up[1] * above
