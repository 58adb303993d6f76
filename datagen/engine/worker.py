"""What runs inside a worker process of the local engine.

The worker keeps silent: what libraries print goes down a pipe to the supervisor, which keeps the last lines for the report. It
ignores Ctrl-C (the supervisor stops it) and ends by itself when the supervisor is gone.
"""

import os
import pickle
import signal
import threading
import time
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path

from lt.datagen.engine.plan import Task
from lt.datagen.engine.stage import Pipeline
from lt.datagen.engine.task import run_task
from lt.datagen.shards.manifest import StageMetrics

BEAT_EVERY = 0.2
"""Seconds between two signs of life, as long as samples move."""


def device_settings(device: str | None) -> dict[str, str]:
    """Environment variables that tell a process its device, see `models/nn/device.py`; none leave the choice to it."""
    return {"LT_DEVICE": device} if device else {}


def work(pickled_pipeline: bytes, out: Path, orders: Connection, noise: Connection) -> None:
    """Attempt the tasks that come through `orders` until None comes, and answer each with beats and an Outcome."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    for stream in (1, 2):
        os.dup2(noise.fileno(), stream)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    pipeline: Pipeline = pickle.loads(pickled_pipeline)  # only now: importing its modules may print
    orders.send("ready")
    while (task := orders.recv()) is not None:
        orders.send(run_task(pipeline, task, out, _Beats(orders, task)))


class _Beats:
    """Passes the metrics on, but not more often than every BEAT_EVERY seconds."""

    def __init__(self, orders: Connection, task: Task):
        self._orders = orders
        self._task = task
        self._next = 0.0

    def __call__(self, metrics: list[StageMetrics]) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._orders.send(metrics)
            self._next = now + BEAT_EVERY


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
