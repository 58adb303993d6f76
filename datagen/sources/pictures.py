"""Pictures from files of any origin: turned upright, in a mode that shards hold, never larger than allowed.

The bytes of an upright RGB or grey JPEG, PNG or WebP are kept as they are; everything else becomes a lossless PNG.
"""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from lt.datagen.shards.codec import decode_image, encode_image, open_image, short
from lt.datagen.shards.errors import SampleError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_OPENED_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_KEPT_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_KEPT_MODES = ("L", "RGB")
_MAX_FILE_BYTES = 512 * 2**20


def load_picture(path: Path, stated_size: tuple[int, int] | None = None) -> tuple[str, bytes, tuple[int, int]]:
    """Read a picture file: (field, bytes, (width, height) in pixels), upright.

    Args:
        stated_size: (width, height) that annotations were drawn on. It decides whether the EXIF turn applies: some tools
            annotate the stored pixels, some the turned picture. Where both sizes fit, EXIF is obeyed, as viewers do.

    Raises:
        SampleError: `missing-file`, `empty-image`, `undecodable-image`, `image-too-large`, `size-mismatch`.
    """
    data = _read(path)
    image = open_image(data, _OPENED_FORMATS)
    turned = _should_turn(image, stated_size)
    width, height = image.size
    size = (height, width) if turned and _swaps_sides(image) else (width, height)
    if stated_size is not None and size != stated_size:
        raise SampleError(
            "size-mismatch", f"the file is {size[0]}x{size[1]}, annotations say {stated_size[0]}x{stated_size[1]}"
        )
    if image.format in _KEPT_FORMATS and image.mode in _KEPT_MODES and not turned:
        decode_image(data)  # a truncated file must be found here, not by whoever trains on it
        return _KEPT_FORMATS[image.format], data, size
    return "png", encode_image(_to_rgb(image, turned), "png"), size


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SampleError("image-too-large", f"{path.name} has {path.stat().st_size} bytes", path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise SampleError("missing-file", path.name) from None
    except OSError as error:
        raise SampleError("unreadable-file", f"{path.name}: {error.strerror}") from None


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError):  # a broken EXIF block says nothing
        return 1


def _swaps_sides(image: Image.Image) -> bool:
    return _orientation(image) in (5, 6, 7, 8)


def _should_turn(image: Image.Image, stated_size: tuple[int, int] | None) -> bool:
    if _orientation(image) not in range(2, 9):
        return False
    turned_size = image.size[::-1] if _swaps_sides(image) else image.size
    return stated_size is None or turned_size == stated_size or image.size != stated_size


def _to_rgb(image: Image.Image, turned: bool) -> np.ndarray:
    try:
        upright = ImageOps.exif_transpose(image) if turned else image
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            paper = Image.new("RGBA", upright.size, (255, 255, 255, 255))
            upright = Image.alpha_composite(paper, upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise SampleError("undecodable-image", short(error)) from None
