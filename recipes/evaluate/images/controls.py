"""Fidelity to control pictures: edges found again in the drawn picture, key points found again by the world's judge."""

from collections.abc import Sequence

import numpy as np

from lt.models.perception.registry import load
from lt.recipes.evaluate.bootstrap import Interval, resampled

TOLERANCE = 1.0
"""Pixels between edges that count as the same, at the size of the drawn pictures."""


def edge_scores(drawn: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Precision (share of the drawn edges that lie within `tolerance` pixels of a wanted one) and recall (the other way round).

    Pixels are matched many to one, which is the simple form of the boundary measure of Martin, Fowlkes and Malik 2004.

    Args:
        drawn, wanted: [h, w], an edge where not 0.

    Returns:
        0..1 each; nan where there are no edges to ask about.
    """
    drawn, wanted = drawn > 0, wanted > 0
    return _near(drawn, wanted, tolerance), _near(wanted, drawn, tolerance)


def _near(asked: np.ndarray, edges: np.ndarray, tolerance: float) -> float:
    import cv2

    if not asked.any():
        return float("nan")
    if not edges.any():
        return 0.0
    distance = cv2.distanceTransform(np.where(edges, 0, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[asked] <= tolerance + 1e-3).mean())


def edge_fidelity(
    pictures: Sequence[np.ndarray], wanted: Sequence[np.ndarray], tolerance: float = TOLERANCE
) -> dict[str, Interval]:
    """`edge_precision`, `edge_recall` and `edge_f` in percent, means over pictures with bootstrap intervals.

    A picture's F is the harmonic mean of its precision and recall. Where a control picture has no edges recall is not asked,
    where a drawn one has none precision is not; F is then 0, but not asked where neither has any.

    Args:
        pictures: uint8 RGB [h, w, 3]; their edges are found by OpenCV's Canny with the world's thresholds.
        wanted: control pictures, uint8 [h, w] each, or RGB.
    """
    found = load("edges", "opencv").edges(list(pictures))
    grey = [picture if picture.ndim == 2 else picture.max(-1) for picture in wanted]
    scores = np.array([edge_scores(one, other, tolerance) for one, other in zip(found, grey, strict=True)])
    both = np.isnan(scores).all(1)
    precision, recall = np.nan_to_num(scores).T
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    top = np.stack([precision, recall, f], 1)
    asked = np.stack([~np.isnan(scores[:, 0]), ~np.isnan(scores[:, 1]), ~both], 1)
    return dict(zip(("edge_precision", "edge_recall", "edge_f"), resampled(100 * top, asked), strict=True))
