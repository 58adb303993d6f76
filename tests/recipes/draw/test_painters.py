"""Diffusers pipelines as painters, and the stage that draws with them into shards."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import LtError, UsageError, open_shards
from lt.recipes.draw import painters
from lt.recipes.draw.painters import PipelineFiles, locate_pipeline, open_painter
from lt.recipes.draw.prompts import PromptSource
from lt.recipes.draw.stage import Draw


@pytest.fixture
def base(tiny_sd, tmp_path) -> Path:
    tiny_sd.save_pretrained(tmp_path / "sd")
    return tmp_path / "sd"


def apples(files: PipelineFiles) -> np.ndarray:
    pixels = open_painter(files).draw(["a red apple"], [5], (32, 32), steps=4, guidance=3.0)
    assert pixels.dtype == torch.float32 and pixels.isfinite().all()
    return pixels.clamp(-1, 1).numpy()


def test_on_an_accelerator_weights_are_in_half_precision(base, tiny_sd, tmp_path, monkeypatch):
    full = apples(locate_pipeline(str(base)))
    assert open_painter(locate_pipeline(str(base))).model.network.unet.dtype == torch.float32
    monkeypatch.setattr(painters, "dtype_for", lambda where: torch.float16)  # as where there is one
    tiny_sd.to(torch.bfloat16).save_pretrained(tmp_path / "brain")
    tiny_sd.to(torch.float16).save_pretrained(tmp_path / "half")
    for name, dtype in (("half", torch.float16), ("brain", torch.bfloat16)):
        files = locate_pipeline(str(tmp_path / name))
        painter = open_painter(files)
        assert painter.model.network.unet.dtype == painter.space.vae.dtype == dtype, "as they are stored"
        assert np.abs(apples(files) - full).mean() < 0.05
    monkeypatch.undo()
    open_painter.cache_clear()
    assert open_painter(files).model.network.unet.dtype == torch.float32, "the processor is slow in half"


def test_a_worker_opens_the_painter_on_the_device_that_it_was_dealt(base, tmp_path, monkeypatch):
    source = PromptSource("draw", ("a red apple", "two clouds"), 3, 7, (32, 32))
    sent = pickle.dumps(Pipeline("draw", source, (Draw(locate_pipeline(str(base)), (), 32, 32, steps=2, batch=2),)))
    assert len(sent) < 5000, "files, no weights"
    open_painter.cache_clear()
    assert run_pipeline(pickle.loads(sent), tmp_path / "out", workers=0).complete
    assert open_painter.cache_info().misses == 1, "once, not once a batch"
    samples = list(open_shards(tmp_path / "out"))
    assert [sample.key for sample in samples] == [f"draw-7-{number:06d}" for number in range(3)], "the system's name"
    assert [sample.meta["lineage"][-1]["seed"] for sample in samples] == [7, 8, 9]
    assert samples[0].meta["source"] == {"name": "lt sample draw"}
    open_painter.cache_clear()
    monkeypatch.setenv("LT_DEVICE", "meta")
    assert open_painter(locate_pipeline(str(base))).model.network.unet.device.type == "meta"
    open_painter.cache_clear()


def test_what_a_painter_cannot_do_is_said(base, tmp_path):
    files = locate_pipeline(str(base))
    with pytest.raises(UsageError, match=r"33x32 cannot be drawn by .*multiples of 2.*Try 32x32"):
        Draw(files, (), 33, 32).check()
    with pytest.raises(UsageError, match=r"No control branch 'pose' here.*lt train draw --control pose"):
        Draw(files, ("pose",), 32, 32).check()
    with pytest.raises(LtError, match="is no diffusers pipeline"):
        locate_pipeline(str(tmp_path))
    (base / "unet" / "config.json").write_text("{}", encoding="utf-8")
    open_painter.cache_clear()
    with pytest.raises(LtError, match="changed while it was in use"):
        open_painter(files)


class OneIsBroken(Draw):
    """The second of every three pictures overflows."""

    def drawn(self, group):
        pixels = torch.zeros(len(group), 3, 32, 32)
        pixels[1::3, 0, 4, 4] = float("inf")
        return pixels


def test_a_picture_that_is_not_finite_is_a_reject_and_costs_no_neighbour(base, tmp_path):
    source = PromptSource("draw", ("a red apple",), 4, 0, (32, 32))
    stage = OneIsBroken(locate_pipeline(str(base)), (), 32, 32, batch=3)
    report = run_pipeline(Pipeline("draw", source, (stage,)), tmp_path / "out", workers=0)
    assert (report.count, report.rejected) == (3, {"not-finite": 1})
    assert [sample.meta["seed"] for sample in open_shards(tmp_path / "out")] == [0, 2, 3]


def test_weights_that_are_no_numbers_draw_nothing(tiny_sd, tmp_path):
    with torch.no_grad():
        tiny_sd.unet.conv_out.bias.fill_(float("nan"))
    tiny_sd.save_pretrained(tmp_path / "nan")
    source = PromptSource("draw", ("a red apple",), 2, 0, (32, 32))
    stage = Draw(locate_pipeline(str(tmp_path / "nan")), (), 32, 32, steps=2)
    report = run_pipeline(Pipeline("draw", source, (stage,)), tmp_path / "out", workers=0)
    assert (report.count, report.rejected) == (0, {"not-finite": 2})
