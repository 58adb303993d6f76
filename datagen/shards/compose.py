"""The layer invariant, in one place: what "background, then layers" means to the bit.

Layers lie over the background in ascending z, composited with straight alpha "over" in sRGB bytes. For a layer's byte `s` with
alpha `a` over the byte `d` that lies below:

    out = (s * a + d * (255 - a) + 127) // 255

which is the nearest integer to the real value (no ties: 255 is odd). Alpha 0 leaves what is below unchanged, whatever
colour the transparent pixel carries; alpha 255 replaces it. No gamma: this is what browsers, GIMP and Krita do by default, and
what the design calls "over in sRGB bytes".

Letters: h, w = height, width in pixels; all pictures are uint8 sRGB.
"""

import math
from collections.abc import Iterable

import numpy as np

EXACT = {"rms": 0.0, "psnr_db": 99.0}
"""`json.recomposition` of a picture that is its layers to the bit (decibels are cut at 99)."""


def over(below: np.ndarray, layer: np.ndarray) -> None:
    """Lay `layer` [h, w, 4] (straight alpha) over `below` [h, w, 3], in place."""
    alpha = layer[:, :, 3:].astype(np.uint16)
    blended = layer[:, :, :3] * alpha
    blended += below * (255 - alpha)  # at most 255 * 255: uint16 holds the sum and its rounding
    blended += 127
    blended //= 255
    below[:] = blended


def alpha_box(alpha: np.ndarray) -> tuple[int, int, int, int] | None:
    """The smallest box (x, y, width, height) round the non-zero pixels of `alpha` [h, w]; None where there are none."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(rows):
        return None
    x, y = int(columns[0]), int(rows[0])
    return x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y


def composite(background: np.ndarray, layers: Iterable[np.ndarray]) -> np.ndarray:
    """The picture [h, w, 3] that `background` [h, w, 3] and `layers` (each [h, w, 4], lowest first) give.

    Raises:
        ValueError: a shape or dtype does not fit.
    """
    _check("background", background, background.shape[:2], 3)
    picture = background.copy()
    for number, layer in enumerate(layers):
        _check(f"layer {number}", layer, background.shape[:2], 4)
        if box := alpha_box(layer[:, :, 3]):
            x, y, width, height = box
            window = slice(y, y + height), slice(x, x + width)
            over(picture[window], layer[window])
    return picture


def recomposition_error(picture: np.ndarray, background: np.ndarray, layers: Iterable[np.ndarray]) -> float:
    """How far the layers are from giving `picture` [h, w, 3]: RMS over all bytes, / 255. 0 is exact, 1 the largest possible.

    Raises:
        ValueError: a shape or dtype does not fit.
    """
    _check("picture", picture, background.shape[:2], 3)
    difference = picture.astype(np.int32) - composite(background, layers)
    return math.sqrt(float(np.mean(difference * difference))) / 255


def psnr(error: float) -> float:
    """Decibels of an RMS error given in 0..1; infinite for an exact match."""
    return math.inf if error == 0 else -20 * math.log10(error)


def _check(what: str, pixels: np.ndarray, size: tuple[int, ...], channels: int) -> None:
    want = (*size, channels)
    if pixels.dtype != np.uint8 or pixels.shape != want:
        raise ValueError(f"{what}: want uint8 {list(want)}, got {pixels.dtype} {list(pixels.shape)}")
