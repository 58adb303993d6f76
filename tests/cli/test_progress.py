"""What a run shows: the table, the last line, the report as json."""

import io
import json
from pathlib import Path

import pytest
import typer
from rich.console import Console

from lt.cli.progress import reasons, render, run_with_table, summary
from lt.datagen.engine.ledger import FailedTask, RunState
from lt.datagen.engine.run import RunReport
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import LtError, Reject, Sample
from lt.datagen.shards.manifest import StageMetrics


class Words:
    """Two splits of one word and one reject each; the second cannot be read when `broken`."""

    name = "words"

    def __init__(self, broken: bool = False):
        self.broken = broken

    def settings(self):
        return {}

    def inputs(self):
        return []

    def licences(self):
        return []

    def splits(self):
        return [0, 1]

    def read(self, split):
        if split and self.broken:
            raise LtError("The words are gone.", "Write new ones.")
        yield Sample(f"w{split}", {"txt": "word"})
        yield Reject(f"v{split}", "too-small")


class Interrupted(Words):
    def read(self, split):
        yield Sample(f"w{split}", {"txt": "word"})
        raise KeyboardInterrupt


def report(**changes) -> RunReport:
    values = {
        "pipeline": "words",
        "out": "somewhere",
        "complete": True,
        "tasks": 2,
        "resumed": 0,
        "done": 2,
        "failed": [],
        "count": 1234,
        "shards": 2,
        "bytes": 5_600_000,
        "rejected": {"too-small": 2},
        "stages": [],
        "seconds": 7.25,
    }
    return RunReport(**(values | changes))


def test_json_on_stdout_and_one_line_on_stderr(tmp_path: Path, capsys):
    run_with_table(Pipeline("words", Words()), tmp_path / "out", workers=0, engine="local", as_json=True)
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    assert (value["count"], value["rejected"], value["complete"]) == (2, {"too-small": 2}, True)
    assert captured.err.startswith(f"{tmp_path / 'out'}: 2 samples in 2 shards, 0.0 MB; rejected: too-small 2 (")
    assert captured.err.count("\n") == 1
    run_with_table(Pipeline("words", Words()), tmp_path / "out", workers=0, engine="local", as_json=False)
    captured = capsys.readouterr()
    assert (
        captured.out == ""
        and captured.err == f"Nothing to do: {tmp_path / 'out'} is complete (2 samples in 2 shards).\n"
    )


def test_failed_tasks_end_with_exit_code_1(tmp_path: Path, capsys):
    with pytest.raises(typer.Exit) as end:
        run_with_table(Pipeline("words", Words(broken=True)), tmp_path / "out", workers=0, engine="local", as_json=True)
    assert end.value.exit_code == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failed"] == [
        {"task": 1, "error": "The words are gone.", "hint": "Write new ones.", "trace": ""}
    ]
    assert captured.err.splitlines() == [
        f"1 of 2 tasks failed; {tmp_path / 'out'} is not complete.",
        "  Task 1: The words are gone.",
        "    Write new ones.",
        "The same command again tries only these tasks.",
    ]


def test_the_last_line_says_what_there_is():
    assert summary(report(), Path("data/w")) == (
        "data/w: 1,234 samples in 2 shards, 5.6 MB; rejected: too-small 2 (7.2 s)."
    )
    assert summary(report(resumed=1, done=1, rejected={}), Path("data/w")) == (
        "data/w: 1,234 samples in 2 shards, 5.6 MB (7.2 s, 1 of 2 tasks were done before)."
    )

    assert (
        summary(report(count=1, shards=1, done=0), Path("w")) == "Nothing to do: w is complete (1 sample in 1 shard)."
    )


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, capsys):
    with pytest.raises(typer.Exit) as end:
        run_with_table(Pipeline("words", Interrupted()), tmp_path / "out", workers=0, engine="local", as_json=True)
    assert end.value.exit_code == 1
    assert capsys.readouterr() == (
        "",
        f"Stopped. {tmp_path / 'out'} keeps what is finished; the same command again continues.\n",
    )


def test_many_failures_are_cut_short():
    failed = [FailedTask(task=number, error="gone", trace="\n".join("abcdefghijkl")) for number in range(5)]
    lines = summary(report(complete=False, failed=failed), Path("w")).splitlines()
    assert lines[1:3] == ["  Task 0: gone", "    e"]  # the last eight lines of each trace
    assert "  ... and 2 more; --json lists them all." in lines


def test_reasons_go_by_count_then_name():
    assert reasons({"b": 1, "c": 1000, "a": 1}) == "c 1,000, a 1, b 1"


def test_the_table_shows_stages_and_how_far_the_run_is():
    state = RunState(
        pipeline="layers",
        tasks=10,
        resumed=2,
        done=3,
        failed=[FailedTask(task=4, error="gone")],
        stages=[
            StageMetrics(name="coco", kept=90, rejected={"missing-file": 10}, seconds=2.0),
            StageMetrics(name="[bold]matte", kept=90, seconds=45.0, model_seconds=9.0),
        ],
        seconds=60.0,
    )
    console = Console(file=io.StringIO(), width=100)
    console.print(render(state))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    rows = {
        cells[0]: cells[1:]
        for cells in ([c.strip() for c in line.strip("│┃ ").split("│")] for line in text.splitlines())
    }
    assert rows["coco"] == ["90", "2.0", "50", "", "missing-file 10"]
    assert rows["[bold]matte"] == ["90", "45.0", "2.0", "20%"]  # names are text, not markup
    assert "6/10 tasks · 2 done before · 1 failed · 1.5 samples/s · 0:01:00 gone, 0:01:00 left" in text
