"""Alpha, colours, background and recomposition on pictures whose layers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_pictures import disc, instance, lay, sample_of, smooth_background

from lt.datagen.shards.compose import composite, psnr, recomposition_error
from lt.datagen.stages.background import CompleteBackground, join
from lt.datagen.stages.entities import ChooseEntities
from lt.datagen.stages.masks import MakeMasks
from lt.datagen.stages.matte import ALPHA, COLOUR, MatteLayers, close_pinholes, refine, window_of, without_haze
from lt.datagen.stages.recompose import SolveLayers, solve_layer
from lt.datagen.stages.zorder import OrderLayers
from lt.models.perception.matting import closed_form_alpha, trimap_of

STAGES = (ChooseEntities(), MakeMasks(), OrderLayers(), MatteLayers(), CompleteBackground(), SolveLayers())


def solved(known, instances, upto=len(STAGES)):
    sample = sample_of(known.picture, instances)
    for stage in STAGES[:upto]:
        sample = stage.process(sample)
    return sample


def test_alpha_and_colour_of_a_soft_disc_are_found(one_disc):
    true = one_disc.alphas[0]
    sample = solved(one_disc, [instance(1, true > 0.5)], upto=4)
    alpha = sample[ALPHA][0]
    assert np.abs(alpha - true).mean() < 0.004
    assert np.abs(alpha - true).max() < 0.35
    seen = alpha > 0.1
    off = np.abs(sample[COLOUR][0][seen] * 255 - np.array(one_disc.colours[0]))
    assert off.mean() < 3  # of 255: no blue of the background sticks to the red edge
    assert np.percentile(off, 99) < 25


def test_a_sloppy_outline_is_moved_to_the_edge(one_disc):
    shifted = np.roll(one_disc.alphas[0] > 0.5, 3, axis=1)
    sample = solved(one_disc, [instance(1, shifted)], upto=4)
    assert np.abs(sample[ALPHA][0] - one_disc.alphas[0]).mean() < 0.01


def test_layers_recomposite_above_40_db_and_the_hole_is_closed(two_discs):
    front = two_discs.alphas[1] > 0.5
    behind = (two_discs.alphas[0] > 0.5) & ~front
    sample = solved(two_discs, [instance(1, front), instance(2, behind)])
    layers = [sample["layer-00.png"], sample["layer-01.png"]]
    error = recomposition_error(two_discs.picture, sample["background.png"], layers)
    assert psnr(error) > 40
    assert sample.meta["recomposition"] == {"rms": round(error, 6), "psnr_db": round(psnr(error), 2)}
    away = composite(sample["background.png"], []).astype(int) - two_discs.background
    assert np.abs(away).mean() < 4
    assert np.abs(away).max() < 80  # red or green left in the hole would be more than 100 off


def test_a_lower_layer_runs_on_under_the_soft_edge_and_is_cut_below(two_discs):
    front = two_discs.alphas[1] > 0.5
    behind = (two_discs.alphas[0] > 0.5) & ~front
    sample = solved(two_discs, [instance(1, front), instance(2, behind)], upto=4)
    low, high = sample[ALPHA]
    soft = (high > 0.05) & (high < 0.95) & (two_discs.alphas[0] > 0.99)
    assert low[soft].mean() > 0.95
    green = sample[COLOUR][0][soft] * 255
    assert np.abs(green - np.array(two_discs.colours[0])).mean() < 12
    assert low[disc(low.shape, (112, 84), 12) > 0].max() == 0


def test_uncovered_pixels_away_from_the_rim_are_the_photograph(one_disc):
    sample = solved(one_disc, [instance(1, one_disc.alphas[0] > 0.5)])
    far = disc(one_disc.alphas[0].shape, (75, 60), 42) == 0
    assert np.array_equal(sample["background.png"][far], one_disc.picture[far])


def test_a_halo_outside_the_layer_is_taken_out_of_the_background():
    size = (120, 160)
    flat = np.full((*size, 3), 128.0)
    alpha = disc(size, (80, 60), 30, 0.5)
    halo = (disc(size, (80, 60), 33, 0.5) - alpha)[..., None] * 12  # a sharpening halo of 12 grey levels, 3 pixels wide
    known = lay(flat + halo, [alpha], [(20, 20, 20)])
    sample = solved(known, [instance(1, alpha > 0.5)])
    left = np.abs(sample["background.png"].astype(float) - 128).max(axis=2)
    assert left.mean() < 0.35 * np.abs(halo).mean()  # it was all there before
    assert sample.meta["recomposition"]["psnr_db"] > 40


def test_strong_remains_stay_in_the_background():
    behind, filled = np.full((40, 40, 3), 0.8, np.float32), np.full((40, 40, 3), 0.8, np.float32)
    behind[18:22, 27:29] = 0.1
    covered = disc((40, 40), (12, 20), 12).astype(np.float32)
    clean = join(behind, filled, covered, 4, 0.08)
    assert np.allclose(clean[19:21, 28], 0.1, atol=0.02)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_solving_never_makes_the_composite_worse_than_the_matte(seed):
    rng = np.random.default_rng(seed)
    picture, below = rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    alpha, colour = rng.random((6, 6)).astype(np.float32), rng.random((6, 6, 3)).astype(np.float32)
    everywhere = np.ones((6, 6), bool)
    layer = solve_layer(picture, below, alpha, colour, everywhere, 0.05, 0.2, 0.1)
    matte = np.round(np.dstack([colour, alpha]) * 255).astype(np.uint8)
    assert recomposition_error(picture, below, [layer]) <= recomposition_error(picture, below, [matte]) + 0.01
    assert np.abs(layer[..., 3] / 255.0 - alpha).max() <= 0.2 + 1 / 255


def test_opaque_pixels_are_the_photograph_and_empty_ones_are_nothing():
    picture = np.full((2, 2, 3), 77, np.uint8)
    alpha = np.array([[1, 0], [1, 0]], np.float32)
    layer = solve_layer(picture, picture // 2, alpha, np.zeros((2, 2, 3), np.float32), alpha >= 0, 0.05, 0.2, 0.1)
    assert layer[:, 0].tolist() == [[77, 77, 77, 255]] * 2
    assert not layer[:, 1].any()


def test_trimap_keeps_the_middle_of_thin_parts():
    mask = np.zeros((40, 60), bool)
    mask[18:23, 5:55] = True
    trimap = trimap_of(mask, 4, 4)
    assert (trimap[20, 10:50] == 1).all()
    assert (trimap[:12] == 0).all()
    assert set(np.unique(trimap)) == {0, 0.5, 1}


def test_closed_form_alpha_equals_a_straight_step_with_linear_colours():
    true = np.repeat(np.clip((np.arange(24) - 8) / 8, 0, 1)[None], 16, axis=0)
    image = true[..., None] * np.array([0.9, 0.2, 0.1]) + (1 - true[..., None]) * np.array([0.1, 0.3, 0.8])
    trimap = np.where(true == 0, 0, np.where(true == 1, 1, 0.5))
    assert np.abs(closed_form_alpha(image, trimap, true * 0, weight=0) - true).max() < 0.01


def test_haze_and_loose_bits_go():
    alpha = np.zeros((9, 9))
    alpha[:4], alpha[7, 7], alpha[5] = 1, 0.6, 0.05
    clean = without_haze(alpha)
    assert (clean[:4] == 1).all()
    assert not clean[4:].any()


def test_pinholes_go_to_the_lowest_layer_beside_them():
    alphas = np.zeros((2, 50, 50), np.float32)
    alphas[0, 10:40, 10:25], alphas[1, 10:40, 25:40] = 1, 1
    alphas[:, 20, 24:26] = 0
    close_pinholes(alphas, 0.001)
    assert alphas[0, 20, 24:26].tolist() == [1, 1]
    assert alphas[1, 20, 25] == 0
    assert alphas[:, :10].max() == 0
    faint = np.full((1, 50, 50), 0.2, np.float32)
    faint[0, 20, 20] = 0
    close_pinholes(faint, 0.001)
    assert faint[0, 20, 20] == 0


def test_a_cut_that_disagrees_with_the_outline_is_dropped():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 60, 3), dtype=np.uint8)  # no edge anywhere
    mask = disc((60, 60), (30, 30), 15) > 0.5
    kept = refine(noise, mask, 4)
    assert (kept & mask).sum() / (kept | mask).sum() >= 0.8


def test_windows_stay_inside_the_picture():
    mask = np.zeros((20, 30), bool)
    mask[0:3, 25:30] = True
    assert window_of(mask, 4) == (slice(0, 7), slice(21, 30))


@pytest.mark.parametrize("colour", [(250, 250, 250), (10, 10, 10)])
def test_no_halo_of_the_old_background_on_a_new_one(colour):
    """The layer over black or white looks like the true object over it."""
    size = (120, 160)
    known = lay(smooth_background(size), [disc(size, (80, 60), 30)], [(200, 30, 20)])
    sample = solved(known, [instance(1, known.alphas[0] > 0.5)])
    new = np.full((*size, 3), colour, np.uint8)
    want = known.alphas[0][..., None] * np.array(known.colours[0], float) + (1 - known.alphas[0][..., None]) * new
    got = composite(new, [sample["layer-00.png"]])
    edge = (known.alphas[0] > 0.02) & (known.alphas[0] < 0.98)
    assert np.abs(got[edge] - want[edge]).mean() < 12
