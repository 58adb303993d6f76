"""Run one task: read a split, pass its samples through the stages, write the shard. The same for every engine.

Every step is metered: what it kept and rejected, its own seconds (without those of the steps before it) and how many of them
were spent inside models. Each sample carries in `json.lineage` one entry for each step that it passed.
"""

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lt.datagen.engine.code import code_version
from lt.datagen.engine.plan import WRITE, Task, pipeline_code
from lt.datagen.engine.stage import Pipeline, Source, Stage, model_seconds, stage_digest
from lt.datagen.shards import LtError, Reject, Sample, SampleError, ShardWriter
from lt.datagen.shards.errors import OutputError
from lt.datagen.shards.manifest import Sidecar, StageMetrics, shard_name
from lt.datagen.shards.storage import digest_of

Beat = Callable[[list[StageMetrics]], None]


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
    try:
        return Outcome(task.number, "done", make_shard(pipeline, task, out, beat).stages)
    except OutputError as error:
        return Outcome(task.number, "fatal", error=error.message, hint=error.hint)
    except LtError as error:
        return Outcome(task.number, "refused", error=error.message, hint=error.hint)
    except Exception as error:
        return Outcome(task.number, "failed", error=f"{type(error).__name__}: {error}", trace=traceback.format_exc())


def make_shard(pipeline: Pipeline, task: Task, out: Path, beat: Beat) -> Sidecar:
    """Read, process and write one split.

    Raises:
        OutputError: the disk refuses.
        LtError: this process has other code than the one that planned the run. Whatever stages raise passes through.
    """
    if pipeline_code(pipeline) != task.code:
        raise LtError(
            f"The code of {pipeline.name} is not the one that this run began with.", "Leave it alone, and start again."
        )
    with ShardWriter(out / shard_name(task.number), task=task.digest) as writer:
        meters: list[Meter] = []
        written = StageMetrics(name=WRITE)

        def report() -> None:
            beat([*(meter.metrics for meter in meters), written])

        def reject(item: Reject, step: str) -> None:
            writer.reject(item, stage=step)
            report()

        meters.append(Meter(pipeline.source, _source_items(pipeline.source, task), None, reject))
        for stage in pipeline.stages:
            meters.append(Meter(stage, stage(meters[-1]), meters[-1], reject))
        for sample in meters[-1]:
            start = time.perf_counter()
            count_write(writer, sample, written)
            written.seconds += time.perf_counter() - start
            report()
        writer.stages = [*(meter.metrics for meter in meters), written]
    assert writer.sidecar is not None
    return writer.sidecar


def count_write(writer: ShardWriter, sample: Sample, metrics: StageMetrics) -> None:
    """Write `sample` and count it as kept, or as rejected under the writer's reason."""
    if writer.write(sample):
        metrics.kept += 1
    else:
        _count(metrics.rejected, writer.rejects[-1].reason)


def _source_items(source: Source, task: Task) -> Iterator[Sample | Reject]:
    """What the source reads. A SampleError ends the split (a generator cannot go on after it) and is counted as one reject."""
    try:
        yield from source.read(task.split)
    except SampleError as error:
        detail = f"{error.detail} (the rest of this split was not read)".lstrip()
        yield Reject(f"{source.name}-split-{task.number:06d}", error.reason, detail, error.figure)


class Meter(Iterator[Sample]):
    """The samples that a step lets through; its rejects are counted and handed to `on_reject`.

    Args:
        items: what the step yields.
        upstream: the meter that feeds the step; its time is taken off.
    """

    def __init__(
        self,
        step: Source | Stage,
        items: Iterator[Sample | Reject],
        upstream: "Meter | None",
        on_reject: Callable[[Reject, str], None],
    ):
        self._step = step
        self._items = iter(items)
        self._upstream = upstream
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
            item = self._pull()
            if isinstance(item, Sample):
                self._metrics.kept += 1
                return item
            if not isinstance(item, Reject):
                raise TypeError(f"stage {self._step.name!r} yielded a {type(item).__name__}, want Sample or Reject")
            _count(self._metrics.rejected, item.reason)
            self._on_reject(item, self._step.name)

    def _pull(self) -> Sample | Reject:
        start, model_start = time.perf_counter(), model_seconds()
        try:
            item = next(self._items)
            return self._with_lineage(item) if isinstance(item, Sample) else item
        except SampleError as error:
            raise RuntimeError(
                f"stage {self._step.name!r} let a SampleError escape ({error}), which would lose the samples after it: "
                "it must yield a Reject instead"
            ) from error
        finally:
            self.seconds += time.perf_counter() - start
            self.model_seconds += model_seconds() - model_start

    def _with_lineage(self, sample: Sample) -> Sample | Reject:
        try:
            lineage = sample.meta.setdefault("lineage", [])
            if not isinstance(lineage, list):
                raise SampleError("invalid-lineage", f"json.lineage is a {type(lineage).__name__}, want a list")
        except SampleError as error:
            return Reject(sample.key, error.reason, error.detail, error.figure)
        more = getattr(self._step, "lineage", None)
        lineage.append(self._entry | (more(sample) if more else {}))
        return sample


def lineage_entry(step: Source | Stage) -> dict[str, Any]:
    """What every sample that passes `step` carries: stage, digest of the settings, code version, and the seed if it has one."""
    params = digest_of([step.name, step.settings()])[:12] if isinstance(step, Source) else stage_digest(step)
    entry: dict[str, Any] = {"stage": step.name, "params": params, "code": code_version(step)}
    seed = getattr(step, "seed", None)
    return entry | ({"seed": seed} if isinstance(seed, int) else {})


def _count(counts: dict[str, int], reason: str) -> None:
    counts[reason] = counts.get(reason, 0) + 1
