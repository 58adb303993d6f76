"""Judging claims: errors, verdicts, and a study that is trained, measured, stopped and continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import toy
import toy_study

from lt.datagen.shards import LtError, UsageError
from lt.recipes import reproduce as reproduction
from lt.recipes.claims import (
    Claim,
    Measured,
    Study,
    Variant,
    above,
    all_of,
    below,
    difference,
    excess,
    find_study,
    of,
    ratio,
)
from lt.recipes.contrastive import measures
from lt.recipes.evaluate.bootstrap import Interval
from lt.recipes.training import checkpoints
from lt.recipes.training.logging import read_log


def runs(*values, error=0.0):
    return [{"r1": Measured(value, error), "base": Measured(1.0)} for value in values]


def test_the_error_is_the_larger_one_of_seeds_and_sampling():
    evidence = {"a": runs(10, 12, 14), "b": runs(1, 1, 1, error=3)}
    mean = of("a", "r1").found(evidence)
    assert mean.value == 12 and mean.error == pytest.approx(2 / 3**0.5)
    assert of("b", "r1").found(evidence).error == pytest.approx(3)  # the seeds share one test set
    gap = difference("a", "b", "r1").found(evidence)
    assert gap.value == 11 and gap.error == pytest.approx(3) and gap.high == pytest.approx(17)
    assert excess("a", "r1", "base").found(evidence).value == 11
    assert ratio("a", "b", "r1").found(evidence).value == 12


def test_a_single_seed_has_the_sampling_error_alone():
    assert of("a", "r1").found({"a": runs(5, error=2)}).error == 2


@pytest.mark.parametrize(
    ("value", "verdict"), [(3.0, "confirmed"), (1.0, "not confirmed"), (-1.0, "not confirmed"), (-3.0, "contradicted")]
)
def test_verdicts_by_two_standard_errors(value, verdict):
    assert above(Interval(value, 0, 0, 1.0)) == verdict
    assert below(Interval(-value, 0, 0, 1.0), 0, errors=2) == verdict


def test_verdicts_together():
    assert all_of("confirmed", "confirmed") == "confirmed"
    assert all_of("confirmed", "not confirmed") == "not confirmed"
    assert all_of("confirmed", "not confirmed", "contradicted") == "contradicted"


def test_known_studies_have_variants_for_every_claim():
    for name in ("filip", "wukong"):
        study = find_study(name)
        metrics = ("r1", "image_r1", "found", "chance", "pads_won", "order", "step_seconds", "similarity_seconds")
        metrics += ("ensemble", "ensemble_tokens", "ensemble_votes", "bare")
        evidence = {
            v.name: [{f: Measured(float(s + 1), 1.0) for f in metrics} for s in range(3)] for v in study.variants
        }
        for claim in study.claims:
            assert claim.verdict(evidence) in ("confirmed", "not confirmed", "contradicted"), claim.name
    with pytest.raises(UsageError, match="Did you mean filip"):
        find_study("fillip")


def a_study(folder, measured) -> Study:
    def measure(run, test):
        measured.append(run.name)
        return {"accuracy": Measured(read_log(run, "validation")[-1]["accuracy"], 0.01)}

    return Study(
        system="toy",
        variants=(
            Variant("wide", ("model.width=8",)),
            Variant("narrow", ("model.width=2", "data.train=[{few}]"), share=0.5),
        ),
        claims=(
            Claim(
                "width",
                "Wider is better",
                "-",
                "above 0",
                {"gain": difference("wide", "narrow", "accuracy").must_be(above)},
            ),
        ),
        data=lambda note: (
            {"data.train": f"[{folder}]", "data.validation": str(folder), "few": str(folder)},
            str(folder),
        ),
        measure=measure,
        steps=6,
        expected="a second",
    )


def test_a_study_is_trained_measured_judged_and_not_done_twice(shards, tmp_path):
    measured, notes = [], []
    study = a_study(shards, measured)
    result = reproduction.reproduce(study, tmp_path, seeds=2, note=notes.append)
    assert measured == ["wide-seed0", "narrow-seed0", "wide-seed1", "narrow-seed1"]
    assert len(toy.losses(tmp_path / "wide-seed1")) == 6 and len(toy.losses(tmp_path / "narrow-seed0")) == 3
    (claim,) = result.claims
    assert claim["verdict"] in ("confirmed", "not confirmed", "contradicted") and "gain" in claim["ours"]
    written = json.loads((tmp_path / "claims.json").read_text())
    assert written["seeds"] == [0, 1] and written["steps"] == 6 and not written["full"]
    assert set(written["data"]) == {"test", "wide", "narrow"} and written["hardware"]["cores"] >= 1
    assert written["seconds"] > 0 and written["versions"]["torch"]
    again = reproduction.reproduce(study, tmp_path, seeds=2, note=notes.append)
    assert len(measured) == 4 and again.claims == result.claims
    more = reproduction.reproduce(replace(study), tmp_path, seeds=3, note=notes.append)
    assert measured[4:] == ["wide-seed2", "narrow-seed2"] and more.full


def test_other_test_data_are_measured_anew(shards, tmp_path):
    measured, test = [], tmp_path / "test"
    study = a_study(shards, measured)
    study = replace(study, data=lambda note: (a_study(shards, []).data(note)[0], str(test)))
    for count in (8, 8, 9):
        shutil.rmtree(test, ignore_errors=True)
        toy.write_shards(test, count)
        reproduction.reproduce(study, tmp_path / "runs", seeds=1, note=lambda line: None)
    assert measured == ["wide-seed0", "narrow-seed0"] * 2


# --- side by side -----------------------------------------------------------------------------------------------------


def weights(out):
    """The digest of every run's weights."""
    newest = {run.name: checkpoints.chosen(run) for run in out.iterdir() if run.is_dir()}
    return {name: checkpoints.Record.load(path).files["model.safetensors"] for name, path in newest.items()}


def test_runs_side_by_side_are_those_of_one_process(shards, tmp_path):
    said = toy_study.run(str(shards), tmp_path / "two")
    assert len(said) == 9 and said[-1].startswith("  9 of 9: ")  # three variants and a joint by two seeds, one shared
    places = {line.split(": ")[1].rsplit(",", 1)[0]: place for place, line in enumerate(said)}
    assert all(
        places[f"wide, seed {seed}"] < places[f"further, seed {seed}"] < places[f"both, seed {seed}"] for seed in (0, 1)
    )
    study, notes = toy_study.study(str(shards)), []
    one = reproduction.reproduce(study, tmp_path / "one", seeds=2, note=notes.append)
    two = reproduction.reproduce(study, tmp_path / "two", seeds=2, note=notes.append)
    assert len([line for line in notes if " steps in " in line]) == 7  # nothing was trained again
    assert weights(tmp_path / "one") == weights(tmp_path / "two")
    assert one.claims == two.claims and one.measures == two.measures


def test_what_fails_side_by_side_is_said_and_ends_the_others(shards, tmp_path):
    with pytest.raises(LtError, match=r"has in another shape net\.first\.weight"):
        toy_study.run(str(shards), tmp_path, steps=40, width=4)
    assert not (tmp_path / "both-seed0.json").exists()


def test_ctrl_c_saves_what_runs_side_by_side_and_the_same_call_goes_on(shards, tmp_path):
    command = [sys.executable, toy_study.__file__, str(shards), str(tmp_path / "stopped"), "150"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    first = tmp_path / "stopped" / "shared-seed0" / "log.jsonl"
    while process.poll() is None and not (first.exists() and first.read_text().count('"train"') > 3):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Stopped" in said and "Traceback" not in said, said
    assert list((tmp_path / "stopped" / "shared-seed0" / "checkpoints").glob("step-*"))
    assert subprocess.run(command, capture_output=True, timeout=200).returncode == 0
    assert '"event": "stop"' in first.read_text()
    reproduction.reproduce(toy_study.study(str(shards)), tmp_path / "through", seeds=1, steps=150, note=print)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "through")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["filip", "wukong"])
def test_the_real_studies_run_in_miniature(name, tmp_path, monkeypatch):
    module = __import__(f"lt.recipes.{name}.claims", fromlist=["x"])
    for constant, value in {"TRAIN": 64, "TEST": 48, "FEW": 32, "SOME": 48}.items():
        for place in (module, measures):
            if hasattr(place, constant):
                monkeypatch.setattr(place, constant, value)
    monkeypatch.chdir(tmp_path)
    small = [replace(variant, overrides=(*variant.overrides, "train.batch=16")) for variant in module.STUDY.variants]
    study = replace(module.STUDY, variants=small)
    result = reproduction.reproduce(study, tmp_path / "runs", seeds=1, steps=2, note=print)
    assert len(result.claims) == len(module.CLAIMS) and not result.full
    for claim in result.claims:
        assert claim["ours"], claim["name"]
