"""Masks that the source itself knows: COCO polygons and both kinds of run lengths.

Format: COCO's `segmentation` is a list of polygons [[x, y, x, y, ...], ...] in pixels, or a dict {"counts", "size": [h, w]} whose
counts are a list of run lengths in column order (uncompressed) or a string (compressed). pycocotools draws them.
"""

from typing import Any

import numpy as np

_FAR = 8
"""Sides of the picture that a polygon may reach beyond it."""


def mask_of(segmentation: Any, height: int, width: int) -> np.ndarray | None:
    """The bool mask [height, width] of a COCO `segmentation`; None where the source gives none.

    Raises:
        ValueError: the segmentation is malformed or is for a picture of another size.
    """
    from pycocotools import mask as coco

    if not segmentation:
        return None
    if isinstance(segmentation, list):
        polygons = [_polygon(points, _FAR * max(height, width)) for points in segmentation]
        runs: Any = coco.frPyObjects(polygons, height, width)  # pyright: ignore
        return coco.decode(coco.merge(runs)).astype(bool)
    if not isinstance(segmentation, dict) or not {"counts", "size"} <= segmentation.keys():
        raise ValueError(f"want polygons or {{counts, size}}, got {str(segmentation)[:60]}")
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"run lengths are for {segmentation['size']} [h, w], the picture is {[height, width]}")
    return coco.decode(_run_lengths(segmentation, height, width)).astype(bool)


def _polygon(points: Any, far: float) -> list[float]:
    """A polygon with at least three finite points (pycocotools takes four numbers for a box and crashes on fewer).

    None may be `far` away: pycocotools walks along every edge, and ends the process where its whole numbers overflow.
    """
    values = np.asarray(points, dtype=np.float64)
    if values.ndim != 1 or len(values) < 6 or len(values) % 2 or not np.isfinite(values).all():
        raise ValueError(f"want a polygon [x, y, x, y, x, y, ...], got {str(points)[:60]}")
    if np.abs(values).max() > far:
        raise ValueError(f"a polygon reaches to {values[np.abs(values).argmax()]:g}, far outside the picture")
    return values.tolist()


def _run_lengths(rle: dict[str, Any], height: int, width: int) -> Any:
    from pycocotools import mask as coco

    counts = rle["counts"]
    if isinstance(counts, list):
        if any(not isinstance(n, int) or n < 0 for n in counts) or sum(counts) != height * width:
            raise ValueError(f"run lengths must sum to {height * width} pixels")
        return coco.frPyObjects({"counts": counts, "size": [height, width]}, height, width)  # pyright: ignore
    packed = {"counts": counts.encode("ascii") if isinstance(counts, str) else counts, "size": [height, width]}
    if sum(unpack(packed["counts"])) != height * width:  # pycocotools writes past its buffer on a longer one
        raise ValueError(f"run lengths must sum to {height * width} pixels")
    return packed


def unpack(counts: bytes) -> list[int]:
    """The run lengths in COCO's compressed string (5 bits a character, every count after the third as a difference).

    Source: `rleFrString` in cocoapi/common/maskApi.c. Raises ValueError on characters or lengths that cannot be.
    """
    lengths: list[int] = []
    position = 0
    while position < len(counts):
        value = shift = 0
        while True:
            if position >= len(counts) or not 48 <= counts[position] < 112 or shift > 30:
                raise ValueError("a broken compressed run-length string")
            character = counts[position] - 48
            value |= (character & 31) << shift
            position, shift = position + 1, shift + 5
            if not character & 32:
                break
        if character & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    if any(length < 0 for length in lengths):
        raise ValueError("a negative run length")
    return lengths
