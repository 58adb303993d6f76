"""One run at a time writes into a folder."""

import json
import os
import socket
from pathlib import Path
from threading import Event, Thread

import pytest
from engine_pipelines import tiny

from lt.datagen.engine.lock import LOCK, directory_lock
from lt.datagen.engine.run import run_pipeline
from lt.datagen.shards import LtError
from lt.datagen.shards.errors import OutputError
from lt.datagen.shards.manifest import MANIFEST


def test_the_second_of_two_runs_is_refused_and_told_who_is_first(tmp_path: Path):
    with directory_lock(tmp_path), pytest.raises(LtError) as refusal:
        run_pipeline(tiny(), tmp_path, workers=0)
    message = refusal.value.message
    assert f"Another run is writing into {tmp_path}: process {os.getpid()} on {socket.gethostname()} since 2" in message
    assert run_pipeline(tiny(), tmp_path, workers=0).complete


def test_who_waits_finds_what_the_first_has_made(tmp_path: Path):
    reports = []
    second = Thread(target=lambda: reports.append(run_pipeline(tiny(), tmp_path, workers=0, wait=True)))
    with directory_lock(tmp_path):
        second.start()
        second.join(0.3)
        assert second.is_alive() and not (tmp_path / MANIFEST).exists()
    second.join(60)
    third = run_pipeline(tiny(), tmp_path, workers=0, wait=True)
    assert reports[0].done > 0 and reports[0].complete and third.done == 0


def test_a_stale_lock_is_taken_over(tmp_path: Path):
    stale = {"pid": 1, "host": socket.gethostname(), "since": "2020-01-01T00:00:00+00:00"}  # alive, but holds no lock
    (tmp_path / LOCK).write_text(json.dumps(stale))
    with directory_lock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_file_without_a_name_is_still_a_lock(tmp_path: Path):
    with directory_lock(tmp_path):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(LtError, match="it started this moment"), directory_lock(tmp_path):
            pass


def test_who_waited_holds_the_file_that_lies_there_and_not_the_one_that_was_removed(tmp_path: Path):
    """The first removes its file when it lets go: the second, that waited for it, must lock a new one."""
    got, done = Event(), Event()

    def second() -> None:
        with directory_lock(tmp_path, wait=True):
            got.set()
            done.wait(60)

    thread = Thread(target=second)
    with directory_lock(tmp_path):
        thread.start()
        assert not got.wait(0.2)
    assert got.wait(60)
    with pytest.raises(LtError, match="Another run is writing"), directory_lock(tmp_path):
        pass
    done.set()
    thread.join()
    assert not (tmp_path / LOCK).exists()


def test_an_error_inside_the_block_frees_the_folder_and_stays_what_it_is(tmp_path: Path):
    with pytest.raises(FileNotFoundError), directory_lock(tmp_path):
        (tmp_path / "missing").read_bytes()
    with directory_lock(tmp_path):
        pass


def test_a_file_where_the_folder_should_be_is_an_output_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"), directory_lock(tmp_path / "file"):
        pass
