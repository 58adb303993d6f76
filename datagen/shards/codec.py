"""Field values to bytes and back: pictures, text, json, arrays.

Letters: h, w = height, width in pixels; c = channels (3 = RGB, 4 = RGBA with straight alpha), uint8 sRGB.
"""

import io
import json
import math
import re
import warnings
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.shards.errors import SampleError

MAX_PIXELS = 8192 * 8192
"""Pictures with more pixels are refused before they are decoded (decompression bombs)."""
MAX_JSON_BYTES = 64 * 2**20

PICTURE_FIELDS = ("jpg", "png", "webp")
_JPEG = {"format": "JPEG", "quality": 95, "subsampling": 0}
_PNG = {"format": "PNG", "compress_level": 4}
_WEBP = {"format": "WEBP", "lossless": True, "exact": True}
_SAVED_AS: dict[str, dict[str, Any]] = {"jpg": _JPEG, "jpeg": _JPEG, "png": _PNG, "webp": _WEBP}


def kind_of(field: str) -> str:
    """The last suffix of a field name: `layer-00.png` is a `png`."""
    return field.rsplit(".", 1)[-1].lower()


def is_image(field: str) -> bool:
    return kind_of(field) in _SAVED_AS


def encode(field: str, value: Any) -> bytes:
    """Encode `value` as the bytes of `field`. Bytes pass unchanged.

    The same value gives the same bytes on every run. `parts.png` is written as given (8-bit indices, [h, w]).

    Raises:
        SampleError: the value does not fit the field (a lone surrogate in text, a float picture ...).
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    kind = kind_of(field)
    if kind in _SAVED_AS:
        return encode_image(value, kind)
    if kind == "json":
        return _encode_json(field, value)
    if kind == "npy":
        buffer = io.BytesIO()
        try:
            np.save(buffer, np.asarray(value), allow_pickle=False)
        except ValueError as error:  # an array of objects
            raise SampleError("invalid-npy", f"{field}: {short(error)}") from None
        return buffer.getvalue()
    return _utf8(str(value), field)


def decode(field: str, data: bytes) -> Any:
    """Decode the bytes of `field`: pictures to uint8 [h, w] or [h, w, c], text to str, json to its value, npy to arrays.

    Fields of an unknown kind come back as bytes.

    Raises:
        SampleError: the bytes are not what the field says.
    """
    kind = kind_of(field)
    if kind in _SAVED_AS:
        return decode_image(data, indexed=field == "parts.png")
    if kind == "txt":
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise SampleError("invalid-utf8", f"{field}: {error}") from None
    if kind == "json":
        return _decode_json(field, data)
    if kind == "npy":
        return _decode_npy(field, data)
    return data


def encode_image(pixels: np.ndarray, kind: str) -> bytes:
    """uint8 [h, w], [h, w, 3] or [h, w, 4] to JPEG (quality 95, no chroma subsampling), PNG or lossless WebP."""
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise SampleError("bad-picture-value", f"want uint8 [h, w] or [h, w, c], got {pixels.dtype} {pixels.shape}")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **_SAVED_AS[kind])
    return buffer.getvalue()


def picture_kind(data: bytes) -> str:
    """What the first bytes of a picture say it is: `jpg`, `png`, `webp` or ""."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def open_image(data: bytes, formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP")) -> Image.Image:
    """Open JPEG, PNG or WebP bytes (or Pillow's other `formats`) lazily, after checking the stated size against `MAX_PIXELS`.

    Raises:
        SampleError: `empty-image`, `undecodable-image` or `image-too-large`.
    """
    if not data:
        raise SampleError("empty-image", "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise SampleError("image-too-large", str(error)) from None
    except (
        Exception
    ) as error:  # on hostile bytes Pillow raises nearly anything: SyntaxError, struct.error, KeyError ...
        raise SampleError("undecodable-image", short(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise SampleError("image-too-large", f"{image.width}x{image.height} pixels", image.width * image.height)
    return image


def decode_image(data: bytes, indexed: bool = False) -> np.ndarray:
    """JPEG, PNG or WebP bytes to uint8 [h, w] (grey) or [h, w, 3 | 4]. Truncated pictures are refused.

    Args:
        indexed: give a picture with a palette as its indices [h, w], instead of the colours they stand for.
    """
    image = open_image(data)
    keep = ("L", "P", "RGB", "RGBA") if indexed else ("L", "RGB", "RGBA")
    try:
        if image.mode.startswith("I;16"):  # 16-bit grey: Pillow's own conversion would clip to white
            return (np.asarray(image) >> 8).astype(np.uint8)
        if image.mode not in keep:
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        return np.asarray(image)
    except Exception as error:  # as above
        raise SampleError("undecodable-image", short(error)) from None


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Grey [h, w] or RGBA [h, w, 4] (over white) to RGB [h, w, 3]; RGB passes unchanged."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        blended = (pixels[:, :, :3].astype(np.uint16) * alpha + 255 * (255 - alpha) + 127) // 255
        return blended.astype(np.uint8)
    return pixels


def _decode_json(field: str, data: bytes) -> Any:
    if len(data) > MAX_JSON_BYTES:
        raise SampleError("json-too-large", f"{field}: {len(data)} bytes", len(data))
    try:
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SampleError("invalid-utf8", f"{field}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError("invalid-json", f"{field}: {short(error)}") from None


def _decode_npy(field: str, data: bytes) -> np.ndarray:
    if not data.startswith(b"\x93NUMPY"):  # numpy would also open zip archives and pickles
        raise SampleError("invalid-npy", f"{field}: not in the npy format")
    try:
        size = _npy_header_size(data)
        shape, fortran, dtype = _npy_header(data[:size])
        if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > len(data) - size:
            raise ValueError(f"an array of {shape} {dtype} in {len(data)} bytes")
        values = np.frombuffer(data, dtype, math.prod(shape), size)
        return values.reshape(shape, order="F" if fortran else "C").copy(order="K")
    except Exception as error:  # a damaged header can raise tokenize and syntax errors, too
        raise SampleError("invalid-npy", f"{field}: {short(error)}") from None


def _npy_header_size(data: bytes) -> int:
    """Bytes before the values: magic, version, length (2 bytes in version 1, then 4), text."""
    wide = data[6] > 1
    return (12 if wide else 10) + int.from_bytes(data[8 : 12 if wide else 10], "little")


@lru_cache(maxsize=64)
def _npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, order and type. Remembered, because numpy parses Python source here, and a field's header is mostly the same."""
    file = io.BytesIO(head)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"npy version {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(file)


def _encode_json(field: str, value: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:  # NaN, infinity, a value json does not know, a circle
        raise SampleError("invalid-json", f"{field}: {short(error)}") from None
    return _utf8(text, field)


def _utf8(text: str, field: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError("invalid-unicode", f"{field}: {error.reason}") from None


def short(error: Exception) -> str:
    """An error's text on one line, without the memory addresses that would differ from run to run."""
    return re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "the data", str(error)).replace("\n", " ")[:200]
