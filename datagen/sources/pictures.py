"""Pictures from files of any origin: turned upright, in a mode that shards hold, never larger than allowed.

The bytes of an upright RGB or grey JPEG, PNG or WebP are kept as they are; everything else becomes a lossless PNG.
"""

from collections import Counter
from pathlib import Path

from PIL import Image

from lt.datagen.shards import codec
from lt.datagen.shards.errors import SampleError
from lt.datagen.shards.sample import safe_key
from lt.datagen.shards.storage import digest_of

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".dng", ".cr2")
"""Of pictures that are not read."""
_KEPT_FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_KEPT_MODES = ("L", "RGB")
_SWAPPED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_MAX_FILE_BYTES = 512 * 2**20


def unique_keys(names: list[str], paths: list[str]) -> list[str]:
    """A key for each picture, from its name; where two would share one, all of these close with a digest of the path."""
    keys = [safe_key(name) for name in names]
    uses = Counter(keys)
    return [
        key if uses[key] == 1 else f"{key[:70]}-{digest_of(path)[:12]}" for key, path in zip(keys, paths, strict=True)
    ]


def load_picture(path: Path, stated_size: tuple[int, int] | None = None) -> tuple[str, bytes, tuple[int, int]]:
    """Read a picture file: (field, bytes, (width, height) in pixels), upright.

    Args:
        stated_size: (width, height) that annotations were drawn on. It decides whether the EXIF turn applies: some tools
            annotate the stored pixels, some the turned picture. Where both sizes fit, EXIF is obeyed, as viewers do.

    Raises:
        SampleError: `missing-file`, `empty-image`, `undecodable-image`, `image-too-large`, `image-too-thin`,
            `unsupported-depth`, `size-mismatch`.
    """
    data = _read(path)
    image = codec.open_image(data)
    told = codec.orientation(image)
    turned = _should_turn(image, told, stated_size)
    width, height = image.size
    size = (height, width) if turned and told in _SWAPPED else (width, height)
    if stated_size is not None and size != stated_size:
        raise SampleError(
            "size-mismatch", f"the file is {size[0]}x{size[1]}, annotations say {stated_size[0]}x{stated_size[1]}"
        )
    field = _KEPT_FORMATS.get(str(image.format))
    is_kept = field and image.mode in _KEPT_MODES and told == 1 and not image.has_transparency_data
    pixels = codec.decode_image(data, turn=turned)  # a truncated file must be found here, not by whoever trains on it
    return (field, data, size) if field and is_kept else ("png", codec.encode_image(codec.to_rgb(pixels), "png"), size)


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise SampleError("image-too-large", f"{path.name} has {path.stat().st_size} bytes", path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise SampleError("missing-file", path.name) from None
    except OSError as error:
        raise SampleError("unreadable-file", f"{path.name}: {error.strerror}") from None


def _should_turn(image: Image.Image, told: int, stated_size: tuple[int, int] | None) -> bool:
    if told == 1:
        return False
    turned_size = image.size[::-1] if told in _SWAPPED else image.size
    return stated_size is None or turned_size == stated_size or image.size != stated_size
