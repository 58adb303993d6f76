"""The local engine: tasks on worker processes, supervised.

Workers are spawned, not forked, so that they start clean (CUDA and threads do not survive a fork). One dead or hanging worker
costs its task one retry and nothing else. Even `workers=1` uses a process: a crash in a C library, a hang or a Ctrl-C then never
takes the run's books with it. `workers=0` runs in this process, for debuggers and for stages that cannot be imported.

A worker keeps silent: what libraries print goes down a pipe to the supervisor, which keeps the last lines for the report. It
ignores Ctrl-C (the supervisor stops it) and ends by itself when the supervisor is gone.

Every worker computes with one thread unless OMP_NUM_THREADS says otherwise: processes already use the cores, and sums over
threads would make the bytes depend on the machine.

The supervision is ours: pools (concurrent.futures, loky, pebble) know a limit for a whole task, not "no sample has moved for so
long"; their workers share a pipe, which one killed in the middle of a word spoils for all, and have no device of their own.
"""

import contextlib
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lt.datagen.engine.ledger import Ledger
from lt.datagen.engine.plan import Task, pipeline_code
from lt.datagen.engine.stage import Pipeline
from lt.datagen.engine.task import Beat, Outcome, run_task
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import StageMetrics

BEAT_EVERY = 0.2
"""Seconds between two signs of life of a worker, as long as samples move."""
_TICK = 0.2  # seconds between two looks at the clock
_TAIL = 4096  # bytes of a worker's output that are kept
_FAILED_STARTS = 3
_START = 120.0  # seconds that a worker may at least take to import what it needs
_PATIENCE = 5.0  # seconds for a worker to end by itself when all is done
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def run_here(pipeline: Pipeline, out: Path, ledger: Ledger, device: str | None) -> None:
    """Attempt all tasks of `ledger` in this process, one after the other. Raises OutputError if nothing more can be written."""
    with _environment(device_settings(device)):
        while ledger.waiting:
            task = ledger.take()
            ledger.end(task, run_task(pipeline, task, out, lambda metrics, task=task: ledger.beat(task, metrics)))


def run_local(pipeline: Pipeline, out: Path, ledger: Ledger, seats: Sequence[str | None], stall_seconds: float) -> None:
    """Attempt all tasks of `ledger` with one process a seat.

    Args:
        seats: the device of each process; None leaves the choice to it.

    Raises:
        LtError: the pipeline cannot be sent to workers, or they cannot start.
        OutputError: nothing more can be written.
    """
    crew = _Crew(pipeline, out, ledger, seats, stall_seconds)
    try:
        crew.run()
    except BaseException:
        crew.end(kill=True)
        raise
    crew.end()


class _Worker:
    """A process and the two pipes to it, as its supervisor sees it."""

    def __init__(self, pickled_pipeline: bytes, out: Path, device: str | None):
        self.device = device
        context = get_context("spawn")
        self.orders, its_orders = context.Pipe()
        self.noise, its_noise = context.Pipe(duplex=False)
        self.task: Task | None = None
        self.is_ready = False
        self.last_sign = time.monotonic()
        self._tail = b""
        self.process = context.Process(
            target=work, args=(pickled_pipeline, out, its_orders, its_noise), name="lt-worker"
        )
        with _child_settings(device):
            self.process.start()
        its_orders.close()
        its_noise.close()

    @property
    def handles(self) -> list[Connection | int]:
        return [self.orders, self.process.sentinel] + ([] if self.noise.closed else [self.noise])

    def give(self, task: Task | None) -> None:
        """A task to attempt, or None: there is nothing more to do."""
        self.task = task
        self.last_sign = time.monotonic()
        with contextlib.suppress(OSError):  # it has just died: the next look at it notices
            self.orders.send(task)

    def messages(self) -> Iterator[object]:
        """What the worker has sent since the last call."""
        with contextlib.suppress(EOFError, OSError):
            while self.orders.poll():
                message = self.orders.recv()
                self.last_sign = time.monotonic()
                yield message

    def hear(self) -> None:
        """Read what the worker's libraries printed; only the last bytes are kept."""
        while not self.noise.closed and self.noise.poll():
            data = os.read(self.noise.fileno(), 65536)
            self._tail = (self._tail + data)[-_TAIL:]
            if not data:
                self.noise.close()

    @property
    def last_words(self) -> str:
        self.hear()
        return self._tail.decode("utf-8", "replace").strip()

    def end(self, patience: float = 0.0) -> None:
        """Kill the process if it does not end by itself within `patience` seconds."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self.orders.close()
        self.noise.close()


class _Crew:
    """The workers of one run."""

    def __init__(
        self, pipeline: Pipeline, out: Path, ledger: Ledger, seats: Sequence[str | None], stall_seconds: float
    ):
        self._pickled = _pickled(pipeline)
        self._out = out
        self._ledger = ledger
        self._free = deque(seats)
        self._stall_seconds = stall_seconds
        self._workers: list[_Worker] = []
        self._failed_starts = 0

    def run(self) -> None:
        while not self._ledger.is_over:
            self._hire()
            for worker in self._workers:
                if worker.is_ready and worker.task is None and self._ledger.waiting:
                    worker.give(self._ledger.take())
            wait([handle for worker in self._workers for handle in worker.handles], _TICK)
            for worker in list(self._workers):
                self._look_at(worker)
            self._ledger.tell()

    def end(self, kill: bool = False) -> None:
        for worker in self._workers:
            worker.process.kill() if kill else worker.give(None)
        for worker in self._workers:
            worker.end(patience=_PATIENCE if worker.is_ready else 0.0)

    def _hire(self) -> None:
        busy = sum(worker.task is not None for worker in self._workers)
        while self._free and len(self._workers) < busy + self._ledger.waiting:
            self._workers.append(_Worker(self._pickled, self._out, self._free.popleft()))

    def _look_at(self, worker: _Worker) -> None:
        worker.hear()
        is_alive = worker.process.is_alive()  # before the messages: what it sent before it died must not be missed
        for message in worker.messages():
            self._take(worker, message)
        silent = time.monotonic() - worker.last_sign
        if not is_alive:
            self._lose(worker, f"its worker died ({_cause_of_death(worker.process.exitcode)})")
        elif silent > max(self._stall_seconds, 0 if worker.is_ready else _START) and (
            worker.task or not worker.is_ready
        ):
            self._lose(worker, f"its worker showed no progress for {silent:.0f} seconds and was killed")

    def _take(self, worker: _Worker, message: object) -> None:
        if message == "ready":
            worker.is_ready, self._failed_starts = True, 0
        elif isinstance(message, Outcome):
            assert worker.task is not None
            task, worker.task = worker.task, None
            self._ledger.end(task, message)
        elif worker.task is not None and isinstance(message, list):
            self._ledger.beat(worker.task, message)

    def _lose(self, worker: _Worker, why: str) -> None:
        self._workers.remove(worker)
        self._free.append(worker.device)
        words = worker.last_words
        worker.end()
        if worker.task is not None:
            self._ledger.lost(worker.task, why, words)
        elif not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise LtError(
                    f"A worker process cannot start: {why.removeprefix('its ')}.\n{words}".rstrip(),
                    "Sources and stages must be importable; --workers 0 runs without worker processes.",
                )


def _pickled(pipeline: Pipeline) -> bytes:
    try:
        return pickle.dumps(pipeline)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LtError(
            f"Pipeline {pipeline.name} cannot be sent to worker processes: {error}.",
            "Define sources and stages at the top level of a module, or use --workers 0.",
        ) from error


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-exitcode).name + (", perhaps for lack of memory" if exitcode == -9 else "")
    return f"exit code {exitcode}"


@contextlib.contextmanager
def _child_settings(device: str | None) -> Iterator[None]:
    """Processes started inside compute with one thread, on `device`, and see no Ctrl-C before they have learned to ignore it."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        threads = {name: one for name, one in _ONE_THREAD.items() if name not in os.environ}
        with _environment(threads | device_settings(device)):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def device_settings(device: str | None) -> dict[str, str]:
    """Environment variables that tell a process its device, see `models/nn/device.py`; none leave the choice to it."""
    return {"LT_DEVICE": device} if device else {}


# Inside a worker process


def work(pickled_pipeline: bytes, out: Path, orders: Connection, noise: Connection) -> None:
    """Attempt the tasks that come through `orders` until None comes, and answer each with beats and an Outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for stream in (1, 2):
        os.dup2(noise.fileno(), stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipeline: Pipeline = pickle.loads(pickled_pipeline)  # only now: importing its modules may print
    pipeline_code(pipeline)  # it is kept: no task has to wait for it
    orders.send("ready")
    while (task := orders.recv()) is not None:
        orders.send(run_task(pipeline, task, out, now_and_then(orders.send)))


def now_and_then(send: Beat) -> Beat:
    """Passes the metrics on to `send`, but not more often than every BEAT_EVERY seconds."""
    due = 0.0

    def beat(metrics: list[StageMetrics]) -> None:
        nonlocal due
        if time.monotonic() >= due:
            send(metrics)
            due = time.monotonic() + BEAT_EVERY

    return beat


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
