"""The articulated person as shapes: limbs, clothes, hair and face, from the farthest to the nearest.

Everything is one kind of shape, a line or polygon with a round thick pen, so that whether a shape covers a point is exact
geometry. A shape belongs to a part of the body: a joint is hidden when a later shape of another part covers it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lt.datagen.sources.figure_body import HEAD, OTHER, SIDES, Build, Point, Stance

GARMENT_COLOURS = {
    "red": "#d8453e",
    "orange": "#f08a2c",
    "yellow": "#f7d63f",
    "green": "#55a653",
    "blue": "#3f79cc",
    "purple": "#8a5cbc",
    "pink": "#f292b4",
    "grey": "#9ba1a9",
    "black": "#3b3b42",
    "white": "#f8f8f8",
}
"""No brown: it would be taken for skin."""
SKINS = ("#fbdcc4", "#f0c19a", "#d79f70", "#a8714a", "#6e4630")
HAIR_COLOURS = {"black": "#2c2730", "brown": "#6b4326", "blond": "#e7c060", "red": "#b4512a", "grey": "#b4b4b8"}
HAIR_STYLES = ("short", "long", "curly", "bun")
INK = "#2b2b2b"
OUTLINE = 0.008
SHOE, STOOL = "#4a4a55", "#b07d4a"


@dataclass(frozen=True)
class Looks:
    """What the figure wears. `bottom` is empty with a dress; `hat` is a colour or empty; colours are `GARMENT_COLOURS`' names."""

    build: Build
    skin: str
    hair: str
    hair_style: str
    top: str
    top_colour: str
    bottom: str
    bottom_colour: str
    hat: str = ""


@dataclass(frozen=True)
class Shape:
    """A line (or closed polygon) drawn with a round pen `width` wide; one point is a disc. `outline`: ink round it."""

    part: str
    points: tuple[Point, ...]
    width: float
    colour: str
    closed: bool = False
    outline: bool = True

    def moved(self, scale: float, shift: Point) -> "Shape":
        points = tuple((x * scale + shift[0], y * scale + shift[1]) for x, y in self.points)
        return replace(self, points=points, width=self.width * scale)

    def bounds(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the pen's track."""
        xs, ys = zip(*self.points, strict=True)
        half = self.width / 2
        return min(xs) - half, min(ys) - half, max(xs) + half, max(ys) + half

    def covers(self, point: Point) -> bool:
        """Whether the shape's colour (not its outline) lies over `point`."""
        ends = [*self.points[1:], self.points[0]] if self.closed else self.points[1:] or self.points
        near = any(_distance(point, a, b) <= self.width / 2 for a, b in zip(self.points, ends, strict=False))
        return near or (self.closed and _inside(point, self.points))

    def svg(self, outline: float) -> str:
        """Outline first, then the shape."""
        (x, y), *rest = self.points
        path = f"M{x:.5f},{y:.5f}" + "".join(f"L{px:.5f},{py:.5f}" for px, py in rest) + ("" if rest else "h0.00001")
        path += "Z" if self.closed else ""
        pens = [(self.width + 2 * outline, INK)] if self.outline else []
        return "".join(
            f'<path d="{path}" fill="{colour if self.closed else "none"}" stroke="{colour}" stroke-width="{width:.5f}" '
            f'stroke-linecap="round" stroke-linejoin="round"/>'
            for width, colour in [*pens, (self.width, self.colour)]
        )


def shapes(stance: Stance, looks: Looks, at: Mapping[str, Point]) -> list[Shape]:
    """The whole figure, farthest first. `at` are the joints; everything stays in body coordinates."""
    near, far = (stance.near, OTHER[stance.near]) if stance.facing else ("left", "right")
    parts: list[Shape] = []
    if stance.action == "sit":
        parts += _stool(at)
    if stance.facing:
        parts += _arm(far, looks, at)
    elif stance.view == "front" and looks.hair_style == "long":
        parts.append(_long_hair(looks, at))
    for side in (far, near):
        parts += _leg(side, stance, looks, at)
    parts += [*_hips(stance, looks, at), *_torso(stance, looks, at), *_head(stance, looks, at)]
    if not stance.facing:
        parts += _arm(far, looks, at)
    return [*parts, *_arm(near, looks, at)]


def visibility(joint: str, part: str, stance: Stance, drawn: Sequence[Shape], at: Mapping[str, Point]) -> int:
    """COCO's 2 (seen) or 1 (hidden) for a joint of a body part. Clothes do not hide the hips and knees that they cover."""
    if part == "head" and _is_averted(joint, stance):
        return 1
    last = max(index for index, shape in enumerate(drawn) if shape.part == part)
    sees_through = {part, "torso"} if joint.endswith(("hip", "knee")) else {part}
    hidden = any(shape.covers(at[joint]) for shape in drawn[last + 1 :] if shape.part not in sees_through)
    return 1 if hidden else 2


def part_of(joint: str) -> str:
    """The body part that a COCO key point belongs to."""
    side, _, name = joint.partition("_")
    if name in ("shoulder", "elbow", "wrist"):
        return f"{side}_arm"
    if name in ("hip", "knee", "ankle"):
        return f"{side}_leg"
    return "head"


def _is_averted(joint: str, stance: Stance) -> bool:
    """Whether a point of the face is on the far side of the head."""
    if stance.view == "back":
        return not joint.endswith("ear")
    return bool(stance.facing) and joint.startswith(OTHER[stance.near])


# Limbs and clothes


def _arm(side: str, looks: Looks, at: Mapping[str, Point]) -> Iterator[Shape]:
    shoulder, elbow, wrist, hand = (at[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist", "hand"))
    thick, part, colour = 0.046 * looks.build.width, f"{side}_arm", GARMENT_COLOURS[looks.top_colour]
    yield Shape(part, (hand,), 0.05, looks.skin)
    if looks.top == "shirt":
        yield Shape(part, (shoulder, elbow, _between(elbow, wrist, 0.92)), thick + 0.012, colour)
        return
    yield Shape(part, (shoulder, elbow, wrist), thick, looks.skin)
    yield Shape(part, (shoulder, _between(shoulder, elbow, 0.55)), thick + 0.022, colour)


def _leg(side: str, stance: Stance, looks: Looks, at: Mapping[str, Point]) -> Iterator[Shape]:
    hip, knee, ankle, toe = (at[f"{side}_{name}"] for name in ("hip", "knee", "ankle", "toe"))
    thick, part = 0.066 * looks.build.width, f"{side}_leg"
    yield Shape(part, (ankle, toe), 0.052, SHOE)
    if looks.bottom == "trousers":
        colour = GARMENT_COLOURS[looks.bottom_colour]
        yield Shape(part, (hip, knee, _between(knee, ankle, 0.93)), thick + 0.012, colour)
        return
    yield Shape(part, (hip, knee, ankle), thick - 0.008, looks.skin)
    if looks.bottom == "shorts":
        yield Shape(part, (hip, _between(hip, knee, 0.62)), thick + 0.022, GARMENT_COLOURS[looks.bottom_colour])


def _hips(stance: Stance, looks: Looks, at: Mapping[str, Point]) -> Iterator[Shape]:
    """What joins the legs: the seat of the trousers, or a skirt down to the knees."""
    hips = (at["left_hip"], at["right_hip"])
    thick = 0.078 * looks.build.width
    if looks.bottom in ("trousers", "shorts"):
        yield Shape("torso", hips, thick + 0.014, GARMENT_COLOURS[looks.bottom_colour])
        return
    colour = GARMENT_COLOURS[looks.bottom_colour if looks.bottom else looks.top_colour]
    yield Shape("torso", _skirt(stance, looks, at), 0.02, colour, closed=True)


def _skirt(stance: Stance, looks: Looks, at: Mapping[str, Point]) -> tuple[Point, ...]:
    """The hull of the waist and of a flared hem at four fifths of each thigh."""
    waist = _between(at["hips"], at["neck"], 0.2)
    half = (0.062 if stance.facing else 0.07) * looks.build.width
    points = [(waist[0] - half, waist[1]), (waist[0] + half, waist[1])]
    for side in SIDES:
        hip, knee = at[f"{side}_hip"], at[f"{side}_knee"]
        hem = _between(hip, knee, 0.8)
        along = _unit(hip, knee)
        flare = 0.062 * looks.build.width
        points += [(hem[0] - along[1] * s * flare, hem[1] + along[0] * s * flare) for s in (-1, 1)]
        points += [(hip[0] - along[1] * s * flare, hip[1] + along[0] * s * flare) for s in (-1, 1)]
    return _hull(points)


def _torso(stance: Stance, looks: Looks, at: Mapping[str, Point]) -> Iterator[Shape]:
    colour = GARMENT_COLOURS[looks.top_colour]
    yield Shape("torso", (at["neck"], at["head"]), 0.05 * looks.build.width, looks.skin)
    waist = 0.09  # the shirt's hem above the hip joints
    if stance.facing:
        bottom = _between(at["hips"], at["neck"], waist + 0.1)
        top = _between(at["neck"], at["hips"], 0.2)
        yield Shape("torso", (top, bottom), 0.135 * looks.build.width, colour)
        return
    narrow = 0.86
    left, right = ((at[f"{side}_hip"][0] * narrow, at[f"{side}_hip"][1]) for side in SIDES)
    neck = at["neck"]
    corners = (
        _between(at["left_shoulder"], neck, 0.15),
        _between(at["right_shoulder"], neck, 0.15),
        _between(right, neck, waist),
        _between(left, neck, waist),
    )
    yield Shape("torso", corners, 0.06 * looks.build.width, colour, closed=True)


def _stool(at: Mapping[str, Point]) -> Iterator[Shape]:
    x, seat = at["hips"][0], at["hips"][1] + 0.065
    floor = max(at["left_ankle"][1], at["right_ankle"][1]) + 0.02
    for foot in (-0.075, 0.075):
        yield Shape("stool", ((x + foot * 0.8, seat), (x + foot, floor)), 0.022, STOOL)
    yield Shape("stool", ((x - 0.085, seat), (x + 0.085, seat)), 0.03, STOOL)


# Head


def _head(stance: Stance, looks: Looks, at: Mapping[str, Point]) -> Iterator[Shape]:
    frame = _HeadFrame(at["head"], at["top"], HEAD * looks.build.head, stance.facing)
    if not stance.facing:
        for side in SIDES:
            yield Shape("head", (at[f"{side}_ear"],), 0.34 * frame.size, looks.skin)
    else:
        yield Shape("head", (frame.at(0.86, -0.06),), 0.26 * frame.size, looks.skin)
    yield Shape("head", (frame.at(0, 0.1), frame.at(0, -0.12)), 1.76 * frame.size, looks.skin)
    if stance.facing:
        yield Shape("head", (at[f"{stance.near}_ear"],), 0.3 * frame.size, looks.skin)
    if stance.view != "back":
        yield from _face(stance, looks, at, frame)
    yield from _hair(stance, looks, at, frame)
    if looks.hat:
        yield from _hat(stance, looks, frame)


@dataclass(frozen=True)
class _HeadFrame:
    """The head's own axes: x to the viewer's right (forwards in profile), y up, in units of half its height."""

    centre: Point
    top: Point
    size: float
    facing: int

    def at(self, x: float, y: float) -> Point:
        up = _unit(self.centre, self.top)
        across = x * self.size * (self.facing or 1)
        return (
            self.centre[0] - up[1] * across + up[0] * y * self.size,
            self.centre[1] + up[0] * across + up[1] * y * self.size,
        )

    def arc(self, start: float, end: float, radius: float = 1.0, steps: int = 12) -> list[Point]:
        """Points on a circle about the head, from angle to angle in degrees (0 right or forwards, 90 up)."""
        angles = np.radians(np.linspace(start, end, steps))
        return [self.at(radius * math.cos(a) * 0.93, 0.04 + radius * math.sin(a) * 0.97) for a in angles]


def _face(stance: Stance, looks: Looks, at: Mapping[str, Point], frame: _HeadFrame) -> Iterator[Shape]:
    eyes = [at[f"{stance.near}_eye"]] if stance.facing else [at[f"{side}_eye"] for side in SIDES]
    for eye in eyes:
        yield Shape("head", (eye,), 0.17 * frame.size, INK, outline=False)
    if stance.facing:
        mouth = [frame.at(0.66, -0.46), frame.at(0.5, -0.52), frame.at(0.36, -0.46)]
    else:
        mouth = [frame.at(x, -0.44 - 0.1 * (1 - (x / 0.28) ** 2)) for x in (-0.28, -0.14, 0, 0.14, 0.28)]
        yield Shape("head", (at["nose"],), 0.12 * frame.size, _darker(looks.skin), outline=False)
    yield Shape("head", tuple(mouth), 0.07 * frame.size, INK, outline=False)


def _hair(stance: Stance, looks: Looks, at: Mapping[str, Point], frame: _HeadFrame) -> Iterator[Shape]:
    colour = HAIR_COLOURS[looks.hair]
    pen = 0.12 * frame.size
    if looks.hair_style == "bun" and not looks.hat:
        yield Shape("hair", (frame.at(-0.25 if stance.facing else 0, 1.2),), 0.6 * frame.size, colour)
    if stance.view == "back":
        low = -0.3 if looks.hair_style != "long" else -1.3
        yield Shape("hair", (frame.at(0, 0.12), frame.at(0, low)), 1.7 * frame.size, colour)
    elif stance.facing:
        nape = [frame.at(-0.5, -0.62), frame.at(-0.28, -0.1), frame.at(0.1, 0.35), frame.at(0.62, 0.5)]
        yield Shape("hair", (*frame.arc(40, 205), *nape), pen, colour, closed=True)
        if looks.hair_style == "long":
            yield Shape("hair", (frame.at(-0.62, 0.1), frame.at(-0.7, -1.2)), 0.6 * frame.size, colour)
    else:
        fringe = [frame.at(-0.72, 0.42), frame.at(-0.2, 0.62), frame.at(0.3, 0.5), frame.at(0.72, 0.4)]
        yield Shape("hair", (*frame.arc(8, 172), *fringe), pen, colour, closed=True)
    if looks.hair_style == "curly":
        end = 172 if not stance.facing else 205
        curls = frame.arc(8 if not stance.facing else 45, end, radius=1.02, steps=8)
        for outline in (True, False):  # once with ink, then over the ink between them
            yield from (Shape("hair", (curl,), 0.42 * frame.size, colour, outline=outline) for curl in curls)


def _long_hair(looks: Looks, at: Mapping[str, Point]) -> Shape:
    """Hair that falls behind the shoulders, seen from the front: drawn before the body."""
    frame = _HeadFrame(at["head"], at["top"], HEAD * looks.build.head, 0)
    colour = HAIR_COLOURS[looks.hair]
    corners = (frame.at(-0.6, 0.3), frame.at(0.6, 0.3), frame.at(0.72, -1.35), frame.at(-0.72, -1.35))
    return Shape("hair", corners, 0.6 * frame.size, colour, closed=True)


def _hat(stance: Stance, looks: Looks, frame: _HeadFrame) -> Iterator[Shape]:
    """A cap with a peak."""
    colour = GARMENT_COLOURS[looks.hat]
    yield Shape("hair", (*frame.arc(16, 164, radius=1.14), frame.at(0, 0.4)), 0.1 * frame.size, colour, closed=True)
    if stance.facing:
        yield Shape("hair", (frame.at(0.5, 0.46), frame.at(1.35, 0.4)), 0.16 * frame.size, colour)
    elif stance.view == "front":
        yield Shape("hair", (frame.at(-0.78, 0.56), frame.at(0, 0.46), frame.at(0.78, 0.56)), 0.22 * frame.size, colour)


# Geometry


def _between(a: Point, b: Point, part: float) -> Point:
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part


def _unit(a: Point, b: Point) -> Point:
    length = math.dist(a, b) or 1.0
    return (b[0] - a[0]) / length, (b[1] - a[1]) / length


def _distance(p: Point, a: Point, b: Point) -> float:
    """From a point to a segment."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    part = 0.0 if length == 0 else min(1.0, max(0.0, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length))
    return math.dist(p, (a[0] + part * dx, a[1] + part * dy))


def _inside(p: Point, polygon: Sequence[Point]) -> bool:
    import cv2

    return cv2.pointPolygonTest(np.array(polygon, np.float32), p, False) > 0


def _hull(points: Sequence[Point]) -> tuple[Point, ...]:
    """The convex hull, from its leftmost point on."""
    import cv2

    hull = [points[int(index)] for index in cv2.convexHull(np.array(points, np.float32), returnPoints=False)[:, 0]]
    first = hull.index(min(hull))
    return tuple(hull[first:] + hull[:first])


def _darker(colour: str) -> str:
    return "#" + "".join(f"{int(int(colour[i : i + 2], 16) * 0.78):02x}" for i in (1, 3, 5))
