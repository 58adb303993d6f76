"""Worker processes: what dies, hangs, prints or cannot start, and Ctrl-C."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from engine_pipelines import (
    Files,
    Numbers,
    Slow,
    Told,
    Trouble,
    Unread,
    dealt,
    devices_told,
    digests,
    script,
    tiny,
    troubled,
)

from lt.datagen.engine.local import _child_settings
from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline, SampleStage
from lt.datagen.shards import LtError, Reject, Sample, open_shards
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.datagen.shards.storage import TEMP_MARK


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_workers_make_the_same_bytes_as_this_process(out, tmp_path):
    states: list[tuple[int, int]] = []
    report = run_pipeline(tiny(), out, workers=2, on_progress=lambda state: states.append((state.done, state.running)))
    alone = run_pipeline(tiny(), tmp_path / "alone", workers=0)
    assert digests(out) == digests(tmp_path / "alone") and len(digests(out)) == 4
    assert [(s.name, s.kept, s.rejected) for s in report.stages] == [(s.name, s.kept, s.rejected) for s in alone.stages]
    assert states[-1] == (4, 0) and max(running for _, running in states) == 2


def test_devices_are_dealt_one_a_worker_and_do_not_change_the_bytes(out, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    run_pipeline(dealt(marks), tmp_path / "alone", workers=0)
    assert devices_told(marks) == ["None"]
    run_pipeline(dealt(marks), tmp_path / "one", workers=0, devices=["cpu"])
    assert devices_told(marks) == ["cpu"] and "LT_DEVICE" not in os.environ
    run_pipeline(dealt(marks), out, devices=("cpu:0", "cpu:1"))
    assert devices_told(marks) == ["cpu:0", "cpu:1"]
    assert digests(out) == digests(tmp_path / "one") == digests(tmp_path / "alone") and len(digests(out)) == 6


def test_a_worker_that_takes_over_computes_on_the_device_of_the_one_that_died(out, tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    pipeline = Pipeline(
        "taken-over", Numbers(6), (Slow(0.05), Told(str(marks)), Trouble("kill", mark=str(tmp_path / "x")))
    )
    assert run_pipeline(pipeline, out, devices=("cpu:0", "cpu:1")).complete
    told = devices_told(marks)
    assert len(told) == 3 and set(told) == {"cpu:0", "cpu:1"}


@pytest.mark.parametrize("kind", ["exit", "kill"])
def test_trouble_once_costs_a_retry(out, tmp_path, kind):
    report = run_pipeline(troubled(kind, str(tmp_path / "mark")), out, workers=2)
    assert report.exit_code == 0 and report.complete and report.done == 4
    assert report.stages[0].kept + sum(report.stages[0].rejected.values()) == 48  # the lost attempt is not counted


@pytest.mark.parametrize(
    ("kind", "why"),
    [("exit", "its worker died (exit code 3)"), ("kill", "its worker died (SIGKILL, perhaps for lack of memory)")],
)
def test_a_sample_that_ends_its_worker_twice_is_left_out_by_name(out, tmp_path, kind, why, capfd):
    report = run_pipeline(troubled(kind), out, workers=2)
    assert report.complete and report.done == 4 and report.rejected["worker-died"] == 1
    (lost,) = [reject for _, reject in open_shards(str(out)).rejects() if reject.reason == "worker-died"]
    assert (lost.key, lost.stage, lost.detail) == ("n-000003", "numbers", f"twice at this sample, {why}")
    assert not list(out.glob(f"*{TEMP_MARK}*"))
    assert capfd.readouterr() == ("", "")  # what workers print does not reach the terminal
    run_pipeline(troubled("none"), tmp_path / "whole", workers=0)
    kept = {sample.key for sample in open_shards(str(tmp_path / "whole"))} - {"n-000003"}
    assert {sample.key for sample in open_shards(str(out))} == kept


def test_a_file_that_ends_its_worker_while_it_is_read_is_left_out_by_name(out):
    report = run_pipeline(Pipeline("deadly", Files(deadly=5)), out, workers=1)
    assert report.complete and report.count == 7 and report.rejected == {"worker-died": 1}
    ((_, lost),) = open_shards(str(out)).rejects()
    assert lost.key == "f-5" and "SIGSEGV" in lost.detail and lost.meta["file"] == 5


def test_a_worker_that_dies_before_it_takes_a_sample_costs_its_task(out):
    report = run_pipeline(Pipeline("unsplit", Unread(), (Slow(),)), out, workers=1)
    (failed,) = report.failed
    assert report.exit_code == 1 and failed.error == "its worker died (exit code 4)"
    assert not Manifest.load(out / MANIFEST).complete and not list(out.glob(f"*{TEMP_MARK}*"))


def test_a_sample_at_which_a_worker_hangs_twice_is_left_out_by_name(out):
    report = run_pipeline(troubled("hang", tasks=2), out, workers=1, stall_seconds=10)
    assert report.complete and report.rejected["worker-died"] == 1
    details = [reject.detail for _, reject in open_shards(str(out)).rejects() if reject.reason == "worker-died"]
    assert details == ["twice at this sample, its worker showed no progress for 10 seconds and was killed"]


def test_a_pipeline_that_cannot_be_sent_is_refused(out):
    @dataclass(frozen=True)
    class Inner(SampleStage):
        name: ClassVar[str] = "inner"

    with pytest.raises(LtError, match="cannot be sent to worker processes") as refusal:
        run_pipeline(Pipeline("local", Numbers(), (Inner(),)), out, workers=1)
    assert "--workers 0" in refusal.value.hint


@dataclass(frozen=True)
class OnlyHere(SampleStage):
    """Lives in a module that workers cannot import."""

    name: ClassVar[str] = "only-here"

    def process(self, sample: Sample) -> Sample | Reject:
        return sample


def test_workers_that_cannot_start_are_reported_with_their_last_words(out):
    with pytest.raises(LtError, match="A worker process cannot start: worker died") as refusal:
        run_pipeline(Pipeline("unknown", Numbers(), (OnlyHere(),)), out, workers=2)
    assert "ModuleNotFoundError" in refusal.value.message


def test_workers_compute_with_one_thread(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    with _child_settings(None):
        assert os.environ["OMP_NUM_THREADS"] == "1" and os.environ["MKL_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in os.environ and os.environ["MKL_NUM_THREADS"] == "3"


def start(out: Path, seconds: float = 0.2) -> subprocess.Popen:
    """A run with two workers in a process group of its own; returns after its first sign of progress."""
    code = script(f"tiny(tasks=8, seconds={seconds})", out)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "0\n"
    return process


def wait_until_all_are_gone(group: int) -> None:
    """Until no process of the group is left; fails after ten seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("processes are left")


def test_a_second_run_is_refused_and_ctrl_c_stops_the_first_cleanly(out):
    process = start(out)
    with pytest.raises(LtError, match=f"Another run is writing into .*: process {process.pid} on "):
        run_pipeline(tiny(tasks=8, seconds=0.2), out, workers=0)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and len(list(out.glob("*.tar"))) < 8, "it did not wait for the rest"
    assert errors == "Stopped.\n"  # no traceback, from no process
    wait_until_all_are_gone(process.pid)
    assert not list(out.glob(f"*{TEMP_MARK}*")) and not (out / ".lock").exists()


def test_workers_end_when_their_supervisor_is_killed(out):
    process = start(out)
    process.kill()
    process.wait()
    wait_until_all_are_gone(process.pid)
