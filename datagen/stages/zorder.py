"""Which entity lies in front: cues for each pair, and the order of all that agrees with them best.

For a pair (a, b) each cue gives a value in -1..1, positive where a is in front of b:

| cue | says | weight |
|---|---|---|
| overlap | pixels that both masks claim look like the one in front | 1.0 |
| bite | the one behind is bitten into: the other fills its convex hull (only where they touch) | 1.0 |
| within | a small thing that touches a large one, inside its box, lies on it | 0.7 |
| support | what stands lower stands nearer: a ground plane (not in piles: touching, boxes overlapping by half) | 0.6 |
| size | of one category, the larger is nearer | 0.3 |

Writes `json.zorder`, one {"front", "behind", "strength", "touching", "cues"} a pair: layer numbers; `strength` is the weighted
mean of the cues, -1..1, negative where the order of all others outvoted it. Sorts `json.entities` and the masks: lowest first.
"""

from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import SampleStage
from lt.datagen.shards import Sample
from lt.datagen.stages.entities import contact
from lt.datagen.stages.masks import MASKS

WEIGHTS = {"overlap": 1.0, "bite": 1.0, "within": 0.7, "support": 0.6, "size": 0.3}
MIN_EVIDENCE = 20
"""Pixels below which an overlap or a bite says nothing."""


@dataclass(frozen=True)
class OrderLayers(SampleStage):
    """Depth order of the entities from what can be seen in the masks and the picture."""

    reach: int = 4
    """Pixels within which two masks touch."""
    name: ClassVar[str] = "order-layers"

    def process(self, sample: Sample) -> Sample:
        entities, masks = sample.meta["entities"], sample[MASKS]
        picture = cv2.cvtColor(sample.picture, cv2.COLOR_RGB2LAB).astype(np.float32)
        cues = {
            (a, b): pair_cues(
                picture, masks[a], masks[b], entities[a]["category"] == entities[b]["category"], self.reach
            )
            for a, b in combinations(range(len(masks)), 2)
        }
        order = best_order(len(masks), {pair: total(found) for pair, found in cues.items()})
        place = {entity: z for z, entity in enumerate(order)}
        sample.meta["zorder"] = [
            _describe(place[a], place[b], found, bool(contact(masks[a], masks[b], self.reach)))
            for (a, b), found in cues.items()
        ]
        sample.meta["entities"] = [entities[entity] for entity in order]
        sample[MASKS] = masks[list(order)]
        return sample


def pair_cues(lab: np.ndarray, a: np.ndarray, b: np.ndarray, same_category: bool, reach: int) -> dict[str, float]:
    """The cues that speak about masks `a` and `b` [h, w] on the picture `lab` [h, w, 3]; positive: a in front."""
    touching = contact(a, b, reach) > 0
    found = {
        "overlap": overlap_cue(lab, a, b),
        "bite": bite_cue(a, b) if touching else None,
        "within": within_cue(a, b) if touching else None,
        "support": None if touching and max(shared_boxes(a, b)) >= 0.5 else support_cue(a, b),
        "size": float(np.clip(np.log2(a.sum() / b.sum()) / 2, -1, 1)) if same_category else None,
    }
    return {name: round(value, 3) for name, value in found.items() if value is not None}


def overlap_cue(lab: np.ndarray, a: np.ndarray, b: np.ndarray, near: int = 15) -> float | None:
    """Whom the shared pixels look like: mean distance to the nearest of each one's own colours around them."""
    shared = a & b
    if shared.sum() < MIN_EVIDENCE:
        return None
    around = cv2.dilate(shared.astype(np.uint8), np.ones((2 * near + 1, 2 * near + 1), np.uint8)).astype(bool)
    own_a, own_b = around & a & ~b, around & b & ~a
    if not own_a.any() or not own_b.any():
        return 1.0 if own_b.any() else -1.0 if own_a.any() else None  # one inside the other: the inner lies in front
    to_a, to_b = _distance(lab[shared], lab[own_a]), _distance(lab[shared], lab[own_b])
    return (to_b - to_a) / max(to_a + to_b, 1e-6)


def _distance(pixels: np.ndarray, palette: np.ndarray, most: int = 200) -> float:
    """Mean distance of `pixels` [n, 3] to the nearest of `palette` [m, 3]; both thinned evenly to at most `most`."""
    pixels, palette = (part[:: max(1, len(part) // most)] for part in (pixels, palette))
    return float(np.linalg.norm(pixels[:, None] - palette[None], axis=2).min(axis=1).mean())


def bite_cue(a: np.ndarray, b: np.ndarray) -> float | None:
    """How much more of `a` lies in the hull of `b` than the other way round."""
    in_b, in_a = int((hull(b) & a & ~b).sum()), int((hull(a) & b & ~a).sum())
    return (in_b - in_a) / (in_a + in_b) if in_a + in_b >= MIN_EVIDENCE else None


def within_cue(a: np.ndarray, b: np.ndarray) -> float | None:
    """The smaller lies on the larger if its box is inside the larger's and it is less than half as large."""
    shares = shared_boxes(a, b)
    if max(shares) < 0.9 or max(a.sum(), b.sum()) < 2 * min(a.sum(), b.sum()):
        return None
    return float(shares[0] if a.sum() < b.sum() else -shares[1])


def support_cue(a: np.ndarray, b: np.ndarray) -> float:
    """Whose lower end is lower, in tenths of the picture's height."""
    ends = [int(np.flatnonzero(mask.any(axis=1))[-1]) for mask in (a, b)]
    return float(np.clip((ends[0] - ends[1]) / (0.1 * a.shape[0]), -1, 1))


def shared_boxes(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The share of the box of `a` that lies in the box of `b`, and the reverse."""
    one, other = (cv2.boundingRect(mask.astype(np.uint8)) for mask in (a, b))
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    return shared / (one[2] * one[3]), shared / (other[2] * other[3])


def hull(mask: np.ndarray) -> np.ndarray:
    """The convex hull of `mask` [h, w], filled."""
    points = cv2.findNonZero(mask.astype(np.uint8))
    filled = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(filled, cv2.convexHull(points), 1)
    return filled.astype(bool)


def total(cues: dict[str, float]) -> float:
    """The weighted mean of the cues, -1..1."""
    weights = sum(WEIGHTS[name] for name in cues)
    return sum(WEIGHTS[name] * value for name, value in cues.items()) / weights if weights else 0.0


def best_order(count: int, score: dict[tuple[int, int], float]) -> tuple[int, ...]:
    """The order of 0..count-1, lowest first, in which the pairs' scores (positive: first in front) agree most.

    Exact, by trying all orders: `count` is the number of layers of a picture, at most 6.
    """

    def agreement(order: tuple[int, ...]) -> float:
        place = {entity: z for z, entity in enumerate(order)}
        return sum(value if place[a] > place[b] else -value for (a, b), value in score.items())

    return max(permutations(range(count)), key=agreement)


def _describe(a: int, b: int, cues: dict[str, float], touching: bool) -> dict[str, Any]:
    """A pair as it was decided; the cues are turned so that positive speaks for the decision."""
    front, behind, sign = (a, b, 1) if a > b else (b, a, -1)
    return {
        "front": front,
        "behind": behind,
        "strength": round(sign * total(cues), 3),
        "touching": touching,
        "cues": {name: sign * value for name, value in cues.items()},
    }
