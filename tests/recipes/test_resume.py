"""A run that is killed anywhere and continued, with other workers or ranks, is the run that nobody interrupted."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from lt.recipes.training import checkpoints

STEPS = 200
SETTINGS = (f"train.steps={STEPS}", "log.save_every=7", "log.validate_every=50", "train.ema=0.99", "train.micro=12")
PROCESSES = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """The losses and the final digests of a run of 200 steps without workers."""
    out = tmp_path_factory.mktemp("uninterrupted")
    assert toy.run(shards, out, *SETTINGS).status == "done"
    return toy.losses(out), toy.digests(out)


@pytest.mark.slow
def test_killed_at_random_moments_and_continued_with_other_workers(shards, tmp_path, uninterrupted):
    rng, kills, lines = random.Random(0), 0, 0
    for attempt, workers in enumerate([0, 1, 0, 3, 0, 0]):
        process = PROCESSES.Process(target=toy.run, args=(shards, tmp_path, *SETTINGS, f"data.workers={workers}"))
        process.start()
        lines += rng.randrange(8, 48)
        kills += toy.kill_at(lines, tmp_path, process)
        assert not process.exitcode or process.exitcode == -signal.SIGKILL, f"attempt {attempt}"
    toy.run(shards, tmp_path, *SETTINGS)
    assert kills >= 4
    assert toy.losses(tmp_path) == uninterrupted[0]
    assert toy.digests(tmp_path) == uninterrupted[1]


def _marked(mark: str) -> list[int]:
    """Processes that run with `mark` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_process_behind(shards, tmp_path):
    command = [sys.executable, str(Path(__file__).parent / "run_toy.py"), "train", "toy", "--data", str(shards)]
    command += ["--out", str(tmp_path), "--set", "train.steps=100000", "--set", "data.workers=2"]
    mark = f"LT_TEST_MARK={tmp_path.name}-{os.getpid()}"
    env = {**os.environ, "LT_TEST_MARK": mark.partition("=")[2]}
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert _kill_when(lambda: (tmp_path / "log.jsonl").exists() and len(_marked(mark)) >= 4, process)
    deadline = time.monotonic() + 30
    while _marked(mark) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _marked(mark) == []


def _kill_when(condition, process: subprocess.Popen) -> bool:
    while process.poll() is None:
        if condition():
            process.kill()
            process.wait()
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_stopped_by_sigterm_saves_and_continues(shards, tmp_path, uninterrupted):
    process = PROCESSES.Process(target=toy.run, args=(shards, tmp_path, *SETTINGS, "data.workers=1"))
    process.start()
    while not (tmp_path / "log.jsonl").exists() or (tmp_path / "log.jsonl").read_bytes().count(b"\n") < 10:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    newest = checkpoints.latest(tmp_path / "checkpoints")
    assert process.exitcode == 0 and newest is not None
    done = checkpoints.Record.load(newest).step
    assert max(toy.losses(tmp_path)) == done < STEPS, "saved exactly where it stopped"
    outcome = toy.run(shards, tmp_path, *SETTINGS)
    assert outcome.status == "done"
    assert toy.losses(tmp_path) == uninterrupted[0]
    assert toy.digests(tmp_path) == uninterrupted[1]
    assert toy.run(shards, tmp_path, *SETTINGS).status == "nothing to do"


def _launch(ranks: int, shards: Path, out: Path, trace: Path, *overrides: str) -> None:
    settings = ["model.dropout=0", f"model.trace={trace}", f"data.validation={shards}", *overrides]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    command += [str(Path(__file__).parent / "run_toy.py"), "train", "toy", "--data", str(shards), "--out", str(out)]
    command += [part for setting in settings for part in ("--set", setting)]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("Done: ") == 1, "only the first rank speaks"


def _traces(trace: Path) -> list[list[str]]:
    """The keys of every step over all ranks, in the order of the ranks."""
    ranks = [path.read_text().splitlines() for path in (trace, Path(f"{trace}1")) if path.exists()]
    return [" ".join(parts).split() for parts in zip(*ranks, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_are_one_rank_and_one_rank_continues_them(shards, tmp_path, parallel):
    common = ("model.dropout=0", "train.ema=0.9", "train.optimizer=lamb")
    alone = toy.run(shards, tmp_path / "one", *common, f"model.trace={tmp_path}/keys-one")
    _launch(
        2, shards, tmp_path / "two", tmp_path / "keys-two", *common[1:], f"train.parallel={parallel}", "train.micro=6"
    )
    one, two = toy.losses(tmp_path / "one"), toy.losses(tmp_path / "two")
    assert one.keys() == two.keys()
    # the sums over the batch are taken in another order: fp32 rounding, 30 steps
    assert max(abs(one[step] - two[step]) / one[step] for step in one) < 2e-5
    assert _traces(tmp_path / "keys-one") == _traces(tmp_path / "keys-two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000030")
    again = toy.run(
        shards, tmp_path / "two", *common, f"train.parallel={parallel}", f"model.trace={tmp_path}/keys-again"
    )
    assert _traces(tmp_path / "keys-again") == _traces(tmp_path / "keys-one")[20:]
    assert again.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=1e-4)
