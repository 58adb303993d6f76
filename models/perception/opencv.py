"""Experts that need no weights, from OpenCV: GrabCut, Telea and Navier-Stokes inpainting, Canny."""

from collections.abc import Sequence

import cv2
import numpy as np

from lt.models.perception.registry import BackendError, Box


class GrabCut:
    """Segmenter: GrabCut (Rother et al. 2004) from a box, or within the band that a trimap leaves open.

    Args:
        rounds: iterations of colour models and cut.
    """

    def __init__(self, rounds: int | str = 5):
        self.rounds = int(rounds)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]]) -> list[list[np.ndarray]]:
        """Masks [h, w] of what stands in the boxes. A box without anything unlike its surroundings gives an empty mask."""
        return [[self._from_box(image, box) for box in its] for image, its in zip(images, boxes, strict=True)]

    def refine(self, image: np.ndarray, sure: np.ndarray, maybe: np.ndarray, guess: np.ndarray) -> np.ndarray:
        """The mask [h, w]: all of `sure`, nothing outside `maybe`, and in between what the colours say, from `guess` on."""
        labels = np.where(guess, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[sure] = cv2.GC_FGD
        labels[~maybe] = cv2.GC_BGD
        return self._cut(image, labels) if sure.any() and not maybe.all() else guess

    def _from_box(self, image: np.ndarray, box: Box) -> np.ndarray:
        height, width = image.shape[:2]
        x0, y0 = max(0, round(box[0])), max(0, round(box[1]))
        x1, y1 = min(width, round(box[0] + box[2])), min(height, round(box[1] + box[3]))
        labels = np.full((height, width), cv2.GC_BGD, np.uint8)
        labels[y0:y1, x0:x1] = cv2.GC_PR_FGD
        if x1 - x0 < 3 or y1 - y0 < 3 or (labels != cv2.GC_BGD).all():
            return np.zeros((height, width), bool)
        return self._cut(image, labels)

    def _cut(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        cv2.setRNGSeed(0)  # the colour models start from k-means
        models = np.zeros((1, 65)), np.zeros((1, 65))
        bgr = np.ascontiguousarray(image[:, :, ::-1])
        labels, *_ = cv2.grabCut(bgr, labels, (0, 0, 0, 0), *models, self.rounds, cv2.GC_INIT_WITH_MASK)
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


class OpenCVInpainter:
    """Inpainter: `telea` (Telea 2004, fast marching) or `ns` (Bertalmio et al. 2001, Navier-Stokes). Smooth, without texture.

    Args:
        method: `telea` or `ns`.
    """

    radius = 5
    """Pixels around each point that it looks at."""

    def __init__(self, method: str = "telea"):
        flags = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}
        if method not in flags:
            raise BackendError(f"Unknown OpenCV inpainting {method!r}; known: telea, ns.")
        self.flag = flags[method]

    def inpaint(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [
            np.where(mask[:, :, None], cv2.inpaint(image, mask.astype(np.uint8), self.radius, self.flag), image)
            for image, mask in zip(images, masks, strict=True)
        ]


class Canny:
    """EdgeDetector: Canny with hysteresis thresholds (L1 norm of the 3x3 Sobel responses) on the 8-bit grey picture."""

    low, high = 100, 200

    def edges(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [cv2.Canny(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.low, self.high) for image in images]
