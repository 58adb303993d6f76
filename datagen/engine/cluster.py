"""The same tasks on a Ray cluster. Ray places and watches processes; what a task is and the books stay ours.

With RAY_ADDRESS set the tasks go to that cluster, otherwise a local one is started for the run. All machines need the same `lt`
and the output folder under the same path.
"""

import contextlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lt.datagen.engine.ledger import Ledger
from lt.datagen.engine.local import BEAT_EVERY, device_settings, now_and_then
from lt.datagen.engine.plan import Task, pipeline_code
from lt.datagen.engine.stage import Pipeline
from lt.datagen.engine.task import Outcome, run_task
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import StageMetrics


def run_on_ray(
    pipeline: Pipeline, out: Path, ledger: Ledger, seats: Sequence[str | None], stall_seconds: float
) -> None:
    """Attempt all tasks of `ledger` on a Ray cluster, with one actor a seat.

    Args:
        seats: the device of each worker. Of an accelerator only the kind counts: Ray gives the actor one of the cluster's GPUs
            and hides the others from it.

    Raises:
        LtError: Ray is not installed.
        OutputError: nothing more can be written.
    """
    with _cluster(len(seats)) as ray:
        _Run(ray, pipeline, out, ledger, seats, stall_seconds).run()


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


class _Worker:
    """An actor that attempts tasks, one at a time."""

    def attempt(self, pipeline: Pipeline, task: Task, out: Path, board: Any) -> Outcome:
        """The first sign of life says that the task is no longer queued."""
        pipeline_code(pipeline)  # it is kept: no task has to wait for it
        board.write.remote(task.number, [])
        return run_task(pipeline, task, out, now_and_then(partial(board.write.remote, task.number)))


@dataclass
class _Attempt:
    """A task under way: who works on it, at which seat, and when it last gave a sign of life."""

    task: Task
    seat: str | None
    worker: Any
    last_sign: float = math.inf


class _Run:
    """The tasks under way on the cluster."""

    def __init__(
        self, ray: Any, pipeline: Pipeline, out: Path, ledger: Ledger, seats: Sequence[str | None], stall_seconds: float
    ):
        self._ray = ray
        self._ledger = ledger
        self._stall_seconds = stall_seconds
        self._out = out
        self._pipeline = ray.put(pipeline)
        self._board = ray.remote(num_cpus=0)(_Board).remote()
        self._free: deque[tuple[str | None, Any]] = deque((seat, None) for seat in seats)
        self._attempts: dict[Any, _Attempt] = {}

    def run(self) -> None:
        try:
            while not self._ledger.is_over:
                self._start()
                ended, _ = self._ray.wait(list(self._attempts), timeout=BEAT_EVERY)
                self._read_board()
                for reference in ended:
                    self._end(reference)
                self._stop_hanging()
                self._ledger.tell()
        finally:
            for attempt in self._attempts.values():
                self._ray.kill(attempt.worker)
            self._dismiss()

    def _hire(self, seat: str | None) -> Any:
        kind = seat.partition(":")[0] if seat else None
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": 0 if kind in (None, "cpu") else 1}
        if kind:
            options["runtime_env"] = {"env_vars": device_settings(kind)}
        return self._ray.remote(**options)(_Worker).remote()

    def _start(self) -> None:
        while self._ledger.waiting and self._free:
            seat, worker = self._free.popleft()
            worker = worker or self._hire(seat)
            task = self._ledger.take()
            reference = worker.attempt.remote(self._pipeline, task, self._out, self._board)
            self._attempts[reference] = _Attempt(task, seat, worker)
        if not self._ledger.waiting:
            self._dismiss()

    def _dismiss(self) -> None:
        """End the idle workers: where the cluster is smaller than the crew, others wait for what they hold."""
        for _, worker in self._free:
            if worker is not None:
                self._ray.kill(worker)
        self._free = deque((seat, None) for seat, _ in self._free)

    def _read_board(self) -> None:
        running = {attempt.task.number: attempt for attempt in self._attempts.values()}
        for number, metrics in self._ray.get(self._board.take.remote()).items():
            if attempt := running.get(number):
                attempt.last_sign = time.monotonic()
                self._ledger.beat(attempt.task, metrics)

    def _end(self, reference: Any) -> None:
        attempt = self._attempts.pop(reference)
        try:
            self._ledger.end(attempt.task, self._ray.get(reference))
            self._free.append((attempt.seat, attempt.worker))
        except self._ray.exceptions.RayError as error:
            cause = str(getattr(error, "cause", None) or type(error).__name__).splitlines()[0]
            self._lose(attempt, f"its worker died or could not start ({cause})", str(error))

    def _stop_hanging(self) -> None:
        for reference, attempt in list(self._attempts.items()):
            silent = time.monotonic() - attempt.last_sign
            if silent > self._stall_seconds:
                del self._attempts[reference]
                self._lose(attempt, f"its worker showed no progress for {silent:.0f} seconds and was killed")

    def _lose(self, attempt: _Attempt, why: str, trace: str = "") -> None:
        self._ray.kill(attempt.worker)
        self._free.append((attempt.seat, None))
        self._ledger.lost(attempt.task, why, trace)
