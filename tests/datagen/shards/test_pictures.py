"""One decoder for all pictures: depth, alpha, transparent colours, CMYK, EXIF, animations, thin and huge ones."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import Sample, SampleError, codec
from lt.datagen.shards.codec import decode_image, encode_image, to_rgb
from lt.datagen.sources.pictures import load_picture

GREYS = np.arange(0, 256, dtype=np.uint8).reshape(16, 16)
COLOURS = np.random.default_rng(5).integers(0, 256, (6, 9, 3), np.uint8)


def stored(pixels: np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def raw_png(width: int, height: int, depth: int, kind: int, rows: list[bytes], key: bytes) -> bytes:
    """A PNG of any depth with a transparent colour, as Pillow writes none."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", head), chunk(b"tRNS", key), chunk(b"IDAT", body), chunk(b"IEND", b"")]
    )


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_of_sixteen_bits_the_upper_eight_count(format, tmp_path):
    data = stored(GREYS.astype(np.uint16) * 257, format)
    np.testing.assert_array_equal(decode_image(data), GREYS)
    (tmp_path / f"a.{format.lower()}").write_bytes(data)
    field, kept, size = load_picture(tmp_path / f"a.{format.lower()}")
    assert (field, size) == ("png", (16, 16))
    np.testing.assert_array_equal(decode_image(kept), np.repeat(GREYS[:, :, None], 3, 2))


def test_big_endian_tiff_and_sixteen_bit_colours():
    np.testing.assert_array_equal(decode_image(stored((GREYS.astype(np.uint16) * 257).astype(">u2"), "TIFF")), GREYS)
    data = raw_png(
        2, 1, 16, 2, [struct.pack(">6H", 1000, 2000, 3000, 40000, 1, 65535)], struct.pack(">3H", 1000, 2000, 3000)
    )
    assert decode_image(data).tolist() == [[[3, 7, 11, 0], [156, 0, 255, 255]]]


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_depths_whose_white_nothing_tells_are_refused(kind):
    with pytest.raises(SampleError, match="unsupported-depth: pixels of 32 bits"):
        decode_image(stored(GREYS.astype(kind), "TIFF"))


@pytest.mark.parametrize(
    ("depth", "row", "key", "grey"),
    [
        (1, bytes([0b01000000]), 1, [0, 255]),
        (2, bytes([0b01100000]), 2, [85, 170]),
        (4, bytes([0x3A]), 10, [51, 170]),
        (8, bytes([7, 9]), 9, [7, 9]),
        (16, struct.pack(">2H", 1000, 40000), 40000, [3, 156]),
    ],
)
def test_a_transparent_grey_becomes_alpha_at_every_depth(depth, row, key, grey):
    pixels = decode_image(raw_png(2, 1, depth, 0, [row], struct.pack(">H", key)))
    assert pixels.tolist() == [[[grey[0]] * 3 + [255], [grey[1]] * 3 + [0]]]


def test_a_transparent_colour_becomes_alpha_over_the_ground_that_is_asked_for():
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = (1, 2, 3)
    found = decode_image(stored(pixels, "PNG", transparency=(1, 2, 3)))
    assert found[:, :, 3].tolist() == [[0, 0], [255, 255]]
    assert to_rgb(found).tolist() == [[[255] * 3] * 2, [[0] * 3] * 2]
    assert not to_rgb(found, ground=0).any()
    assert (
        Sample("a", {"png": stored(pixels, "PNG", transparency=(1, 2, 3))}).picture.tolist() == to_rgb(found).tolist()
    )


def test_half_alpha_is_rounded_to_the_nearest_over_any_ground():
    pixels = np.array([[[200, 100, 0, 128]]], np.uint8)
    assert to_rgb(pixels).tolist() == [[[227, 177, 127]]]
    assert to_rgb(pixels, ground=0).tolist() == [[[100, 50, 0]]]


def test_a_file_with_a_transparent_colour_is_not_kept_as_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(stored(np.zeros((2, 2, 3), np.uint8), "PNG", transparency=(0, 0, 0)))
    _, kept, _ = load_picture(tmp_path / "a.png")
    assert (decode_image(kept) == 255).all()


TURNED = {
    1: COLOURS,
    2: COLOURS[:, ::-1],
    3: COLOURS[::-1, ::-1],
    4: COLOURS[::-1],
    5: COLOURS.transpose(1, 0, 2),
    6: np.rot90(COLOURS, -1),
    7: COLOURS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(COLOURS),
}
"""What a viewer shows of `COLOURS` stored with this orientation (EXIF 2.32, section 4.6.4)."""


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_pictures_are_turned_upright(orientation, format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = stored(COLOURS, format, exif=exif(orientation), **options)
    np.testing.assert_array_equal(decode_image(data), TURNED[orientation])
    if format != "TIFF":
        np.testing.assert_array_equal(decode_image(data, turn=False), COLOURS)
        np.testing.assert_array_equal(Sample("a", {format.lower(): data}).picture, TURNED[orientation])


def test_sixteen_bits_and_transparent_colours_are_turned_too():
    data = stored(GREYS[:4].astype(np.uint16) * 257, "PNG", exif=exif(6))
    np.testing.assert_array_equal(decode_image(data), np.rot90(GREYS[:4], -1))
    pixels = np.zeros((2, 3, 3), np.uint8)
    pixels[0] = 9
    found = decode_image(stored(pixels, "PNG", exif=exif(6), transparency=(9, 9, 9)))
    np.testing.assert_array_equal(found[:, :, 3], np.rot90(np.where(pixels[:, :, 0] == 9, 0, 255), -1))


def test_pixels_that_annotations_were_drawn_on_stay_as_they_are_stored(tmp_path):
    """Whoever reads the sample must not turn it again: the tag goes."""
    (tmp_path / "a.jpg").write_bytes(stored(COLOURS, "JPEG", quality=95, exif=exif(6)))
    field, kept, size = load_picture(tmp_path / "a.jpg", stated_size=(9, 6))
    assert (field, size) == ("png", (9, 6))
    np.testing.assert_array_equal(decode_image(kept), np.asarray(Image.open(tmp_path / "a.jpg")))


def test_a_broken_exif_block_says_nothing():
    data = stored(COLOURS, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(20))
    assert decode_image(data).shape == COLOURS.shape


def test_cmyk_and_palettes_become_rgb():
    red = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    for format in ("JPEG", "TIFF"):
        buffer = io.BytesIO()
        red.save(buffer, format)
        assert np.abs(decode_image(buffer.getvalue()).astype(int) - (255, 0, 0)).max() <= 2
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    assert decode_image(buffer.getvalue())[0, 0].tolist() == [10, 20, 30]
    assert decode_image(buffer.getvalue(), indexed=True).tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_of_an_animation_it_is_the_first_picture(format):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((10, 20, 30), (200, 0, 0))]
    buffer = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:], **options)
    assert to_rgb(decode_image(buffer.getvalue()))[0, 0].tolist() == [10, 20, 30]


def test_thin_and_huge_pictures_are_refused_before_they_are_decoded():
    thin = stored(np.zeros((1, 100_000), np.uint8), "PNG")
    with pytest.raises(SampleError, match="image-too-thin: 100000x1 pixels") as refusal:
        decode_image(thin)
    assert refusal.value.figure == 100_000
    assert decode_image(stored(np.zeros((1, codec.MAX_ASPECT), np.uint8), "PNG")).shape == (1, 200)
    head = stored(np.zeros((1, 1), np.uint8), "PNG")
    huge = head[:16] + struct.pack(">II", 9000, 9000) + head[24:29]
    with pytest.raises(SampleError, match="image-too-large"):
        decode_image(huge + struct.pack(">I", zlib.crc32(huge[12:])) + head[33:])


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        ("png", (4, 4, 5)),
        ("png", (4, 4, 1)),
        ("png", (4, 4, 2)),
        ("jpg", (4, 4, 4)),
        ("webp", (4,)),
        ("png", (0, 4, 3)),
    ],
)
def test_arrays_that_are_no_picture_are_refused(field, shape):
    with pytest.raises(SampleError, match="bad-picture-value: want uint8"):
        codec.encode(field, np.zeros(shape, np.uint8))


def test_a_picture_larger_than_its_format_allows_is_refused():
    with pytest.raises(SampleError, match="bad-picture-value: 16384x1 as webp"):
        encode_image(np.zeros((1, 16384, 3), np.uint8), "webp")


def a_photograph(side: int, orientation: int = 1) -> bytes:
    """A JPEG with structure at all scales."""
    rng, picture = np.random.default_rng(side), np.zeros((side, side, 3))
    for size in (4, 16, 64):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        picture += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) / 3
    return stored(picture.astype(np.uint8), "JPEG", quality=95, exif=exif(orientation))


@pytest.mark.parametrize(("side", "least", "gets"), [(512, 224, 256), (512, 257, 512), (512, 0, 512), (100, 13, 25)])
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(side, least, gets):
    sample = Sample("a", {"jpg": a_photograph(side)})
    assert sample.image(least).size == (gets, gets)
    np.testing.assert_array_equal(np.asarray(sample.image()), sample.picture)
    whole = sample.image().resize((gets, gets), Image.Resampling.BOX)
    apart = np.abs(np.asarray(sample.image(least), int) - np.asarray(whole, int))
    assert apart.mean() < 2 and apart.max() < 40


def test_what_is_decoded_smaller_is_turned_and_made_rgb_like_the_whole():
    turned = Sample("a", {"jpg": a_photograph(512, orientation=6)})
    wanted = np.asarray(turned.image().resize((128, 128), Image.Resampling.BOX), int)
    assert np.abs(np.asarray(turned.image(128), int) - wanted).mean() < 2
    for field, data in (("png", stored(GREYS, "PNG")), ("jpg", stored(GREYS, "JPEG")), ("jpg", b"broken")):
        sample = Sample("a", {field: data})
        if data == b"broken":
            with pytest.raises(SampleError, match="undecodable-image"):
                sample.image(8)
        else:
            assert sample.image(8).mode == "RGB" and sample.image(16).size == (16, 16)
    assert Sample("a", {"png": COLOURS}).image(2).size == (9, 6), "what is no JPEG stays as it is"
