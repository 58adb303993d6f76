"""Run a pipeline into a folder of shards: plan, lock, do what is missing, close the books.

    report = run_pipeline(Pipeline("scenes", Scenes(count=1000)), Path("data/scenes"), workers=2)

The same call again continues what was interrupted and does nothing when all is there; a call with other settings is refused.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from lt.datagen.engine.finish import close_books
from lt.datagen.engine.ledger import FailedTask, Ledger, RunState
from lt.datagen.engine.local import run_here, run_local
from lt.datagen.engine.lock import directory_lock
from lt.datagen.engine.plan import Plan, Task, differences, make_plan
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.errors import LtError, ShardError, UsageError
from lt.datagen.shards.manifest import MANIFEST, Manifest, Sidecar, StageMetrics, rejects_beside, shard_name
from lt.datagen.shards.storage import TEMP_MARK

ENGINES = ("local", "ray")


class RunReport(BaseModel):
    """What a run did. `count`, `shards`, `bytes` and `rejected` are the folder's, 0 until it is complete; `stages` and
    `seconds` are this run's only. `tasks` = `resumed` (finished before) + `done` (by this run) + the failed ones."""

    model_config = ConfigDict(extra="forbid")
    pipeline: str
    out: str
    complete: bool
    tasks: int
    resumed: int
    done: int
    failed: list[FailedTask]
    count: int
    shards: int
    bytes: int
    rejected: dict[str, int]
    stages: list[StageMetrics]
    seconds: float

    @property
    def nothing_to_do(self) -> bool:
        return self.complete and self.done == 0

    @property
    def exit_code(self) -> int:
        return 0 if self.complete else 1


def run_pipeline(
    pipeline: Pipeline,
    out: str | Path,
    *,
    workers: int = 1,
    engine: str = "local",
    devices: Sequence[str] | None = None,
    on_progress: Callable[[RunState], None] | None = None,
    stall_seconds: float = 600,
    wait: bool = False,
) -> RunReport:
    """Make the shards of `pipeline` in the folder `out`.

    Args:
        workers: processes; 0 runs in this one (local engine, at most one device).
        engine: `local` or `ray`.
        devices: such as ("cuda:0", "cuda:1"): the workers, at least one a device, are dealt one each. On Ray the cluster says
            which: `cuda:0` and `cuda:1` stand for two workers with a GPU each. None: every process chooses by itself.
        on_progress: called a few times a second with the state of the run.
        stall_seconds: a worker whose samples do not move for so long is killed.
        wait: for another run that holds the folder, instead of refusing; what it has made is not made again.

    Raises:
        LtError: another run holds the folder, it holds other data, the disk is full, a package is missing ...
            Tasks that fail by themselves do not raise: they are in the report, whose `exit_code` is then 1.
    """
    if engine not in ENGINES:
        raise UsageError(f"Unknown engine {engine!r}.", f"Known: {', '.join(ENGINES)}.")
    if workers < 0:
        raise UsageError(f"workers is {workers}, want 0 or more.")
    out = Path(out).absolute()
    start = time.perf_counter()
    plan = make_plan(pipeline)
    if manifest := _complete_manifest(plan, out):
        return _report(plan, out, RunState(pipeline.name, len(plan.tasks), len(plan.tasks)), manifest, start)
    with directory_lock(out, wait):
        refuse_other_data(plan, out)
        sweep(out)
        todo = [task for task in plan.tasks if not is_finished(task, out)]
        state = RunState(pipeline.name, len(plan.tasks), len(plan.tasks) - len(todo))
        plan.manifest().save(out / MANIFEST)
        ledger = Ledger(todo, out, state, on_progress)
        try:
            _run_tasks(pipeline, out, ledger, workers, devices or [None], engine, stall_seconds)
        finally:
            sweep(out)
        manifest = plan.manifest() if state.failed else close_books(plan, out)
        return _report(plan, out, ledger.snapshot(), manifest, start)


def is_finished(task: Task, out: Path) -> bool:
    """Whether an earlier run made this task's shard: the right task digest, a tar of the right size, the rejects.

    The bytes themselves are for `lt shards verify`.
    """
    shard = out / shard_name(task.number)
    with contextlib.suppress(OSError, ShardError):
        sidecar = Sidecar.load(shard.with_suffix(".json"))
        has_tar = sidecar.count == 0 or shard.stat().st_size == sidecar.bytes
        has_rejects = sidecar.rejected == 0 or (out / rejects_beside(shard.name)).exists()
        return sidecar.task == task.digest and has_tar and has_rejects
    return False


def refuse_other_data(plan: Plan, out: Path) -> None:
    """Raises LtError if `out` holds anything but an earlier run of the same plan, naming each difference."""
    if not (out / MANIFEST).exists():
        if strangers := sorted(path.name for path in out.glob("*.tar")):
            raise LtError(
                f"{out} holds shards that no run of lt has made ({strangers[0]}, {len(strangers)} in all).",
                "Choose another --out.",
            )
        return
    manifest = Manifest.load(out / MANIFEST)
    if manifest.run != plan.digest and any(out.glob("shard-*.json")):  # else it has not come to anything
        found = differences(manifest, plan) or ["it was made by another version of lt"]
        raise LtError(
            f"{out} was made with other settings:\n  " + "\n  ".join(found),
            "Choose another --out, go back to the old settings to continue, or remove the folder to make it anew.",
        )


def sweep(out: Path) -> None:
    """Remove temporary files that killed runs have left. Only the holder of the folder's lock may do this."""
    for path in out.glob(f"*{TEMP_MARK}*"):
        with contextlib.suppress(OSError):
            path.unlink()


def _complete_manifest(plan: Plan, out: Path) -> Manifest | None:
    """The manifest, if all is done: no lock is taken then, so that a finished folder may be read-only."""
    if not (out / MANIFEST).is_file():
        return None
    manifest = Manifest.load(out / MANIFEST)
    is_done = manifest.complete and manifest.run == plan.digest and all(is_finished(task, out) for task in plan.tasks)
    return manifest if is_done else None


def _run_tasks(
    pipeline: Pipeline,
    out: Path,
    ledger: Ledger,
    workers: int,
    devices: Sequence[str | None],
    engine: str,
    stall_seconds: float,
) -> None:
    seats = [devices[place % len(devices)] for place in range(max(workers, len(devices)))]
    if engine == "ray":
        from lt.datagen.engine.cluster import run_on_ray

        run_on_ray(pipeline, out, ledger, seats, stall_seconds)
    elif workers == 0 and len(seats) == 1:
        run_here(pipeline, out, ledger, seats[0])
    else:
        run_local(pipeline, out, ledger, seats, stall_seconds)


def _report(plan: Plan, out: Path, state: RunState, manifest: Manifest, start: float) -> RunReport:
    return RunReport(
        pipeline=plan.pipeline.name,
        out=str(out),
        complete=manifest.complete,
        tasks=state.tasks,
        resumed=state.resumed,
        done=state.done,
        failed=state.failed,
        count=manifest.count,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        rejected=manifest.rejected,
        stages=state.stages,
        seconds=time.perf_counter() - start,
    )
