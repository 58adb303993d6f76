"""Run one task: read a split, pass its samples through the stages, write the shard. The same for every engine.

Every step is metered: what it kept and rejected, its own seconds (without those of the steps before it) and how many of them
were spent inside models. Each sample carries in `json.lineage` one entry for each step that it passed.

A bad sample costs no other. What a step raises at one becomes its reject; where that was not foreseen, the traceback goes into a
log beside the shard. A step that raises at every sample is broken itself, and its task fails. Which samples are under way stands
in a file, for the case that one of them ends the process.
"""

import contextlib
import io
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, cast

from lt.datagen.engine.code import code_version
from lt.datagen.engine.plan import WRITE, Task, pipeline_code
from lt.datagen.engine.stage import (
    UNFORESEEN,
    Pipeline,
    SampleSource,
    Source,
    Stage,
    attempt,
    log,
    model_seconds,
    reject_for,
    stage_digest,
)
from lt.datagen.shards import LtError, Reject, Sample, SampleError, ShardWriter
from lt.datagen.shards.errors import OutputError
from lt.datagen.shards.manifest import Sidecar, StageMetrics, shard_name
from lt.datagen.shards.storage import TEMP_MARK, atomic_file, digest_of

Beat = Callable[[list[StageMetrics]], None]
_MOST_BROKEN = 10  # samples at which a step raises, none let through, before it is taken to be broken


class BrokenStep(Exception):
    """A step that has raised at every sample."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a task ended. `done`; `failed`: may work the second time; `refused`: an error for people, would come
    again; `fatal`: nothing more can be written, so the run stops."""

    task: int
    kind: Literal["done", "failed", "refused", "fatal"]
    metrics: list[StageMetrics] = field(default_factory=list)
    error: str = ""
    hint: str = ""
    trace: str = ""


def run_task(pipeline: Pipeline, task: Task, out: Path, beat: Beat) -> Outcome:
    """Make the shard of one task; errors come back as the outcome. `beat` is called with the metrics after every sample."""
    with _logged() as logged:
        try:
            return Outcome(task.number, "done", make_shard(pipeline, task, out, beat, logged).stages)
        except OutputError as error:
            return Outcome(task.number, "fatal", error=error.message, hint=error.hint)
        except LtError as error:
            return Outcome(task.number, "refused", error=error.message, hint=error.hint)
        except BrokenStep as error:
            return Outcome(task.number, "failed", error=str(error), trace=logged.getvalue().strip())
        except Exception as error:
            return Outcome(
                task.number, "failed", error=f"{type(error).__name__}: {error}", trace=traceback.format_exc()
            )


@contextlib.contextmanager
def _logged() -> Iterator[io.StringIO]:
    """What is logged about samples inside the block."""
    handler = logging.StreamHandler(text := io.StringIO())
    log.addHandler(handler)
    try:
        yield text
    finally:
        log.removeHandler(handler)


def make_shard(pipeline: Pipeline, task: Task, out: Path, beat: Beat, logged: io.StringIO) -> Sidecar:
    """Read, process and write one split; what was `logged` about its samples is written beside the shard.

    Raises:
        OutputError: the disk refuses.
        BrokenStep: a step raised at every sample.
        LtError: this process has other code than the one that planned the run, or a step has a message for people.
    """
    if pipeline_code(pipeline) != task.code:
        raise LtError(
            f"The code of {pipeline.name} is not the one that this run began with.", "Leave it alone, and start again."
        )
    path = out / shard_name(task.number)
    with ShardWriter(path, task=task.digest) as writer, Held(out, task) as held:
        meters: list[Meter] = []
        written = StageMetrics(name=WRITE)

        def report() -> None:
            beat([*(meter.metrics for meter in meters), written])

        def reject(item: Reject, step: str) -> None:
            writer.reject(item, stage=step)
            held.settle(item.key)
            report()

        meters.append(Meter(pipeline.source, None, reject, _source_items(pipeline.source, task, held)))
        for stage in pipeline.stages:
            meters.append(Meter(stage, meters[-1], reject))
        for sample in meters[-1]:
            start = time.perf_counter()
            count_write(writer, sample, written)
            written.seconds += time.perf_counter() - start
            held.settle(sample.key)
            report()
        writer.stages = [*(meter.metrics for meter in meters), written]
        _write_log(writer, logged.getvalue())
    assert writer.sidecar is not None
    return writer.sidecar


def count_write(writer: ShardWriter, sample: Sample, metrics: StageMetrics) -> None:
    """Write `sample` and count it as kept, or as rejected under the writer's reason."""
    try:
        is_written = writer.write(sample)
    except Exception as error:
        writer.reject(reject_for(error, sample), stage=WRITE)
        is_written = False
    if is_written:
        metrics.kept += 1
    else:
        _count(metrics.rejected, writer.rejects[-1].reason)


def _write_log(writer: ShardWriter, text: str) -> None:
    """Keep the tracebacks beside the shard, where its rejects say so."""
    path = writer.path.with_suffix(".log")
    for reject in writer.rejects:
        if reject.reason == UNFORESEEN:
            reject.detail += f" (see {path.name})"
    if text:
        with atomic_file(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    else:
        path.unlink(missing_ok=True)


class Held:
    """The keys of the samples that a task is at, kept in a file that outlives its worker."""

    def __init__(self, out: Path, task: Task):
        self._path = Held._place(out, task)
        self._keys: list[str] = []

    @staticmethod
    def _place(out: Path, task: Task) -> Path:
        return out / f"{shard_name(task.number)}{TEMP_MARK}held"

    @staticmethod
    def of_dead(out: Path, task: Task) -> list[str]:
        """What the dead worker of a task was at."""
        try:
            return Held._place(out, task).read_text("utf-8", "replace").split("\n")[:-1]
        except OSError:
            return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def take(self, key: str) -> None:
        self._keys.append(key)
        self._write()

    def settle(self, key: str) -> None:
        """A sample was written or rejected: it is done with, and so are those before it. One of another key stands for all."""
        self._keys = self._keys[self._keys.index(key) + 1 :] if key in self._keys else []
        self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is for the shard to tell
            self._path.write_text("".join(f"{key}\n" for key in self._keys), "utf-8", "replace")


def _source_items(source: Source, task: Task, held: Held) -> Iterator[Sample | Reject]:
    """What the source reads. After a SampleError that escapes it the split cannot go on; it is counted as one reject."""
    try:
        items = source.items(task.split) if isinstance(source, SampleSource) else _read_at_once(source, task)
        for known, read in items:
            if known.key in task.lost:
                yield Reject.of(known, "worker-died", detail=task.lost[known.key])
            else:
                held.take(known.key)
                yield attempt(known, read)
    except SampleError as error:
        detail = f"{error.detail} (the rest of this split was not read)".lstrip()
        yield Reject(f"{source.name}-split-{task.number:06d}", error.reason, detail, error.figure)


def _read_at_once(source: Source, task: Task) -> Iterator[tuple[Sample, Callable[[], Sample | Reject]]]:
    for item in source.read(task.split):
        yield (item if isinstance(item, Sample) else Sample(item.key)), lambda item=item: item


class Meter(Iterator[Sample]):
    """The samples that a step lets through; its rejects are counted and handed to `on_reject`.

    Args:
        upstream: the meter that feeds the step; its time is taken off.
        items: what a source yields.

    Raises:
        BrokenStep: the step has raised at all of several samples.
    """

    def __init__(
        self,
        step: Source | Stage,
        upstream: "Meter | None",
        on_reject: Callable[[Reject, str], None],
        items: Iterator[Sample | Reject] | None = None,
    ):
        self._step = step
        self._upstream = upstream
        self._items = self._through(step) if items is None else items
        self._taken: list[Sample] = []
        self._is_cut_off = False
        self._on_reject = on_reject
        self._entry = lineage_entry(step)
        self._metrics = StageMetrics(name=step.name)
        self.seconds = 0.0
        self.model_seconds = 0.0

    @property
    def metrics(self) -> StageMetrics:
        """The step's metrics up to now, with its own time only."""
        before, model_before = (self._upstream.seconds, self._upstream.model_seconds) if self._upstream else (0.0, 0.0)
        self._metrics.seconds = max(0.0, self.seconds - before)
        self._metrics.model_seconds = max(0.0, self.model_seconds - model_before)
        return self._metrics

    def __next__(self) -> Sample:
        while True:
            try:
                item = self._pull()
            except StopIteration:
                self._check(at_least=2)
                raise
            self._taken.clear()
            if isinstance(item, Sample):
                self._metrics.kept += 1
                return item
            if not isinstance(item, Reject):
                raise TypeError(f"stage {self._step.name!r} yielded a {type(item).__name__}, want Sample or Reject")
            _count(self._metrics.rejected, item.reason)
            self._on_reject(item, self._step.name)
            if item.reason == UNFORESEEN:
                self._trouble = f"{item.key}: {item.detail}"
                self._check(_MOST_BROKEN)

    def _check(self, at_least: int) -> None:
        """Raises BrokenStep where the step has let nothing through, and raised at all samples, `at_least` so many."""
        broken = self._metrics.rejected.get(UNFORESEEN, 0)
        if not self._metrics.kept and broken >= at_least and broken == sum(self._metrics.rejected.values()):
            raise BrokenStep(
                f"{self._step.name} raised at every sample, {broken} of them; the last was {self._trouble}"
            )

    def _through(self, stage: Any) -> Iterator[Sample | Reject]:
        """What a stage yields. Where it raises, the samples that it had taken go through it one by one, then the rest."""
        while True:
            try:
                yield from stage(self._feed())
                return
            except Exception as error:
                taken = self._taken.copy()
                if self._is_cut_off or not taken or isinstance(error, LtError):
                    raise
                if len(taken) == 1:
                    yield reject_for(error, taken[0])
                    continue
            for sample in taken:
                try:
                    yield from stage(iter([sample]))
                except Exception as error:
                    yield reject_for(error, sample)

    def _feed(self) -> Iterator[Sample]:
        assert self._upstream is not None
        self._is_cut_off = True  # what is raised there is not the stage's
        for sample in self._upstream:
            self._is_cut_off = False
            self._taken.append(sample)
            yield sample
            self._is_cut_off = True
        self._is_cut_off = False

    def _pull(self) -> Sample | Reject:
        start, model_start = time.perf_counter(), model_seconds()
        try:
            item = next(self._items)
            return self._with_lineage(item) if isinstance(item, Sample) else item
        finally:
            self.seconds += time.perf_counter() - start
            self.model_seconds += model_seconds() - model_start

    def _with_lineage(self, sample: Sample) -> Sample | Reject:
        try:
            lineage = sample.meta.setdefault("lineage", [])
            if not isinstance(lineage, list):
                raise SampleError("invalid-lineage", f"json.lineage is a {type(lineage).__name__}, want a list")
            more = getattr(self._step, "lineage", None)
            lineage.append(self._entry | (more(sample) if more else {}))
        except Exception as error:
            return reject_for(error, Sample(sample.key))
        return sample


def lineage_entry(step: Source | Stage) -> dict[str, Any]:
    """What every sample that passes `step` carries: stage, digest of the settings, code version, and the seed if it has one."""
    if hasattr(step, "splits"):
        params = digest_of([step.name, cast(Source, step).settings()])[:12]
    else:
        params = stage_digest(cast(Stage, step))
    entry: dict[str, Any] = {"stage": step.name, "params": params, "code": code_version(step)}
    seed = getattr(step, "seed", None)
    return entry | ({"seed": seed} if isinstance(seed, int) else {})


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1
