"""What is not good enough, with the reason and the figure that decided.

| reason | figure |
|---|---|
| picture-too-small | shorter side in pixels |
| near-duplicate | Hamming distance of the perceptual hashes |
| too-small | share of the picture |
| too-fragmented | share of the largest piece in the entity |
| touches-border | share of the outline that lies on the picture's border |
| poor-recomposition | dB |
| layer-vanished | opaque share of the picture left by the matte |

An entity that fails stays background and is named in `json.left_in_background`; a sample is rejected when none is left.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import SampleStage, each
from lt.datagen.shards import Reject, Sample
from lt.datagen.stages.masks import MASKS, pieces
from lt.datagen.stages.matte import ALPHA


@dataclass(frozen=True)
class DropDuplicates:
    """Reject pictures that look like an earlier one of the same task (shard); across tasks nothing is compared.

    So the result of a task depends on its input alone, not on what other workers did. Perceptual hash: 64 bits of the low
    cosine frequencies (`imagehash.phash`). It survives scaling and JPEG, not cropping or mirroring.
    """

    distance: int = 4
    """Differing bits, of 64, up to which two pictures are the same. Negative: keep all."""
    min_side: int = 96
    """Shorter side of a picture in pixels, at least."""
    name: ClassVar[str] = "drop-duplicates"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        seen: list[tuple[np.ndarray, str]] = []
        yield from each(lambda sample: self._judge(sample, seen), samples)

    def _judge(self, sample: Sample, seen: list[tuple[np.ndarray, str]]) -> Sample | Reject:
        side = min(sample.picture.shape[:2])
        if side < self.min_side:
            return Reject.of(sample, "picture-too-small", side, f"shorter side in pixels, want {self.min_side}")
        bits = perceptual_hash(sample.picture)
        for earlier, key in seen:
            distance = int((bits != earlier).sum())
            if distance <= self.distance:
                return Reject.of(sample, "near-duplicate", distance, f"looks like {key}")
        seen.append((bits, sample.key))
        return sample


def perceptual_hash(picture: np.ndarray) -> np.ndarray:
    """64 bits, bool [8, 8], of uint8 RGB [h, w, 3]."""
    import imagehash
    from PIL import Image

    return imagehash.phash(Image.fromarray(picture)).hash


@dataclass(frozen=True)
class FilterEntities(SampleStage):
    """Leave entities in the background whose masks are too small, in pieces, or cut off by the picture's border."""

    min_area: float = 0.004
    """Smallest share of the picture."""
    min_largest: float = 0.5
    """Smallest share of an entity (per joined instance) that is one piece."""
    max_border: float = 0.4
    """Largest share of the outline that lies on the picture's border."""
    name: ClassVar[str] = "filter-entities"

    def process(self, sample: Sample) -> Sample | Reject:
        masks, entities = sample[MASKS], sample.meta["entities"]
        faults = [self.fault(mask, len(its["instances"])) for mask, its in zip(masks, entities, strict=True)]
        left = [
            {"category": entity["category"], "instances": entity["instances"], "reason": fault[0], "figure": fault[1]}
            for entity, fault in zip(entities, faults, strict=True)
            if fault
        ]
        if len(left) == len(entities):
            return Reject.of(sample, left[0]["reason"], left[0]["figure"], f"and no other entity: {left}")
        keep = [number for number, fault in enumerate(faults) if not fault]
        sample.meta["entities"] = [entities[number] for number in keep]
        if left:
            sample.meta["left_in_background"] = left
            sample[MASKS] = masks[keep]
        return sample

    def fault(self, mask: np.ndarray, instances: int = 1) -> tuple[str, float] | None:
        """Reason and figure why `mask` [h, w], which joins `instances`, is no layer; None if it is one."""
        area = float(mask.mean())
        if area < self.min_area:
            return "too-small", round(area, 5)
        largest = largest_piece(mask)
        if largest < self.min_largest / instances:
            return "too-fragmented", round(largest, 3)
        border = border_share(mask)
        if border > self.max_border:
            return "touches-border", round(border, 3)
        return None


def largest_piece(mask: np.ndarray) -> float:
    """The share 0..1 of `mask` [h, w] that its largest connected piece holds."""
    labels, count = pieces(mask)
    return float(np.bincount(labels.ravel(), minlength=2)[1:].max() / mask.sum()) if count else 0.0


def border_share(mask: np.ndarray) -> float:
    """The share 0..1 of the outline of `mask` [h, w] that lies on the picture's border."""
    padded = np.pad(mask, 1).astype(np.uint8)
    outline = (padded[1:-1, 1:-1] - cv2.erode(padded, np.ones((3, 3), np.uint8))[1:-1, 1:-1]).astype(bool)
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    return float((outline & edge).sum() / max(outline.sum(), 1))


@dataclass(frozen=True)
class FilterRecomposition(SampleStage):
    """Reject samples whose layers do not give the photograph back, or lost a layer on the way."""

    min_psnr: float = 35.0
    """Smallest PSNR in dB of the composite against the photograph."""
    min_opaque: float = 0.002
    """Smallest share of the picture in which a layer's alpha is above one half."""
    name: ClassVar[str] = "filter-recomposition"

    def process(self, sample: Sample) -> Sample | Reject:
        quality: dict[str, Any] = sample.meta["recomposition"]
        if quality["psnr_db"] < self.min_psnr:
            return Reject.of(sample, "poor-recomposition", quality["psnr_db"], f"want {self.min_psnr} dB")
        opaque = float((sample[ALPHA] > 0.5).mean(axis=(1, 2)).min())
        if opaque < self.min_opaque:
            return Reject.of(
                sample, "layer-vanished", round(opaque, 5), "share of the picture that the matte left opaque"
            )
        return sample
