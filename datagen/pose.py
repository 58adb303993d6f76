"""COCO-17 key points and the picture of them that pose-controlled diffusion models expect.

Key points are an array [17, 3] of (x, y, visibility): pixels from the upper left corner of the picture (a pixel's centre lies
at half integers), visibility as in COCO: 0 not in the picture (x = y = 0), 1 hidden, 2 seen. Left and right are the person's
own.

The picture follows OpenPose's 18 points (COCO-17 and a neck between the shoulders) in the colours that ControlNet's annotators
draw: limbs as ellipses of 60 % brightness, then joints at full brightness, on black.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_PAIRS = ("eye", "ear", "shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COCO_KEYPOINTS = ("nose", *(f"{side}_{part}" for part in _PAIRS for side in ("left", "right")))
FACE = frozenset(range(5))
"""Nose, eyes and ears: drawn only where they are seen, so that the picture tells front from back and left from right profile."""

OPENPOSE_POINTS = (
    "nose",
    "neck",
    *(f"{side}_{joint}" for side in ("right", "left") for joint in ("shoulder", "elbow", "wrist")),
    *(f"{side}_{joint}" for side in ("right", "left") for joint in ("hip", "knee", "ankle")),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
OPENPOSE_LIMBS = (
    (("neck", "right_shoulder"), ("neck", "left_shoulder"))
    + (("right_shoulder", "right_elbow"), ("right_elbow", "right_wrist"))
    + (("left_shoulder", "left_elbow"), ("left_elbow", "left_wrist"))
    + (("neck", "right_hip"), ("right_hip", "right_knee"), ("right_knee", "right_ankle"))
    + (("neck", "left_hip"), ("left_hip", "left_knee"), ("left_knee", "left_ankle"))
    + (
        ("neck", "nose"),
        ("nose", "right_eye"),
        ("right_eye", "right_ear"),
        ("nose", "left_eye"),
        ("left_eye", "left_ear"),
    )
)
OPENPOSE_COLOURS = (
    ((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0))
    + ((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255))
    + ((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85))
)
"""RGB of the i-th point; limbs take the first 17 in their order."""

LIMB_DARKNESS = 0.6
_RADIUS_OF_512 = 4.0  # pixels: half the width of a limb, and a joint's radius, in a picture of 512 pixels


def openpose_points(keypoints: Sequence[Sequence[float]] | np.ndarray) -> dict[str, tuple[float, float]]:
    """Which of OpenPose's points are drawn, by name: the neck where both shoulders are known, the face where it is seen."""
    points = {
        name: (float(x), float(y))
        for index, (name, (x, y, visibility)) in enumerate(zip(COCO_KEYPOINTS, keypoints, strict=True))
        if visibility == 2 or (visibility == 1 and index not in FACE)
    }
    if "left_shoulder" in points and "right_shoulder" in points:
        (ax, ay), (bx, by) = points["left_shoulder"], points["right_shoulder"]
        points["neck"] = ((ax + bx) / 2, (ay + by) / 2)
    return points


def draw_openpose(people: Sequence[Any] | np.ndarray, width: int, height: int) -> np.ndarray:
    """The skeletons of `people` [n, 17, 3] on black, uint8 RGB [height, width, 3], antialiased; lines grow with the picture."""
    from lt.datagen.sources.drawings import render_svg

    radius = max(1.0, _RADIUS_OF_512 * max(width, height) / 512)
    parts = [f'<rect width="{width}" height="{height}" fill="#000"/>']
    for keypoints in people:
        parts += _skeleton(openpose_points(keypoints), radius)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(parts)}</svg>'
    return np.ascontiguousarray(render_svg(svg, width, height)[:, :, :3])


def _skeleton(points: dict[str, tuple[float, float]], radius: float) -> list[str]:
    parts = []
    for (first, second), colour in zip(OPENPOSE_LIMBS, OPENPOSE_COLOURS, strict=False):
        if first in points and second in points:
            parts.append(_limb(points[first], points[second], radius, colour))
    for name, colour in zip(OPENPOSE_POINTS, OPENPOSE_COLOURS, strict=True):
        if name in points:
            x, y = points[name]
            parts.append(f'<circle cx="{x:.3f}" cy="{y:.3f}" r="{radius:.3f}" fill="rgb{colour}"/>')
    return parts


def _limb(first: tuple[float, float], second: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> str:
    (ax, ay), (bx, by) = first, second
    length, angle = math.hypot(bx - ax, by - ay) / 2, math.degrees(math.atan2(by - ay, bx - ax))
    dark = tuple(int(value * LIMB_DARKNESS) for value in colour)
    place = f"translate({(ax + bx) / 2:.3f} {(ay + by) / 2:.3f}) rotate({angle:.3f})"
    return f'<ellipse rx="{length:.3f}" ry="{radius:.3f}" transform="{place}" fill="rgb{dark}"/>'
