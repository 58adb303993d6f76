"""PanGu-Draw's study: its small world, what is measured on drawings, and the whole of it with two steps a run."""

import json

import numpy as np
import pytest
import torch
from diffusion_runs import SHORT, WORLD
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.shards import open_shards
from lt.recipes.claims import Evidence, Measured, Measures
from lt.recipes.pangu import claims as study
from lt.recipes.pangu import ledger, measures
from lt.recipes.pangu.claims import HALF, HALF_LOW, STUDY, WHOLE
from lt.recipes.pangu.measures import fine_energy
from lt.recipes.pangu.miniature import HIGH, LOW, shrunk
from lt.recipes.registry import find_recipe
from lt.recipes.training import checkpoints
from lt.recipes.training.loop import train
from lt.recipes.training.plan import make_plan


def test_the_small_world_has_small_pictures_by_chance_and_says_what_is_worn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sharp, mixed = (list(open_shards(str(shrunk("train", 40, lambda _: None, small)))) for small in (0.0, 0.7))
    assert {sample.picture.shape for sample in sharp} == {(HIGH, HIGH, 3)}
    sides = [sample.picture.shape[0] for sample in mixed]
    assert set(sides) == {HIGH, LOW} and 20 <= sides.count(LOW) <= 36
    for one, other in zip(sharp, mixed, strict=True):
        assert one.key == other.key and one["txt"] == other["txt"] and one["pose.png"].shape[:2] == (HIGH, HIGH)
        points = [np.array(sample.meta["keypoints"][0])[:, :2] / sample.meta["width"] for sample in (one, other)]
        assert np.allclose(*points)
    figure = sharp[0].meta["figure"]
    assert f"{figure['top']['colour']} {figure['top']['kind']}" in sharp[0]["txt"] and "\n" not in sharp[0]["txt"]


def test_compared_schemes_cost_the_same():
    shares = {variant.name: variant.share for variant in STUDY.variants}
    assert shares["whole"] * WHOLE == pytest.approx((shares["structure"] + shares["texture-high"]) * HALF)
    decoupled = shares["structure-mixed"] * HALF + shares["texture-low"] * HALF_LOW
    assert shares["whole-mixed"] * WHOLE == shares["whole-sharp"] * WHOLE == pytest.approx(decoupled)


def test_fine_energy_is_that_of_the_higher_frequencies():
    across = torch.arange(32)
    coarse, fine = (torch.sin(2 * torch.pi * across / period).expand(1, 3, 32, 32) for period in (16, 2.5))
    assert fine_energy(coarse) < 1e-6 < fine_energy(fine)
    assert fine_energy(torch.cat([fine, coarse])) == pytest.approx(fine_energy(fine) / 2, rel=1e-4)


def metrics(**known: float) -> list[Measures]:
    """Three seeds alike."""
    return [{name: Measured(value) for name, value in known.items()}] * 3


def evidence(**better: list[Measures]) -> Evidence:
    """Every model draws alike, except for those that are named."""
    alike = metrics(fd=2.0, fine=80.0, text=50.0, pck=50.0, both=30.0, draw_seconds=1.0, samples=100.0)
    return {one.name: alike for one in (*STUDY.variants, *STUDY.joints)} | better


def test_claims_are_judged_by_their_rules():
    hopeful = {
        "small-structure": metrics(fd=3.0),
        "mixed-halves": metrics(fd=1.0, fine=95.0),
        "coop-half": metrics(text=60.0, pck=60.0, both=41.0),
        "handed-over": metrics(fd=0.9, fine=80.0),
    }
    for better, verdict in (
        (hopeful, "confirmed"),
        ({**hopeful, "handed-over": metrics(fd=1.5, fine=80.0)}, "contradicted"),
    ):
        verdicts = {claim.name: claim.verdict(evidence(**better)) for claim in STUDY.claims}
        assert verdicts == {claim.name: "confirmed" for claim in STUDY.claims} | {"hand-over": verdict}
    assert {claim.verdict(evidence()) for claim in STUDY.claims[1:]} <= {"not confirmed", "contradicted"}


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory) -> tuple[str, dict]:
    """What `lt reproduce pangu` says after runs of two steps, with single spaces, and what it wrote."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("study")
        patch.chdir(folder)
        patch.setenv("LT_HOME", str(folder / "home"))
        patch.setattr(study, "TRAIN", 150)
        patch.setattr(study, "TEST", 72)
        patch.setattr(measures, "STEPS", 4)
        patch.setattr(ledger, "_half", lambda latent: latent**2)
        result = CliRunner().invoke(
            app, ["reproduce", "pangu", "--steps", "2", "--seeds", "1", "--jobs", "1", "--out", "runs"]
        )
        assert result.exit_code == 0, result.output
    return " ".join(result.output.split()), json.loads((folder / "runs" / "claims.json").read_text())


@pytest.mark.slow
def test_every_claim_is_judged_and_printed(reproduced):
    """With the verdict that its rule gives for what was measured, and no other."""
    printed, written = reproduced
    kept = {
        name: [{key: Measured(**value) for key, value in run.items()} for run in runs]
        for name, runs in written["measures"].items()
    }
    verdicts = [claim.verdict(kept) for claim in STUDY.claims]
    for claim, verdict in zip(STUDY.claims, verdicts, strict=True):
        assert f" {claim.statement}: {verdict.upper()} " in f" {printed} ", claim.name
        assert claim.rule in printed
    assert [one["verdict"] for one in written["claims"]] == verdicts
    assert "test the machinery" in printed and "nan" not in printed


@pytest.mark.slow
def test_the_efficiency_table_is_printed(reproduced):
    printed, _ = reproduced
    assert "Measured here" in printed and "+0%" in printed and "cascaded" in printed


def test_the_efficiency_table_of_any_shards(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ledger, "_half", lambda latent: latent**2)
    mixed = str(shrunk("train", 40, lambda _: None, 0.7))
    sizes = ledger.sizes_of([mixed])
    assert sorted(set(sizes)) == [(LOW, LOW), (HIGH, HIGH)] and len(sizes) == 40
    paper = [(1024, 1024) if size == (HIGH, HIGH) else (400, 400) for size in sizes]
    rows = {row[0]: row[1:] for row in ledger.estimated(paper).rows}
    large = sizes.count((HIGH, HIGH))
    assert rows["time-decoupled"][0] == f"100% (+{40 / large - 1:.0%})"
    assert rows["resolution-boost"] == [f"{large / 40:.0%} (+0%)", "0%", *rows["resolution-boost"][2:]]
    result = CliRunner().invoke(app, ["reproduce", "pangu", "--ledger", mixed, "--json"])
    assert result.exit_code == 0 and '"time-decoupled"' in result.output
    result = CliRunner().invoke(app, ["reproduce", "filip", "--ledger", mixed])
    assert result.exit_code == 2 and "No such option: --ledger" in result.stderr


def test_a_resolution_boost_is_trained_as_two_runs(here):
    def weights(out: str, *overrides: str) -> dict[str, torch.Tensor]:
        fixed = ("model.unet=tiny", "model.drop_small=true", "data.train=[data/figures-train-64px-40]")
        plan = make_plan(find_recipe("pangu"), "tiny-whole", None, [*WORLD, *SHORT, *fixed, *overrides], here / out)
        assert train(plan, note=lambda _: None).status == "done"
        return checkpoints.weights_of(checkpoints.restore(here / out, weights="model")[0])

    low = weights("low", "model.high=32")
    high = weights("high", f"train.init={here / 'low'}", "train.lr=1e-12")
    assert all(torch.allclose(value, high[name], atol=1e-6) for name, value in low.items() if name.startswith("unet."))
