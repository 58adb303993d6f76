"""The same tasks on a Ray cluster. Ray places and watches processes; what a task is and the books stay ours.

With RAY_ADDRESS set the tasks go to that cluster, otherwise a local one is started for the run. All machines need the same `lt`
and the output folder under the same path.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lt.datagen.engine.ledger import Ledger
from lt.datagen.engine.plan import Task
from lt.datagen.engine.stage import Pipeline
from lt.datagen.engine.task import Outcome, run_task
from lt.datagen.engine.worker import BEAT_EVERY
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import StageMetrics


def run_on_ray(pipeline: Pipeline, out: Path, ledger: Ledger, workers: int, stall_seconds: float) -> None:
    """Attempt all tasks of `ledger` on a Ray cluster, at most `workers` at once.

    Raises:
        LtError: Ray is not installed.
        OutputError: nothing more can be written.
    """
    with _cluster(max(1, workers)) as ray:
        _Run(ray, pipeline, out, ledger, max(1, workers), stall_seconds).run()


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[Any]:
    try:
        import ray
    except ImportError:
        raise LtError("--engine ray needs the package ray.", "pip install 'lt-toolkit[ray]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    local = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
    is_ours = not ray.is_initialized()
    with contextlib.redirect_stdout(sys.stderr):  # ray prints what its daemons say to stdout, which is for results
        if is_ours:
            ray.init(**quiet, **local)
        try:
            yield ray
        finally:
            if is_ours:
                ray.shutdown()


class _Board:
    """An actor on which tasks write how far they are: task number to metrics."""

    def __init__(self):
        self._metrics: dict[int, list[StageMetrics]] = {}

    def write(self, number: int, metrics: list[StageMetrics]) -> None:
        self._metrics[number] = metrics

    def take(self) -> dict[int, list[StageMetrics]]:
        """What was written since the last call."""
        taken, self._metrics = self._metrics, {}
        return taken


def _attempt(pipeline: Pipeline, task: Task, out: Path, board: Any) -> Outcome:
    """Runs on the cluster. The first sign of life says that the task is no longer queued."""
    board.write.remote(task.number, [])
    next_beat = 0.0

    def beat(metrics: list[StageMetrics]) -> None:
        nonlocal next_beat
        if time.monotonic() >= next_beat:
            board.write.remote(task.number, metrics)
            next_beat = time.monotonic() + BEAT_EVERY

    return run_task(pipeline, task, out, beat)


class _Run:
    """The tasks under way on the cluster."""

    def __init__(self, ray: Any, pipeline: Pipeline, out: Path, ledger: Ledger, workers: int, stall_seconds: float):
        self._ray = ray
        self._ledger = ledger
        self._workers = workers
        self._stall_seconds = stall_seconds
        self._out = out
        self._pipeline = ray.put(pipeline)
        self._board = ray.remote(num_cpus=0)(_Board).remote()
        self._attempt = ray.remote(num_cpus=1, max_retries=0)(_attempt)
        self._tasks: dict[Any, Task] = {}
        self._last_sign: dict[int, float] = {}

    def run(self) -> None:
        try:
            while not self._ledger.is_over:
                self._start()
                ended, _ = self._ray.wait(list(self._tasks), timeout=BEAT_EVERY)
                self._read_board()
                for reference in ended:
                    self._end(reference)
                self._stop_hanging()
                self._ledger.tell()
        finally:
            for reference in self._tasks:
                self._ray.cancel(reference, force=True)

    def _start(self) -> None:
        while self._ledger.waiting and len(self._tasks) < self._workers:
            task = self._ledger.take()
            self._tasks[self._attempt.remote(self._pipeline, task, self._out, self._board)] = task
            self._last_sign[task.number] = math.inf

    def _read_board(self) -> None:
        running = {task.number: task for task in self._tasks.values()}
        for number, metrics in self._ray.get(self._board.take.remote()).items():
            if task := running.get(number):
                self._last_sign[number] = time.monotonic()
                self._ledger.beat(task, metrics)

    def _end(self, reference: Any) -> None:
        task = self._tasks.pop(reference)
        try:
            self._ledger.end(task, self._ray.get(reference))
        except self._ray.exceptions.RayError as error:
            cause = str(getattr(error, "cause", None) or type(error).__name__).splitlines()[0]
            self._ledger.lost(task, f"its worker died or could not start ({cause})", str(error))

    def _stop_hanging(self) -> None:
        for reference, task in list(self._tasks.items()):
            silent = time.monotonic() - self._last_sign[task.number]
            if silent > self._stall_seconds:
                del self._tasks[reference]
                self._ray.cancel(reference, force=True)
                self._ledger.lost(task, f"its worker showed no progress for {silent:.0f} seconds and was killed")
