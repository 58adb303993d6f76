"""Choose what becomes a layer: annotated instances, joined with what they carry, the largest few of them.

Reads `json.instances` (id, category, supercategory, bbox [x, y, w, h] in pixels, iscrowd, segmentation) and writes
`json.entities`: a list of {instances: [id], numbers: [place in `json.instances`], categories: one an instance, category,
supercategory, bbox}, largest first. Everything else stays background.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import SampleStage
from lt.datagen.shards import Reject, Sample, SampleError
from lt.models.perception.annotations import mask_of


@dataclass
class Candidate:
    """An entity in the making: its instances, their places in `json.instances`, the union of their masks [h, w] (a filled box
    where there is no mask)."""

    instances: list[dict[str, Any]]
    numbers: list[int]
    mask: np.ndarray

    @property
    def main(self) -> dict[str, Any]:
        return self.instances[0]

    @property
    def area(self) -> int:
        return int(self.mask.sum())

    def join(self, other: "Candidate") -> None:
        self.instances += other.instances
        self.numbers += other.numbers
        self.mask = self.mask | other.mask


@dataclass(frozen=True)
class ChooseEntities(SampleStage):
    """Instances to 1..`max_layers` entities. Crowds (`iscrowd`) and what is too small or too large stay background."""

    max_layers: int = 4
    """Layers a picture, at most."""
    min_area: float = 0.005
    """Smallest share of the picture that an entity covers."""
    max_area: float = 0.7
    """Largest share of the picture that an entity covers."""
    carried: tuple[str, ...] = ("accessory", "sports")
    """Supercategories that join the person whom they touch."""
    reach: int = 4
    """Pixels within which two masks touch."""
    name: ClassVar[str] = "choose-entities"

    def process(self, sample: Sample) -> Sample | Reject:
        instances = read_instances(sample)
        if not instances:
            return Reject.of(sample, "no-instances", 0, "the source names no instance; a detector would have to")
        height, width = sample.picture.shape[:2]
        candidates = [
            Candidate([item], [number], extent(item, height, width))
            for number, item in enumerate(instances)
            if not is_crowd(item)
        ]
        if not candidates:
            return Reject.of(sample, "only-crowds", len(instances), "every instance is a crowd")
        candidates = self._give_to_owners(candidates)
        kept = self._within_limits(candidates, height * width)
        if not kept:
            share = max(candidate.area for candidate in candidates) / (height * width)
            return Reject.of(sample, "no-entity-of-fitting-size", round(share, 5), "share of the largest entity")
        sample.meta["entities"] = [_describe(candidate) for candidate in kept]
        return sample

    def _give_to_owners(self, candidates: list[Candidate]) -> list[Candidate]:
        """Things that are carried join the person whom they touch most; untouched ones stand alone."""
        owners = [candidate for candidate in candidates if candidate.main.get("supercategory") == "person"]
        alone = []
        for candidate in candidates:
            if candidate.main.get("supercategory") in self.carried and owners:
                touch = [contact(candidate.mask, owner.mask, self.reach) for owner in owners]
                if max(touch) > 0:
                    owners[int(np.argmax(touch))].join(candidate)
                    continue
            alone.append(candidate)
        return alone

    def _within_limits(self, candidates: list[Candidate], pixels: int) -> list[Candidate]:
        """Fitting sizes, largest first; too many: touching ones of one category are joined, then the smallest go."""
        fitting = [c for c in candidates if self.min_area <= c.area / pixels <= self.max_area]
        fitting.sort(key=lambda candidate: -candidate.area)
        while len(fitting) > self.max_layers:
            pair = self._touching_pair(fitting, pixels)
            if pair is None:
                return fitting[: self.max_layers]
            large, small = pair
            fitting[large].join(fitting.pop(small))
        return fitting

    def _touching_pair(self, candidates: list[Candidate], pixels: int) -> tuple[int, int] | None:
        """The smallest two of one category that touch and together are not too large, as (larger, smaller)."""
        for small, large in combinations(reversed(range(len(candidates))), 2):
            one, other = candidates[large], candidates[small]
            is_small = (one.mask | other.mask).sum() <= self.max_area * pixels
            alike = one.main["category"] == other.main["category"]
            if is_small and alike and contact(one.mask, other.mask, self.reach):
                return large, small
        return None


def read_instances(sample: Sample) -> list[dict[str, Any]]:
    """`json.instances`, each an object with a category. Raises SampleError `bad-annotation`."""
    instances = sample.meta.get("instances") or []
    if not isinstance(instances, list):
        raise SampleError("bad-annotation", f"instances are a {type(instances).__name__}, want a list")
    for number, item in enumerate(instances):
        if not isinstance(item, dict):
            raise SampleError("bad-annotation", f"instances[{number}] is a {type(item).__name__}, want an object")
        if not isinstance(item.get("category"), str) or not item["category"].strip():
            raise SampleError("bad-annotation", f"instances[{number}] (id {item.get('id')}) has no category")
    return instances


def is_crowd(instance: dict[str, Any]) -> bool:
    """Whether `iscrowd` says so, as a number, a truth value or text; nothing and null say no."""
    said = instance.get("iscrowd")
    return said.strip().lower() not in ("", "0", "false", "no") if isinstance(said, str) else bool(said)


def extent(instance: dict[str, Any], height: int, width: int) -> np.ndarray:
    """The instance's annotated mask [height, width], or its filled box where it has none. Raises SampleError `bad-annotation`."""
    mask = annotated(instance, height, width)
    if mask is None:
        x0, y0, x1, y1 = corners(instance, height, width)
        mask = np.zeros((height, width), bool)
        mask[y0:y1, x0:x1] = True
    return mask


def annotated(instance: dict[str, Any], height: int, width: int) -> np.ndarray | None:
    """The mask [height, width] that the source gives for an instance, if any. Raises SampleError `bad-annotation`."""
    try:
        return mask_of(instance.get("segmentation"), height, width)
    except (ValueError, TypeError, OverflowError) as error:
        raise SampleError("bad-annotation", f"instance {instance.get('id')}: {error}") from None


def corners(instance: dict[str, Any], height: int, width: int) -> tuple[int, int, int, int]:
    """The instance's box as whole pixels x0, y0, x1, y1 inside the picture. Raises SampleError `bad-annotation`."""
    told = instance.get("bbox")
    try:
        x, y, w, h = (float(value) for value in told or ())
        box = round(x), round(y), round(x + w), round(y + h)
    except (TypeError, ValueError, OverflowError):
        want = "want a mask or a box [x, y, width, height]"
        raise SampleError("bad-annotation", f"instance {instance.get('id')}: {want}, got {str(told)[:60]}") from None
    return max(0, box[0]), max(0, box[1]), min(width, box[2]), min(height, box[3])


def contact(one: np.ndarray, other: np.ndarray, reach: int) -> int:
    """Pixels of `other` within `reach` pixels of `one`: 0 where they do not touch."""
    size = 2 * reach + 1
    near = cv2.dilate(one.astype(np.uint8), np.ones((size, size), np.uint8))
    return int((near.astype(bool) & other).sum())


def _describe(candidate: Candidate) -> dict[str, Any]:
    rows, columns = np.nonzero(candidate.mask)
    x, y = int(columns.min()), int(rows.min())
    return {
        "instances": [instance.get("id") for instance in candidate.instances],
        "numbers": candidate.numbers,
        "category": candidate.main["category"],
        "categories": [instance["category"] for instance in candidate.instances],
        "supercategory": candidate.main.get("supercategory", ""),
        "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
    }
