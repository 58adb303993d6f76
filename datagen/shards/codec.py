"""Field values to bytes and back: pictures, text, json, arrays.

Letters: h, w = height, width in pixels; c = channels (3 = RGB, 4 = RGBA with straight alpha), uint8 sRGB.
"""

import io
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from lt.datagen.shards.errors import SampleError

MAX_PIXELS = 8192 * 8192
"""Pictures with more pixels are refused before they are decoded (decompression bombs)."""
MAX_ASPECT = 200
"""Pictures that are longer in relation are refused: scaled by their short side they would fill the memory."""
MAX_JSON_BYTES = 64 * 2**20

PICTURE_FIELDS = ("jpg", "jpeg", "png", "webp")
STORED_FORMATS = ("JPEG", "PNG", "WEBP")
FILE_FORMATS = (*STORED_FORMATS, "BMP", "TIFF")
"""What shards hold, and what is read from files of any origin."""
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
    if value is None:
        raise SampleError("empty-field", f"{field}: nothing is no text")
    return _utf8(str(value), field)


def decode(field: str, data: bytes) -> Any:
    """Decode the bytes of `field`: pictures to uint8 [h, w] or [h, w, c], text to str, json to its value, npy to arrays.

    Fields of an unknown kind come back as bytes. A byte order mark is no part of text or json; what foreign json holds beyond
    the standard is read as far as it makes sense: NaN and infinity as null, half a surrogate pair as U+FFFD.

    Raises:
        SampleError: the bytes are not what the field says.
    """
    kind = kind_of(field)
    if kind in _SAVED_AS:
        return decode_image(data, indexed=field == "parts.png", formats=STORED_FORMATS)
    if kind == "txt":
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SampleError("invalid-utf8", f"{field}: {error}") from None
    if kind == "json":
        return decode_json(field, data)
    if kind == "npy":
        return _decode_npy(field, data)
    return data


def encode_image(pixels: np.ndarray, kind: str) -> bytes:
    """uint8 [h, w], [h, w, 3] or, but for JPEG, [h, w, 4] to JPEG (quality 95, no chroma subsampling), PNG or lossless WebP.

    Raises:
        SampleError: `bad-picture-value`: another shape or type, or larger than the format allows.
    """
    pixels = np.asarray(pixels)
    channels = (3,) if _SAVED_AS[kind] is _JPEG else (3, 4)
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in channels)
    if pixels.dtype != np.uint8 or not fits or 0 in pixels.shape:
        wanted = " or ".join(f"[h, w, {count}]" for count in channels)
        got = f"{pixels.dtype} {list(pixels.shape)}"
        raise SampleError("bad-picture-value", f"want uint8 [h, w] or {wanted} for {kind}, got {got}")
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, **_SAVED_AS[kind])
    except (OSError, ValueError) as error:  # 65,535 pixels are a JPEG's longest side, 16,383 a WebP's
        raise SampleError(
            "bad-picture-value", f"{pixels.shape[1]}x{pixels.shape[0]} as {kind}: {short(error)}"
        ) from None
    return buffer.getvalue()


def picture_kind(data: bytes) -> str:
    """What the first bytes of a picture say it is: `jpg`, `png`, `webp` or ""."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def other_kind(field: str, data: bytes) -> str:
    """What the bytes of a picture are where they are not what their field says; "" where they are, or are none of these."""
    kind = picture_kind(data)
    return "" if kind == kind_of(field).replace("jpeg", "jpg") else kind


def open_image(data: bytes, formats: Sequence[str] = FILE_FORMATS) -> Image.Image:
    """Open the bytes of a picture lazily, after checking the stated size against `MAX_PIXELS` and `MAX_ASPECT`.

    Raises:
        SampleError: `empty-image`, `undecodable-image`, `image-too-large` or `image-too-thin`.
    """
    if not data:
        raise SampleError("empty-image", "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except Image.DecompressionBombError as error:
        raise SampleError("image-too-large", str(error)) from None
    except (
        Exception
    ) as error:  # on hostile bytes Pillow raises nearly anything: SyntaxError, struct.error, KeyError ...
        raise SampleError("undecodable-image", short(error)) from None
    size = f"{image.width}x{image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise SampleError("image-too-large", size, image.width * image.height)
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise SampleError("image-too-thin", size, max(image.size) / min(image.size))
    return image


def decode_image(
    data: bytes, indexed: bool = False, turn: bool = True, formats: Sequence[str] = FILE_FORMATS
) -> np.ndarray:
    """A picture to uint8 [h, w] (grey), [h, w, 3] or, where it is transparent anywhere, [h, w, 4], as viewers show it.

    It is turned upright as its EXIF block says; of 16 bits the upper eight count; CMYK and palettes become RGB, a transparent
    colour becomes alpha; of an animation it is the first picture. Truncated pictures are refused.

    Args:
        indexed: give a picture with a palette as its indices [h, w], instead of the colours they stand for.
        turn: False leaves the pixels as they are stored (but a TIFF's, which Pillow always turns).

    Raises:
        SampleError: as `open_image`, and `unsupported-depth` where nothing tells which value is white.
    """
    with _undecodable():
        image, rawmode = _loaded(data, turn, formats)
        return _eight_bits(image, rawmode, indexed)


def rgb_image(data: bytes, least: int = 0) -> Image.Image:
    """A picture in RGB as `to_rgb(decode_image(data))` has it; but where `least` is above 0, a JPEG at the smallest of its own
    scales (1, 1/2, 1/4, 1/8) whose sides have so many pixels, which is faster. Raises SampleError as `decode_image` does."""
    with _undecodable():
        image, rawmode = _loaded(data, True, STORED_FORMATS, least)
        if image.mode == "RGB" and not image.has_transparency_data:
            return image
        return Image.fromarray(to_rgb(_eight_bits(image, rawmode, False)))


@contextmanager
def _undecodable() -> Iterator[None]:
    try:
        yield
    except SampleError:
        raise
    except Exception as error:  # as in `open_image`
        raise SampleError("undecodable-image", short(error)) from None


def _loaded(data: bytes, turn: bool, formats: Sequence[str], least: int = 0) -> tuple[Image.Image, str]:
    """A decoded picture, and how a PNG stores its pixels, as Pillow puts it."""
    image = open_image(data, formats)
    tiles: list[Any] = getattr(image, "tile", [])
    rawmode = str(tiles[0][3]) if image.format == "PNG" and tiles else ""
    if least:
        image.draft(None, (least, least))  # what is no JPEG knows no scales, and ignores it
    image.load()
    if turn and (told := orientation(image)) != 1:
        key = image.info.get("transparency")
        image = image.transpose(_TURNS[told])
        image.info |= {} if key is None else {"transparency": key}
    return image, rawmode


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture upright, by its EXIF orientation."""


def orientation(image: Image.Image) -> int:
    """1 (upright) to 8 as EXIF counts; 1 where nothing is told, or the EXIF block is broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            told = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # as above
        return 1
    return told if told in _TURNS else 1


def _eight_bits(image: Image.Image, rawmode: str, indexed: bool) -> np.ndarray:
    """The pixels of a loaded picture. `rawmode`: how a PNG stores them, as Pillow puts it."""
    key = image.info.get("transparency")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # Pillow's conversion would clip
        values = np.asarray(image)
        grey = (values >> 8).astype(np.uint8)
        return grey if key is None else np.dstack([grey, grey, grey, np.where(values == key, 0, 255).astype(np.uint8)])
    if image.mode in ("I", "F"):
        raise SampleError("unsupported-depth", f"pixels of 32 bits ({image.mode}): which value is white is not told")
    if indexed and image.mode == "P":
        return np.asarray(image)
    if image.mode in ("L", "RGB") and key is not None:  # a PNG's, at the depth of the file
        scale = {"L;2": 85, "L;4": 17}.get(rawmode, 1)
        image.info["transparency"] = tuple(part >> 8 for part in key) if rawmode == "RGB;16B" else scale * key
    if image.has_transparency_data:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))


def to_rgb(pixels: np.ndarray, ground: int = 255) -> np.ndarray:
    """Grey [h, w] or RGBA [h, w, 4] (over a grey `ground`: 255 is white) to RGB [h, w, 3]; RGB passes unchanged."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint16)
        blended = (pixels[:, :, :3].astype(np.uint16) * alpha + ground * (255 - alpha) + 127) // 255
        return blended.astype(np.uint8)
    return pixels


def decode_json(field: str, data: bytes, strict: bool = False) -> Any:
    """The value of json. `strict` refuses what `decode` reads although the standard does not know it.

    Raises:
        SampleError: `json-too-large`, `invalid-utf8`, `invalid-json`, and `invalid-unicode` where it is strict.
    """
    if len(data) > MAX_JSON_BYTES:
        raise SampleError("json-too-large", f"{field}: {len(data)} bytes", len(data))

    def beyond(constant: str) -> None:
        if strict:
            raise SampleError("invalid-json", f"{field}: {constant} is no value of json")

    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=beyond)
        if not _HALF_ESCAPED.search(data) or (whole := _whole(value)) == value:
            return value
    except UnicodeDecodeError as error:
        raise SampleError("invalid-utf8", f"{field}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise SampleError("invalid-json", f"{field}: {short(error)}") from None
    if strict:
        raise SampleError("invalid-unicode", f"{field}: half a surrogate pair")
    return whole


_HALF_ESCAPED = re.compile(rb"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def whole_text(text: str) -> str:
    """`text` that can be written as UTF-8: U+FFFD, the replacement character, for halves of surrogate pairs."""
    return _HALF.sub("\ufffd", text)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, dict):
        return {whole_text(name): _whole(inner) for name, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value


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
