"""Inpainters: Telea, Navier-Stokes, and by example."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.datagen.layers import LayersSettings, layers_pipeline
from lt.datagen.shards import LtError, Sample
from lt.datagen.sources.coco import photos_source
from lt.datagen.stages.background import CompleteBackground
from lt.datagen.stages.matte import ALPHA, BEHIND
from lt.models.perception.patchmatch import PatchMatch, finer, pyramid, sources
from lt.models.perception.registry import BACKENDS, Backend, BackendError, load

NAMES = ["patches", "opencv", "opencv:telea", "opencv:ns"]


def hole(size, rows, columns):
    mask = np.zeros(size, bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def stripes(size=(96, 128), period=8):
    columns = np.arange(size[1])[None].repeat(size[0], axis=0)
    return np.repeat(np.where(columns // (period // 2) % 2, 200, 60)[..., None], 3, axis=2).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
def test_known_pixels_are_kept_to_the_bit_and_the_hole_is_filled(name):
    picture = np.random.default_rng(0).integers(100, 140, (64, 80, 3), dtype=np.uint8)
    mask = hole((64, 80), (20, 40), (30, 55))
    picture[mask] = 0
    (filled,) = load("inpainter", name).inpaint([picture], [mask])
    assert np.array_equal(filled[~mask], picture[~mask])
    assert filled.dtype == np.uint8
    assert filled[mask].min() > 60


def test_stripes_go_on_through_the_hole_by_example_and_not_smoothly():
    picture, mask = stripes(), hole((96, 128), (30, 66), (40, 84))
    damaged = picture.copy()
    damaged[mask] = 0
    by_example = PatchMatch().inpaint([damaged], [mask])[0]
    smooth = load("inpainter", "opencv:telea").inpaint([damaged], [mask])[0]
    error = [np.abs(filled[mask].astype(int) - picture[mask]).mean() for filled in (by_example, smooth)]
    assert error[0] < 8
    assert error[1] > 3 * error[0]


def test_two_brightnesses_meet_without_a_seam():
    columns = np.arange(128)[None].repeat(96, axis=0)
    picture = np.repeat(np.where(columns < 64, 150, 165)[..., None], 3, axis=2).astype(np.uint8)
    mask = hole((96, 128), (20, 76), (34, 94))
    (filled,) = PatchMatch().inpaint([picture], [mask])
    steps = np.abs(np.diff(filled[48, 36:92, 0].astype(int)))
    assert steps.max() <= 5  # the seam was 15


def test_the_same_seed_gives_the_same_picture():
    picture, mask = stripes(), hole((96, 128), (30, 60), (40, 80))
    assert np.array_equal(PatchMatch(3).inpaint([picture], [mask])[0], PatchMatch(3).inpaint([picture], [mask])[0])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**16))
def test_any_size_and_any_hole(height, width, seed):
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.random((height, width)) < rng.random()
    (filled,) = PatchMatch().inpaint([picture], [mask])
    assert np.array_equal(filled[~mask], picture[~mask])


def test_pyramid_and_fields():
    mask = hole((90, 120), (20, 70), (30, 90))
    levels = pyramid(np.zeros((90, 120, 3), np.float32), mask)
    assert [level[1].shape for level in levels] == [(90, 120), (45, 60), (23, 30)][: len(levels)]
    assert sources(mask).sum() == 84 * 114 - 56 * 66
    field = np.dstack(np.indices((3, 4))).astype(np.int32)
    assert np.array_equal(finer(field, (6, 8)), np.dstack(np.indices((6, 8))))


METHODS = {"segmenter": "segment", "inpainter": "inpaint", "edges": "edges", "pose": "poses", "parser": "parse"}


@pytest.mark.parametrize("backend", BACKENDS, ids=lambda backend: f"{backend.kind}-{backend.name}")
def test_backends_can_what_their_kind_promises(backend):
    module, _, name = backend.target.partition(":")
    pytest.importorskip(backend.needs[0])
    assert callable(getattr(getattr(importlib.import_module(module), name), METHODS[backend.kind]))


def test_grabcut_finds_what_stands_in_a_box():
    picture = np.full((80, 100, 3), (40, 90, 160), np.uint8)
    picture[30:60, 40:70] = (220, 60, 30)
    noise = np.random.default_rng(0).integers(-6, 7, picture.shape)
    picture = (picture + noise).clip(0, 255).astype(np.uint8)
    ((found, nothing),) = load("segmenter", "opencv").segment([picture], [[(34, 24, 42, 42), (0, 0, 2, 2)]])
    want = hole((80, 100), (30, 60), (40, 70))
    assert (found & want).sum() / (found | want).sum() > 0.95
    assert not nothing.any()


def test_canny_marks_the_border_of_a_square():
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[10:30, 10:30] = 255
    (edges,) = load("edges", "opencv").edges([picture])
    assert set(np.unique(edges)) == {0, 255}
    assert edges[20, 8:12].max() == 255
    assert edges[20, 20] == 0


def test_unknown_backends_name_the_nearest():
    with pytest.raises(BackendError, match="Did you mean 'patches'"):
        load("inpainter", "patchs")
    with pytest.raises(BackendError, match="known: telea, ns"):
        load("inpainter", "opencv:magic")


def test_missing_packages_name_the_command(monkeypatch):
    absent = Backend("inpainter", "absent", "nowhere:Nothing", ("package_that_is_not_here",), "experts")
    monkeypatch.setattr("lt.models.perception.registry.BACKENDS", (*BACKENDS, absent))
    with pytest.raises(BackendError, match=r"needs package_that_is_not_here.*pip install 'lt-toolkit\[experts\]'"):
        load("inpainter", "absent")


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (lambda picture: np.full(picture.shape, np.nan), "not-finite"),
        (lambda picture: picture * 0, "empty-inpainting"),
        (lambda picture: picture[:5], "unforeseen-error"),
        (lambda picture: None, "unforeseen-error"),
    ],
)
def test_an_inpainter_that_gives_no_picture_costs_the_sample(monkeypatch, made, reason):
    class Broken:
        def inpaint(self, pictures, masks):
            return [made(picture) for picture in pictures]

    monkeypatch.setattr("lt.datagen.stages.masks.expert", lambda kind, name: Broken())
    picture, alpha = stripes((40, 40)), hole((40, 40), (10, 20), (10, 20)).astype(np.float32)
    fields = {"png": picture, ALPHA: alpha[None], BEHIND: (picture / 255).astype(np.float32)}
    (reject,) = CompleteBackground()(iter([Sample("a", fields)]))
    assert reject.reason == reason


def test_backends_that_cannot_work_are_refused_before_the_run():
    for name, said in (("magic", "Unknown inpainter 'magic'"), ("opencv:magic", "known: telea, ns")):
        with pytest.raises(LtError, match=said):
            layers_pipeline(photos_source(), LayersSettings(inpainter=name))
