"""Say in json what each layer is; drop the working fields.

Writes `json.layers`, lowest first: {caption {lang: text}, caption_from {lang: how}, category, bbox [x, y, w, h] of alpha > 0,
score, origin, instances, z}. `score` says how far the source's mask and the matte agree: sum of minima over sum of maxima, 0..1.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.stage import SampleStage
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import alpha_box
from lt.datagen.shards.sample import layer_field
from lt.datagen.stages.masks import MASKS
from lt.datagen.stages.matte import ALPHA, BEHIND, COLOUR


@dataclass(frozen=True)
class DescribeLayers(SampleStage):
    """`json.entities` and `json.layer_captions` become `json.layers`."""

    name: ClassVar[str] = "describe-layers"

    def process(self, sample: Sample) -> Sample:
        meta, masks = sample.meta, sample[MASKS]
        meta["layers"] = [
            describe(z, entity, caption, masks[z], sample[layer_field(z)][:, :, 3])
            for z, (entity, caption) in enumerate(zip(meta.pop("entities"), meta.pop("layer_captions"), strict=True))
        ]
        for field in (MASKS, ALPHA, COLOUR, BEHIND):
            del sample[field]
        return sample


def describe(
    z: int, entity: dict[str, Any], caption: dict[str, Any], mask: np.ndarray, alpha: np.ndarray
) -> dict[str, Any]:
    """The json of one layer: `mask` bool [h, w] is the source's, `alpha` uint8 [h, w] the layer's."""
    soft = alpha / 255
    return {
        "z": z,
        "caption": caption["text"],
        "caption_from": caption["from"],
        "category": entity["category"],
        "bbox": list(alpha_box(alpha) or (0, 0, 0, 0)),
        "score": round(float(np.minimum(mask, soft).sum() / np.maximum(mask, soft).sum()), 4),
        "origin": entity["origin"],
        "instances": entity["instances"],
    }
