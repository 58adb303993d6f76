"""Whether key points were found."""

import numpy as np

NEAR = 0.1
"""Share of the figure's size within which a key point counts as found."""


def points_found(found: np.ndarray, true: np.ndarray, visible: np.ndarray, threshold: float = NEAR) -> np.ndarray:
    """Which key points lie within `threshold` times the figure's size of the true ones; the size is the longer side of the box
    round the true visible points.

    Source:
        Yang and Ramanan 2013, "Articulated human detection with flexible mixtures of parts", section 6.2 (PCK).

    Args:
        found, true: [n, p, 2], in one unit.
        visible: bool [n, p]: which true points there are.

    Returns:
        bool [n, p], False where a point is not visible.
    """
    there = np.asarray(visible, bool)
    highest = np.where(there[:, :, None], true, -np.inf).max(1)
    lowest = np.where(there[:, :, None], true, np.inf).min(1)
    size = np.maximum(highest - lowest, 0).max(1)  # 0 where no point is visible
    return there & (np.linalg.norm(found - true, axis=-1) <= threshold * size[:, None])
