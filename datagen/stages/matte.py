"""Masks to alpha mattes and clean colours, from the front to the back.

The front layer is matted on the photograph. Then it is peeled off: its pixels are closed from their surroundings, and the next
layer is matted on what that leaves. So a lower layer runs on for `tuck` pixels under the soft edge of the layer above, in its
own colours, and is cut where the layer above is opaque: hidden parts are not invented.

Writes the working fields `work-alpha.npy`, float32 [k, h, w], `work-colour.npy`, float32 [k, h, w, 3], and `work-behind.npy`,
float32 [h, w, 3], all in 0..1: what shines through the layers' soft edges; elsewhere the photograph.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import cv2
import numpy as np
from scipy import ndimage

from lt.datagen.engine.stage import SampleStage, model_time
from lt.datagen.shards import Sample
from lt.datagen.stages.masks import MASKS, clean, disc, pieces
from lt.models.perception.matting import closed_form_alpha, edge_colours, trimap_of
from lt.models.perception.opencv import GrabCut

ALPHA, COLOUR, BEHIND = "work-alpha.npy", "work-colour.npy", "work-behind.npy"


@dataclass(frozen=True)
class MatteLayers(SampleStage):
    """Move each mask to the picture's edges, solve for alpha in a narrow band, and for colours without the old background."""

    slack: float = 0.035
    """How far an annotated outline may be off, as a share of the square root of the entity's area (2 to 8 pixels)."""
    band: float = 3.0
    """Half width in pixels of the band in which alpha is solved."""
    prior: float = 0.1
    """Weight of the mask in the band; 0 trusts the picture alone and grows haze on texture."""
    tuck: int = 8
    """Pixels that a lower layer runs on under a higher one."""
    pinhole: float = 0.0005
    """Gaps between and inside layers up to this share of the picture go to the lowest layer beside them."""
    name: ClassVar[str] = "matte-layers"

    def process(self, sample: Sample) -> Sample:
        masks, seen = sample[MASKS], sample.picture
        alphas = np.zeros(masks.shape, np.float32)
        colours = np.zeros((*masks.shape, 3), np.float32)
        behind = (seen / 255).astype(np.float32)
        peeled = np.zeros(masks.shape[1:], bool)
        for z in reversed(range(len(masks))):
            visible = self._tucked(masks[z] & ~peeled, peeled)
            with model_time():
                window, alpha, colour, shines = self._matte(seen, visible, peeled)
            alphas[z][window], colours[z][window] = alpha, colour
            soft = (alpha > 0) & (alpha < 1)
            behind[window][soft] = shines[soft]
            peeled |= cv2.dilate((alphas[z] > 0.02).astype(np.uint8), disc(1)).astype(bool)
            if z:
                seen = cv2.inpaint(sample.picture, peeled.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        close_pinholes(alphas, self.pinhole)
        sample[ALPHA], sample[COLOUR], sample[BEHIND] = alphas, colours, behind
        return sample

    def _tucked(self, visible: np.ndarray, peeled: np.ndarray) -> np.ndarray:
        """`visible` [h, w] grown into `peeled`: each peeled pixel near its edge goes where the nearest open pixel belongs."""
        if not peeled.any() or peeled.all():
            return visible
        distance, nearest = cast(Any, ndimage.distance_transform_edt(peeled, return_indices=True))
        return visible | (peeled & (distance <= self.tuck) & visible[tuple(nearest)])

    def _matte(
        self, seen: np.ndarray, mask: np.ndarray, peeled: np.ndarray
    ) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray, np.ndarray]:
        """The window round `mask`, and in it alpha [h, w], the colours [h, w, 3], and the colours behind."""
        slack = float(np.clip(self.slack * np.sqrt(mask.sum()), 2, 8))
        window = window_of(mask, int(3 * slack + self.band))
        image, mask, peeled = seen[window], mask[window], peeled[window]
        refined = refine(image, mask, slack)
        trimap = trimap_of(refined, self.band, self.band)
        prior = cv2.GaussianBlur(refined.astype(np.float64), (0, 0), 1)
        alpha = without_haze(closed_form_alpha(image / 255, trimap, prior, self.prior))
        depth = cv2.distanceTransform(peeled.astype(np.uint8), cv2.DIST_L2, 5)
        alpha *= np.clip(self.tuck + 1 - depth, 0, 1)  # an edge of one pixel where the layer above hides the rest
        colour, shines = edge_colours(image / 255, alpha)
        return window, alpha.astype(np.float32), colour.astype(np.float32), shines.astype(np.float32)


def refine(image: np.ndarray, mask: np.ndarray, slack: float, least: float = 0.8) -> np.ndarray:
    """`mask` [h, w] moved to the edges of `image` that lie within `slack` pixels, by GrabCut; as it was if they disagree.

    They disagree where the cut's overlap (intersection over union) with the mask is below `least`.
    """
    trimap = trimap_of(mask, slack, slack)
    cut = clean(GrabCut(3).refine(image, trimap == 1, trimap > 0, mask), 0.01)
    cut = ndimage.binary_opening(cut, iterations=1) | (cut & (trimap == 1)) | (cut & mask)
    return cut if (cut & mask).sum() >= least * (cut | mask).sum() else mask


def without_haze(alpha: np.ndarray, low: float = 0.06, high: float = 0.96) -> np.ndarray:
    """Alpha [h, w] stretched so that `low` becomes 0 and `high` 1, without islands of low alpha that touch nothing solid."""
    alpha = np.clip((alpha - low) / (high - low), 0, 1)
    labels, _ = pieces(alpha > 0)
    solid = np.unique(labels[alpha > 0.9])
    return np.where(np.isin(labels, solid[solid > 0]), alpha, 0)


def close_pinholes(alphas: np.ndarray, most: float) -> None:
    """Make alpha [k, h, w] 1, in place, in uncovered pieces up to `most` of the picture, on the lowest layer beside them.

    Only where what lies beside is half opaque or more on average.
    """
    open_pixels = ~np.any(alphas > 0, axis=0)
    labels, count = pieces(open_pixels)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    for number in np.flatnonzero(sizes[1:] <= most * open_pixels.size) + 1:
        gap = labels == number
        beside = cv2.dilate(gap.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~gap
        if alphas[:, beside].max(axis=0).mean() >= 0.5:  # else a dot in a layer's faint edge
            alphas[np.flatnonzero((alphas[:, beside] > 0).any(axis=1))[0]][gap] = 1


def window_of(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The box of `mask` [h, w] grown by `margin` pixels inside the picture."""
    height, width = mask.shape
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return slice(max(0, y - margin), min(height, y + h + margin)), slice(max(0, x - margin), min(width, x + w + margin))
