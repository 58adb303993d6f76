"""Pictures between shards (uint8, [h, w, 3]) and models (float32, [b, 3, h, w] in -1..1), and sheets of them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lt.datagen.shards import SampleError

Size = tuple[int, int]
"""(width, height) in pixels."""
GAP = 2
"""White pixels between the pictures of a sheet."""


def fitted(
    pixels: np.ndarray | Image.Image, width: int, height: int, how: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """Scale (keeping the aspect) until `width` x `height` is covered, then cut out the middle.

    Args:
        pixels: uint8 RGB [h, w, 3] or grey [h, w], or an image.

    Returns:
        uint8 [height, width, 3] or [height, width].
    """
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if image.size == (width, height):
        return np.asarray(pixels)
    wide, high, left, top = covering(image.size, (width, height))
    resized = image.resize((wide, high), how)
    cut = (left, top, left + width, top + height)
    return np.asarray(resized if resized.size == (width, height) else resized.crop(cut))


def covering(size: Size, wanted: Size) -> tuple[int, int, int, int]:
    """How a picture of `size` (width, height) covers the `wanted` one, its aspect kept.

    Returns:
        (width, height) that it is scaled to, and (left, top) of the middle that is cut out.
    """
    scale = max(wanted[0] / size[0], wanted[1] / size[1])
    wide, high = max(wanted[0], round(size[0] * scale)), max(wanted[1], round(size[1] * scale))
    return wide, high, (wide - wanted[0]) // 2, (high - wanted[1]) // 2


def channels_first(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB [h, w, 3] or grey [h, w] to uint8 [3, h, w], contiguous."""
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_signed(image: Tensor) -> Tensor:
    """uint8 [b, 3, h, w] to float32 in -1..1."""
    return image.float() / 127.5 - 1


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Float [b, 3, h, w] in -1..1 (what lies beyond is clipped) to uint8 [b, h, w, 3]."""
    scaled = (pixels.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def to_picture(pixels: Tensor) -> np.ndarray:
    """What a model made, float [3, h, w] in about -1..1, to uint8 [h, w, 3].

    Raises:
        SampleError: `not-finite`, which would become a black picture.
    """
    if missing := int((~pixels.isfinite()).sum()):
        raise SampleError("not-finite", f"{missing:,} of {pixels.numel():,} numbers are no numbers", missing)
    return to_bytes(pixels[None])[0]


def sheet(rows: Sequence[Sequence[np.ndarray]], gap: int = GAP) -> np.ndarray:
    """Rows of pictures, uint8 RGB [h, w, 3] of any sizes, on white: each column as wide as its widest, each row as high as its
    highest picture.

    Raises:
        ValueError: no pictures.
    """
    if not any(len(row) for row in rows):
        raise ValueError("a sheet needs pictures")
    columns = max(len(row) for row in rows)
    widths = [max(row[c].shape[1] for row in rows if c < len(row)) for c in range(columns)]
    heights = [max((picture.shape[0] for picture in row), default=0) for row in rows]
    total = (sum(heights) + gap * (len(heights) + 1), sum(widths) + gap * (columns + 1), 3)
    drawn, top = np.full(total, 255, np.uint8), gap
    for row, height in zip(rows, heights, strict=True):
        left = gap
        for picture, width in zip(row, widths, strict=False):
            drawn[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            left += width + gap
        top += height + gap
    return drawn
