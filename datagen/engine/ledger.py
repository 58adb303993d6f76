"""The books of a run: which tasks wait, run, are done or have failed, and what the live table shows. Shared by all engines."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lt.datagen.engine.plan import Task
from lt.datagen.engine.task import Held, Outcome
from lt.datagen.shards.errors import OutputError
from lt.datagen.shards.manifest import StageMetrics, add_stage_metrics

ATTEMPTS = 2
"""A task whose worker dies or hangs, or which raises, gets one retry; where a sample ended both, the next goes without it."""
_MOST_LOST = 10  # samples of a task, before it is given up
_TELL_EVERY = 0.2  # seconds


class FailedTask(BaseModel):
    """A task that was given up, and why. `trace` is the traceback, or the last lines that its worker printed."""

    model_config = ConfigDict(extra="forbid")
    task: int
    error: str
    hint: str = ""
    trace: str = ""


@dataclass
class RunState:
    """A moment of a run. `stages` are the metrics of this run only, with those of the tasks that are under way.

    `tasks` = all; `resumed` = those that an earlier run had finished; `done` = those that this run has finished.
    """

    pipeline: str
    tasks: int
    resumed: int
    done: int = 0
    running: int = 0
    failed: list[FailedTask] = field(default_factory=list)
    stages: list[StageMetrics] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated from the tasks finished so far; None before the first."""
        ended = self.done + len(self.failed)
        return self.seconds / ended * (self.tasks - self.resumed - ended) if ended else None


class Ledger:
    """Hands out tasks and takes in what became of them.

    Args:
        tasks: what is to be done in this run.
        out: where their shards are written.
        state: kept up to date here, and passed to `on_progress` at most five times a second.
    """

    def __init__(
        self, tasks: list[Task], out: Path, state: RunState, on_progress: Callable[[RunState], None] | None = None
    ):
        self.state = state
        self._out = out
        self._held: dict[int, list[str]] = {}
        self._waiting = deque(tasks)
        self._attempts: dict[int, int] = {}
        self._running: dict[int, list[StageMetrics]] = {}
        self._finished: list[StageMetrics] = []
        self._on_progress = on_progress
        self._start = time.perf_counter()
        self._told = 0.0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_over(self) -> bool:
        return not self._waiting and not self._running

    def take(self) -> Task:
        """The next task to attempt."""
        task = self._waiting.popleft()
        self._attempts[task.number] = self._attempts.get(task.number, 0) + 1
        self._running[task.number] = []
        return task

    def beat(self, task: Task, metrics: list[StageMetrics]) -> None:
        self._running[task.number] = metrics
        self.tell()

    def end(self, task: Task, outcome: Outcome) -> None:
        """Book the end of an attempt: done, retried or given up. Raises OutputError if nothing more can be written."""
        del self._running[task.number]
        if outcome.kind == "fatal":
            raise OutputError(outcome.error, outcome.hint)
        if outcome.kind == "done":
            self.state.done += 1
            self._finished = add_stage_metrics(self._finished, outcome.metrics)
        elif outcome.kind == "failed" and self._attempts[task.number] < ATTEMPTS:
            self._waiting.append(task)
        else:
            self.state.failed.append(
                FailedTask(task=task.number, error=outcome.error, hint=outcome.hint, trace=outcome.trace)
            )
        self.tell(now=True)

    def lost(self, task: Task, why: str, trace: str = "") -> None:
        """Book an attempt whose worker died or was killed. Samples that it held both times are left out of the next attempt."""
        held, before = Held.of_dead(self._out, task), self._held.get(task.number)
        self._held[task.number] = held
        if held and held == before and len(task.lost) + len(held) <= _MOST_LOST:
            self._attempts[task.number] = 0
            task = replace(task, lost=task.lost | dict.fromkeys(held, f"twice at this sample, {why}"))
        self.end(
            task, Outcome(task.number, "failed", error=why + (f" at {', '.join(held)}" if held else ""), trace=trace)
        )

    def tell(self, now: bool = False) -> None:
        """Pass the state on, if it is time."""
        moment = time.perf_counter()
        if self._on_progress is None or (not now and moment - self._told < _TELL_EVERY):
            return
        self._told = moment
        self._on_progress(self.snapshot())

    def snapshot(self) -> RunState:
        """The state with this moment's metrics."""
        stages = self._finished
        for metrics in self._running.values():
            stages = add_stage_metrics(stages, metrics)
        self.state.stages = stages
        self.state.running = len(self._running)
        self.state.seconds = time.perf_counter() - self._start
        return self.state
