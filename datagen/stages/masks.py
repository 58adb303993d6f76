"""Entities to masks: the source's polygon or run lengths, or GrabCut where only a box is known; refined on the picture's edges.

Writes the working field `work-masks.npy`, bool [k, h, w], in the order of `json.entities`, and each entity's `origin`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import SampleStage, model_time
from lt.datagen.shards import LtError, Reject, Sample, SampleError
from lt.datagen.stages.entities import annotated, corners
from lt.models.perception.registry import BACKENDS, BackendError, find, load

MASKS = "work-masks.npy"


class ExpertStage(SampleStage):
    """A stage that asks a perception backend. `kind` is the backend's kind, and the stage's field with its name."""

    kind: ClassVar[str]

    @property
    def expert(self) -> Any:
        return expert(self.kind, self._backend)

    @property
    def on_device(self) -> bool:
        """Whether the backend computes on an accelerator where there is one; of an unknown one `made_by` complains."""
        known = [backend for backend in BACKENDS if backend.kind == self.kind and backend.on_device]
        return self._backend.partition(":")[0] in [backend.name for backend in known]

    @property
    def made_by(self) -> tuple[str, ...]:
        return (expert_class(self.kind, self._backend),)

    @property
    def _backend(self) -> str:
        return getattr(self, self.kind)


@dataclass(frozen=True)
class MakeMasks(ExpertStage):
    """One clean mask an entity; a box without a mask goes to `segmenter`."""

    segmenter: str = "opencv"
    """Backend for instances that have only a box."""
    speck: float = 0.01
    """Islands and holes smaller than this share of the entity are removed."""
    name: ClassVar[str] = "make-masks"
    kind: ClassVar[str] = "segmenter"

    def process(self, sample: Sample) -> Sample | Reject:
        entities, masks = sample.meta["entities"], []
        wanted = sorted({number for entity in entities for number in entity["numbers"]})
        found = self._found(sample.picture, {number: sample.meta["instances"][number] for number in wanted})
        for entity in entities:
            parts = [found[number] for number in entity["numbers"]]
            mask = clean(np.any([part for part, _ in parts], axis=0), self.speck)
            if not mask.any():
                return Reject.of(sample, "empty-mask", 0, f"{entity['category']}: nothing found in the box")
            entity["origin"] = "+".join(sorted({origin for _, origin in parts}))
            masks.append(mask)
        sample[MASKS] = np.stack(masks)
        return sample

    def _found(self, picture: np.ndarray, instances: dict[int, dict[str, Any]]) -> dict[int, tuple[np.ndarray, str]]:
        """By number, the mask [h, w] of each instance and where it comes from. The segmenter is shown all boxes at once."""
        height, width = picture.shape[:2]
        known = {number: annotated(item, height, width) for number, item in instances.items()}
        found = {number: (mask, "annotation") for number, mask in known.items() if mask is not None}
        boxes = {number: corners(item, height, width) for number, item in instances.items() if known[number] is None}
        if boxes:
            with model_time():
                its = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes.values()]
                (masks,) = self.expert.segment([picture], [its])
            found |= {number: (mask, self.segmenter) for number, mask in zip(boxes, masks, strict=True)}
        return found


def _asked(ask: Callable[[str, str], Any], kind: str, name: str) -> Any:
    """What the registry of backends answers, its complaint as an error for people."""
    try:
        return ask(kind, name)
    except BackendError as error:
        raise LtError(error.message, error.hint) from None


expert, expert_class = partial(_asked, load), partial(_asked, lambda kind, name: find(kind, name).target)
"""A backend by kind and name; its class as `module:Class`, which a stage that is told its name is made by."""


def check_expert(kind: str, name: str) -> None:
    """Raises LtError where a backend is not known, its package is missing, or (where it has no weights) it knows no such name."""
    backend = _asked(find, kind, name.partition(":")[0])
    if backend.missing or (":" in name and not backend.on_device):
        expert(kind, name)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """0..1 to uint8. Raises SampleError `not-finite`: what is no number would become black."""
    if not np.isfinite(values).all():
        raise SampleError("not-finite", f"{int((~np.isfinite(values)).sum())} of {values.size} values are no numbers")
    return np.round(values * 255).astype(np.uint8)


def clean(mask: np.ndarray, speck: float) -> np.ndarray:
    """`mask` [h, w] without islands and holes that are smaller than `speck` of its area."""
    limit = speck * mask.sum()
    return ~_drop_small(~_drop_small(mask, limit), limit)


def pieces(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The connected pieces of `mask` [h, w] (corners connect), numbered from 1, int32 [h, w], and how many there are."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    return labels, count - 1


def _drop_small(mask: np.ndarray, limit: float) -> np.ndarray:
    labels, count = pieces(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    large = sizes >= limit
    large[0] = False
    return large[labels]


def disc(radius: float) -> np.ndarray:
    """A round structuring element, uint8 [2r + 1, 2r + 1]."""
    size = 2 * int(np.ceil(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
