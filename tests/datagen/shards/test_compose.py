import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.datagen.shards.compose import alpha_box, composite, psnr, recomposition_error


def layer(height: int, width: int, rgba: tuple[int, int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(rgba, np.uint8), (height, width, 4)).copy()


def test_rounding_is_to_the_nearest_integer_for_every_byte():
    alpha, below = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    background = np.repeat(below.astype(np.uint8)[:, :, None], 3, axis=2)
    for source in (0, 1, 77, 128, 254, 255):
        top = np.full((256, 256, 4), source, np.uint8)
        top[:, :, 3] = alpha
        exact = (source * alpha + below * (255 - alpha)) / 255
        assert np.array_equal(composite(background, [top])[:, :, 0], np.rint(exact).astype(np.uint8))


def test_order_matters_and_alpha_ends_are_exact():
    background = np.full((2, 3, 3), 9, np.uint8)
    red, clear = layer(2, 3, (255, 0, 0, 255)), layer(2, 3, (1, 2, 3, 0))
    half = layer(2, 3, (0, 0, 255, 128))
    assert composite(background, [clear]).tolist() == background.tolist()
    assert composite(background, [half, red])[0, 0].tolist() == [255, 0, 0]
    assert composite(background, [red, half])[0, 0].tolist() == [127, 0, 128]
    assert background.max() == 9  # the input is left alone


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_composite_equals_pixel_by_pixel_arithmetic(seed, height, width, count):
    rng = np.random.default_rng(seed)
    background = rng.integers(0, 256, (height, width, 3), np.uint8)
    layers = [rng.integers(0, 256, (height, width, 4), np.uint8) for _ in range(count)]
    for one in layers:
        one[rng.random((height, width)) < 0.5, 3] = 0
    expected = background.astype(int)
    for one in layers:
        alpha = one[:, :, 3:].astype(int)
        expected = (one[:, :, :3] * alpha + expected * (255 - alpha) + 127) // 255
    picture = composite(background, layers)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, expected)
    assert recomposition_error(picture, background, layers) == 0


def test_error_and_psnr():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert recomposition_error(white, black, []) == 1
    one_off = black.copy()
    one_off[0, 0, 0] = 51
    assert recomposition_error(one_off, black, []) == pytest.approx(0.2 / math.sqrt(48))
    assert psnr(0) == math.inf
    assert psnr(0.01) == pytest.approx(40)


def test_alpha_box():
    alpha = np.zeros((5, 7), np.uint8)
    assert alpha_box(alpha) is None
    alpha[1, 2] = alpha[3, 5] = 1
    assert alpha_box(alpha) == (2, 1, 4, 3)


def test_wrong_shapes_and_dtypes_are_named():
    background = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match=r"layer 0: want uint8 \[4, 4, 4\], got uint8 \[4, 5, 4\]"):
        composite(background, [np.zeros((4, 5, 4), np.uint8)])
    with pytest.raises(ValueError, match="background: want uint8"):
        composite(background.astype(float), [])
    with pytest.raises(ValueError, match="picture: want uint8"):
        recomposition_error(np.zeros((3, 4, 3), np.uint8), background, [])
