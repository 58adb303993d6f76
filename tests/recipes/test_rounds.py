"""A run in rounds: each complete in itself, built on the one before, and nothing is done twice."""

from pathlib import Path

import pytest
import toy
import toy_rounds

from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.recipes.training import checkpoints
from lt.recipes.training.logging import read_log
from lt.recipes.training.loop import Outcome, dry_run, train
from lt.recipes.training.plan import is_finished, make_plan
from lt.recipes.training.shards import ShardSet

NAMES = [f"Round {number} of 2: {name}" for number in (1, 2) for name in ("candidates", "best", "run")]


class Killed(Exception):
    pass


def play(shards: Path, out: Path, before: str = "", resume: bool = False) -> Outcome:
    """Two rounds of 6 steps; ends as if killed before the step that is announced so."""

    def note(line: str) -> None:
        if line == before:
            raise Killed

    named = [f"data.train=[{shards}]", f"data.validation={shards}", "train.steps=6", "train.batch=12"]
    trace = [f"model.trace={out}-batches", f"rounds.trace={out}-samples"]
    return train(make_plan(toy_rounds.RECIPE, "tiny", None, [*named, *trace], out), note, resume=resume)


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("rounds") / "run"
    outcome = play(shards, out)
    assert (outcome.status, outcome.out, outcome.steps) == ("done", out, 6)
    return out


def test_a_run_is_finished_when_all_its_rounds_are(whole, shards, tmp_path):
    def plan(out: Path, *more: str):
        return make_plan(
            toy_rounds.RECIPE, "tiny", None, [f"data.train=[{shards}]", f"data.validation={shards}", *more], out
        )

    assert is_finished(plan(whole)) and not is_finished(plan(whole, "rounds.count=3"))
    assert not is_finished(plan(tmp_path))
    notes = []
    dry_run(plan(tmp_path, "train.batch=12"), notes.append)
    assert "2 rounds, each of which makes shards and trains on them" in notes[0] and not list(tmp_path.iterdir())


def contents(out: Path) -> dict[str, object]:
    """What every step of every round has made, and what was seen on the way."""
    steps = {str(path.relative_to(out)): path for path in out.glob("round-*/*")}
    made = {
        name: toy.digests(path) if path.name == "run" else ShardSet([str(path)], 0).digest
        for name, path in steps.items()
    }
    return made | {what: sorted(Path(f"{out}-{what}").read_text().splitlines()) for what in ("samples", "batches")}


def test_a_round_is_complete_in_itself_and_builds_on_the_one_before(whole, shards):
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == ["round-01", "round-02"]
    for number in (1, 2):
        folder = whole / f"round-{number:02d}"
        assert sorted(path.name for path in folder.iterdir()) == ["best", "candidates", "run"]
        assert 12 < Manifest.load(folder / "best" / MANIFEST).count < 200
        (start,) = read_log(folder / "run", "start")
        assert start["settings"]["data.train"] == [str(folder / "best")]
        assert start["settings"]["train.init"] == (str(whole / "round-01" / "run") if number == 2 else "")
    objective, record = checkpoints.restore(whole)
    last = checkpoints.latest(whole / "round-02" / "run" / "checkpoints")
    assert record.files == checkpoints.Record.load(last).files and objective.modules["net"].seen == 12, (
        "6 of each round"
    )


@pytest.mark.parametrize("before", NAMES[1:])
def test_killed_between_any_two_steps_it_goes_on_and_does_nothing_twice(shards, tmp_path, whole, before):
    out = tmp_path / "run"
    with pytest.raises(Killed):
        play(shards, out, before)
    assert play(shards, out, resume=bool(out.exists())).status == "done"
    assert contents(out) == contents(whole)


def test_all_done_is_nothing_to_do(shards, whole):
    before = contents(whole)
    assert len(before) == 2 * 3 + 2 and len(before["samples"]) == 2 * 2 * 200 and len(before["batches"]) == 2 * 6
    assert play(shards, whole, resume=True).status == "nothing to do"
    assert contents(whole) == before
    with pytest.raises(LtError, match="There is no run in"):
        play(shards, whole.with_name("none"), resume=True)
