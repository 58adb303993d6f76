"""Runs that are killed, or whose disk is full or read-only: what they leave is honest, and the next run makes it whole."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

import pytest
from engine_pipelines import digests, run_and_tell, script, tiny

from lt.datagen.engine.lock import LOCK
from lt.datagen.engine.run import run_pipeline
from lt.datagen.shards import ShardWriter, open_shards
from lt.datagen.shards.errors import OutputError
from lt.datagen.shards.manifest import MANIFEST, Manifest, Sidecar
from lt.datagen.shards.storage import TEMP_MARK, digest_of_file, write_error

FOLDERS, KILLS = 4, 5
TINY = {"tasks": 40, "size": 6, "seconds": 0.01}


def check_honest(out: Path) -> None:
    """Whatever has a sidecar is finished; nothing says that the whole is."""
    for sidecar in map(Sidecar.load, out.glob("shard-*.json")):
        assert digest_of_file(out / sidecar.shard) == sidecar.sha256
    if (out / MANIFEST).exists():
        assert not Manifest.load(out / MANIFEST).complete


def run_and_kill(out: Path, moments: random.Random) -> None:
    """Start a run and kill it: mostly while it works, sometimes while it starts.

    The first moments are counted in finished tasks, so that they fall where they should on a busy machine too. The process is
    forked from one that has imported everything.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(["engine_pipelines", "lt.datagen.engine.finish"])
    ours, its = context.Pipe(duplex=False)
    process = context.Process(target=run_and_tell, args=(tiny(**TINY), out, its))
    process.start()
    its.close()
    if moments.random() < 0.8:
        tasks = moments.randint(0, 6)
        while ours.recv() < tasks:
            pass
        time.sleep(moments.uniform(0, 0.1))
    else:
        time.sleep(moments.uniform(0, 0.3))
    assert process.is_alive(), "the run was over before it could be killed: make it longer"
    process.kill()
    process.join()


def run_with_workers_and_kill(out: Path) -> None:
    """Kill two workers and their supervisor at once."""
    code = script(f"tiny(**{TINY})", out)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 5:
        pass
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_twenty_killed_runs_end_as_one_that_was_not(tmp_path: Path):
    run_pipeline(tiny(**TINY), tmp_path / "whole", workers=0)
    whole = digests(tmp_path / "whole")
    moments = random.Random(20)
    finished, left_overs, locks = [], 0, 0
    for folder in range(FOLDERS):
        out = tmp_path / f"killed-{folder}"
        for kill in range(KILLS):
            run_with_workers_and_kill(out) if folder == kill == 0 else run_and_kill(out, moments)
            check_honest(out)
            finished.append(len(list(out.glob("shard-*.json"))))
            left_overs += len(list(out.glob(f"*{TEMP_MARK}*")))
            locks += (out / LOCK).exists()
        report = run_pipeline(tiny(**TINY), out, workers=0)
        assert report.complete and report.resumed == finished[-1] > 0
        assert digests(out) == whole
        assert not list(out.glob(f"*{TEMP_MARK}*")) and not (out / LOCK).exists()
    print(f"shards finished at each kill: {finished}; temporary files left: {left_overs}; locks left: {locks}")
    assert left_overs and locks  # the kills did hit runs that were writing


# ---- the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 64 KiB, on which a few shards of `tiny` find room."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(disk, tmp_path, workers):
    run_pipeline(tiny(), tmp_path / "whole", workers=0)
    with pytest.raises(OutputError, match="No space left") as stop:
        run_pipeline(tiny(), disk / "out", workers=workers)
    assert "Free some space" in stop.value.hint
    check_honest(disk / "out")
    assert not list((disk / "out").glob(f"*{TEMP_MARK}*"))
    remount(disk, "size=4m")
    report = run_pipeline(tiny(), disk / "out", workers=workers)
    assert report.complete and report.resumed < 4
    assert digests(disk / "out") == digests(tmp_path / "whole")


def test_a_read_only_folder_is_refused_unless_all_is_done(disk):
    remount(disk, "size=4m")
    run_pipeline(tiny(), disk / "done", workers=0)
    remount(disk, "ro")
    with pytest.raises(OutputError, match=r"Cannot write .*Read-only file system") as refusal:
        run_pipeline(tiny(), disk / "out", workers=2)
    assert refusal.value.hint == "The file system is read-only. Choose another --out."
    assert run_pipeline(tiny(), disk / "done", workers=2).nothing_to_do
    remount(disk, "rw")


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 5, 31])
def test_a_disk_that_refuses_at_any_write(tmp_path, monkeypatch, kind, after):
    """The same without mounting: the write number `after` of all shards fails."""
    run_pipeline(tiny(), tmp_path / "whole", workers=0)
    out, writes, real = tmp_path / "out", iter(range(1000)), ShardWriter._emit

    def emit(self: ShardWriter, data: bytes) -> None:
        if next(writes) == after:
            raise write_error(self.path, OSError(kind, os.strerror(kind)))
        real(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "_emit", emit)
        with pytest.raises(OutputError, match=os.strerror(kind)):
            run_pipeline(tiny(), out, workers=0)
    check_honest(out)
    assert not list(out.glob(f"*{TEMP_MARK}*")) and not (out / LOCK).exists()
    report = run_pipeline(tiny(), out, workers=0)
    assert report.complete and report.resumed == (3 if after == 31 else 0)
    assert digests(out) == digests(tmp_path / "whole")


def test_what_a_stopped_run_has_finished_can_be_read(tmp_path, monkeypatch):
    real = ShardWriter._finish

    def finish(self: ShardWriter) -> None:
        if self.path.name == "shard-000002.tar":
            raise write_error(self.path, OSError(errno.ENOSPC, "No space left on device"))
        real(self)

    monkeypatch.setattr(ShardWriter, "_finish", finish)
    with pytest.raises(OutputError):
        run_pipeline(tiny(), tmp_path, workers=0)
    keys = [sample.key for sample in open_shards(str(tmp_path))]
    assert keys[0] == "n-000001" and keys[-1] == "n-000023" and len(keys) == 17
