"""What a run leaves behind, resumes and refuses. In this process (`workers=0`), where no worker is needed to show it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from engine_pipelines import Batches, Files, NoMultiples, Numbers, Slow, digests, tiny, troubled

from lt.datagen.engine.plan import make_plan
from lt.datagen.engine.run import RunState, run_pipeline
from lt.datagen.engine.stage import Pipeline, SampleStage, model_time, stage_digest
from lt.datagen.engine.task import run_task
from lt.datagen.shards import LtError, Reject, Sample, SampleError, ShardWriter, open_shards
from lt.datagen.shards.errors import UsageError
from lt.datagen.shards.manifest import MANIFEST, Manifest, Sidecar
from lt.datagen.shards.writer import read_rejects


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def manifest_of(out: Path) -> Manifest:
    return Manifest.load(out / MANIFEST)


def all_rejects(out: Path) -> list[Reject]:
    return [reject for path in sorted(out.glob("rejects-*.parquet")) for reject in read_rejects(path)]


# ---- what a run leaves behind


def test_figures_add_up(out):
    report = run_pipeline(tiny(tasks=4, size=12), out, workers=0)
    read, slow, filtered, written = report.stages
    assert (read.kept, read.rejected) == (42, {"unreadable": 6})  # 48 numbers, every seventh unreadable
    assert (slow.kept, slow.rejected) == (42, {})
    # multiples of five: 0 5 10 15 25 30 35 40 45 (20 is unreadable); of ten: 0 10 30 40
    assert (filtered.kept, filtered.rejected) == (33, {"even-multiple": 4, "odd-multiple": 5})
    assert (written.kept, written.rejected) == (33, {})
    manifest = manifest_of(out)
    assert manifest.complete and manifest.tasks == 4 and manifest.count == report.count == 33
    assert manifest.rejected == report.rejected == {"unreadable": 6, "odd-multiple": 5, "even-multiple": 4}
    assert manifest.count + sum(manifest.rejected.values()) == 48
    assert manifest.stages == report.stages
    assert {shard.name: shard.sha256 for shard in manifest.shards} == digests(out)
    assert len(list(open_shards(str(out)))) == 33


def test_rejects_name_stage_and_figure(out):
    run_pipeline(tiny(tasks=1, size=12), out, workers=0)
    found = {(r.key, r.stage, r.reason, r.figure) for r in all_rejects(out)}
    assert found == {
        ("n-000000", "no-multiples", "even-multiple", 0.0),
        ("n-000005", "no-multiples", "odd-multiple", 5.0),
        ("n-000006", "numbers", "unreadable", None),
        ("n-000010", "no-multiples", "even-multiple", 10.0),
    }


def test_lineage_names_every_step_that_a_sample_passed(out):
    pipeline = tiny(tasks=1)
    run_pipeline(pipeline, out, workers=0)
    sample = open_shards(str(out))["n-000001"]
    assert [entry["stage"] for entry in sample.meta["lineage"]] == ["numbers", "slow", "no-multiples"]
    source, slow, _ = sample.meta["lineage"]
    assert source["seed"] == 0 and slow["params"] == stage_digest(pipeline.stages[0])
    rejected = next(reject for reject in all_rejects(out) if reject.key == "n-000005")
    assert [entry["stage"] for entry in rejected.meta["lineage"]] == ["numbers", "slow"]


def test_a_stage_adds_parents_and_model_to_the_lineage(out):
    run_pipeline(Pipeline("traced", Numbers(tasks=1), (Doubler(),)), out, workers=0)
    entry = open_shards(str(out))["n-000003-b"].meta["lineage"][-1]
    assert entry["parents"] == ["n-000003"] and entry["model"] == "0123abcd"


def test_seconds_are_the_steps_own(out):
    report = run_pipeline(Pipeline("slow", Numbers(tasks=1, size=6), (Slow(0.05), Twice(0.005))), out, workers=0)
    _, slow, twice, _ = report.stages
    assert 0.3 <= slow.model_seconds <= slow.seconds
    assert 0.06 <= twice.seconds < slow.seconds  # without the time in which it waited for `slow`
    assert 0.03 <= twice.model_seconds <= twice.seconds - 0.03


def test_a_task_that_keeps_nothing_leaves_no_tar(out):
    report = run_pipeline(tiny(tasks=2, size=3, of=1), out, workers=0)
    assert report.complete and report.count == 0 and digests(out) == {}
    assert Sidecar.load(out / "shard-000000.json").rejected == 3
    assert len(all_rejects(out)) == 6
    assert run_pipeline(tiny(tasks=2, size=3, of=1), out, workers=0).nothing_to_do


def test_progress_counts_up(out):
    seen: list[tuple[int, int]] = []

    def show(state: RunState) -> None:
        seen.append((state.done, sum(metrics.kept for metrics in state.stages)))

    run_pipeline(tiny(), out, workers=0, on_progress=show)
    assert seen == sorted(seen) and seen[-1] == (4, 42 + 42 + 33 + 33)


# ---- samples that go wrong


def test_a_key_of_an_earlier_shard_becomes_a_reject(out):
    pipeline = Pipeline("same", Numbers(tasks=3, size=7, same_keys=True))
    report = run_pipeline(pipeline, out, workers=0)
    assert report.rejected == {"duplicate-key": 12, "unreadable": 3} and report.count == 6
    assert report.count + sum(report.rejected.values()) == 21
    assert sorted(digests(out)) == ["shard-000000.tar"]  # the lowest shard keeps a key; nothing is left of the others
    reject = next(reject for reject in all_rejects(out) if reject.reason == "duplicate-key")
    assert reject.stage == "unique" and reject.detail == "shard-000000.tar holds this key too"
    assert [(metrics.name, metrics.kept) for metrics in manifest_of(out).stages][-1] == ("unique", 6)
    assert run_pipeline(pipeline, out, workers=0).nothing_to_do


def test_a_source_that_raises_ends_its_split_with_a_reject(out):
    report = run_pipeline(Pipeline("breaks", Breaks()), out, workers=0)
    assert report.complete and report.rejected == {"damaged-bytes": 2} and report.count == 2
    assert all_rejects(out)[0].detail == "byte 7 (the rest of this split was not read)"


def test_a_stage_that_lets_a_sample_error_escape_loses_that_sample_alone(out):
    report = run_pipeline(Pipeline("leaky", Numbers(tasks=1), (Leaky(),)), out, workers=0)
    assert report.complete and report.count == 8
    assert report.rejected == {"even-multiple": 2, "odd-multiple": 1, "unreadable": 1}


def test_what_a_stage_raises_costs_that_sample_and_the_traceback_is_kept(out):
    report = run_pipeline(troubled("bug"), out, workers=0)
    assert report.complete and report.rejected["unforeseen-error"] == 1
    (lost,) = [reject for reject in all_rejects(out) if reject.reason == "unforeseen-error"]
    assert (lost.key, lost.stage, lost.detail) == (
        "n-000003",
        "trouble",
        "ValueError: a bug in a stage (see shard-000000.log)",
    )
    (log,) = out.glob("*.log")
    assert log.name == "shard-000000.log" and log.read_text().startswith("n-000003\nTraceback")
    assert 'raise ValueError("a bug in a stage")' in log.read_text()


def test_what_reading_a_sample_raises_costs_that_sample(out):
    report = run_pipeline(Pipeline("files", Files(wrong=2)), out, workers=0)
    (lost,) = all_rejects(out)
    assert report.count == 7 and (lost.key, lost.stage) == ("f-2", "files")
    assert lost.detail == "KeyError: 'width' (see shard-000000.log)"
    assert lost.meta["file"] == 2


def test_a_stage_that_takes_several_samples_at_once_loses_the_one_at_which_it_raises(out):
    report = run_pipeline(Pipeline("batches", Files(), (Batches(),)), out, workers=0)
    assert report.complete and report.rejected == {"unforeseen-error": 1} and all_rejects(out)[0].key == "f-3"
    assert [sample.key for sample in open_shards(str(out))] == ["f-0", "f-1", "f-2", "f-4", "f-5", "f-6", "f-7"]


def test_what_a_source_raises_in_the_middle_of_a_batch_is_not_lost(out):
    report = run_pipeline(Pipeline("breaks", Raises(), (Batches(),)), out, workers=0)
    assert report.exit_code == 1 and report.failed[0].error == "OSError: no network"


def test_a_stage_that_raises_at_every_sample_is_broken_itself(out):
    report = run_pipeline(Pipeline("broken", Numbers(tasks=1), (Broken(),)), out, workers=0)
    (failed,) = report.failed
    assert failed.error == "broken raised at every sample, 10 of them; the last was n-000010: RuntimeError: no weights"
    assert failed.trace.count("Traceback") == 10 and not digests(out)


def test_settings_with_which_nothing_was_made_bind_nobody(out):
    assert run_pipeline(Pipeline("refuses", Numbers(tasks=2), (Refuses([]),)), out, workers=0).exit_code == 1
    assert run_pipeline(Pipeline("refuses", Numbers(tasks=2), (Slow(),)), out, workers=0).complete
    with pytest.raises(LtError, match="made with other settings"):
        run_pipeline(Pipeline("refuses", Numbers(tasks=2), (Slow(0.01),)), out, workers=0)


def test_what_cannot_be_written_costs_that_sample(out, monkeypatch):
    real = ShardWriter.write

    def write(self: ShardWriter, sample: Sample) -> bool:
        if sample.key == "f-4":
            raise OverflowError("five channels")
        return real(self, sample)

    monkeypatch.setattr(ShardWriter, "write", write)
    report = run_pipeline(Pipeline("files", Files()), out, workers=0)
    assert report.count == 7 and [(r.key, r.stage, r.detail) for r in all_rejects(out)] == [
        ("f-4", "write", "OverflowError: five channels (see shard-000000.log)")
    ]


def test_a_stage_that_yields_something_else_is_named(out):
    report = run_pipeline(Pipeline("nothing", Numbers(tasks=1), (Nothing(),)), out, workers=0)
    assert report.failed[0].error == "TypeError: stage 'nothing' yielded a NoneType, want Sample or Reject"


def test_json_that_is_no_object_is_a_reject(out):
    report = run_pipeline(Pipeline("foreign", Foreign()), out, workers=0)
    assert report.rejected == {"invalid-json": 1, "invalid-lineage": 1} and report.count == 0


def test_a_message_for_people_is_not_tried_twice(out):
    calls: list[int] = []
    report = run_pipeline(Pipeline("refuses", Numbers(tasks=2), (Refuses(calls),)), out, workers=0)
    assert len(calls) == 2 and [failed.hint for failed in report.failed] == ["lt doctor", "lt doctor"]


# ---- resume


def test_the_same_command_again_does_nothing(out):
    run_pipeline(tiny(), out, workers=0)
    stamps = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    report = run_pipeline(tiny(), out, workers=0)
    assert report.nothing_to_do and report.resumed == 4 and report.count == 33 and report.exit_code == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == stamps


@pytest.mark.parametrize(
    "damage", ["tar gone", "tar cut", "rejects gone", "sidecar gone", "sidecar damaged", "other task"]
)
def test_only_what_is_missing_is_made_again(out, damage):
    run_pipeline(tiny(), out, workers=0)
    whole = digests(out)
    tar, sidecar = out / "shard-000002.tar", out / "shard-000002.json"
    if damage == "tar gone":
        tar.unlink()
    elif damage == "tar cut":
        tar.write_bytes(tar.read_bytes()[:-1])
    elif damage == "rejects gone":
        (out / "rejects-000002.parquet").unlink()
    elif damage == "sidecar gone":
        sidecar.unlink()
    elif damage == "sidecar damaged":
        sidecar.write_bytes(sidecar.read_bytes()[:100])
    else:
        Sidecar.load(sidecar).model_copy(update={"task": "0" * 64}).save(sidecar)
    report = run_pipeline(tiny(), out, workers=0)
    assert (report.done, report.resumed) == (1, 3) and report.complete
    assert digests(out) == whole


def test_a_complete_folder_is_used_without_writing_into_it(out, monkeypatch):
    run_pipeline(tiny(), out, workers=0)
    monkeypatch.setattr("lt.datagen.engine.run.directory_lock", lambda folder: pytest.fail("took the lock"))
    assert run_pipeline(tiny(), out, workers=0).nothing_to_do


def test_failed_tasks_are_tried_by_the_next_run(out, tmp_path):
    pipeline = Pipeline("mends", Numbers(tasks=3), (NeedsFile(str(tmp_path / "needed")),))
    report = run_pipeline(pipeline, out, workers=0)
    assert [failed.task for failed in report.failed] == [1] and report.done == 2 and not manifest_of(out).complete
    (tmp_path / "needed").touch()
    report = run_pipeline(pipeline, out, workers=0)
    assert (report.done, report.resumed, report.exit_code) == (1, 2, 0)


def test_left_over_temporary_files_are_swept(out):
    out.mkdir()
    (out / "shard-000000.tar.tmp-0a1b2c3d").write_bytes(b"half a shard")
    run_pipeline(tiny(tasks=1), out, workers=0)
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.json",
        "rejects-000000.parquet",
        "shard-000000.json",
        "shard-000000.tar",
    ]


# ---- refusals


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (tiny(of=4), "no-multiples.of: 5 -> 4"),
        (tiny(seed=7), "source.seed: 0 -> 7"),
        (tiny(tasks=5), "tasks: 4 -> 5"),
        (replace(tiny(), name="large"), 'pipeline: "tiny" -> "large"'),
        (replace(tiny(), tolerance=0.1), "tolerance: null -> 0.1"),
        (replace(tiny(), stages=tiny().stages[::-1]), 'stages in order: "slow, no-multiples" -> "no-multiples, slow"'),
        (replace(tiny(), stages=tiny().stages[1:]), "slow.seconds: 0.0 -> (none)"),
    ],
)
def test_other_settings_are_refused_by_name(out, other, named):
    run_pipeline(tiny(), out, workers=0)
    before = digests(out)
    with pytest.raises(LtError) as refusal:
        run_pipeline(other, out, workers=0)
    assert named in refusal.value.message
    assert "other settings" in refusal.value.message and "--out" in refusal.value.hint
    assert digests(out) == before and manifest_of(out).complete


def test_other_inputs_are_refused_by_name(out):
    run_pipeline(Pipeline("reads", Reads(digest="aaaa")), out, workers=0)
    with pytest.raises(LtError, match="inputs: aaaa -> bbbb"):
        run_pipeline(Pipeline("reads", Reads(digest="bbbb")), out, workers=0)


def test_other_code_is_refused_by_name(out, monkeypatch):
    monkeypatch.setattr("lt.datagen.engine.code._digest", lambda roots, without: "111111111111")
    run_pipeline(tiny(), out, workers=0)
    monkeypatch.setattr("lt.datagen.engine.code._digest", lambda roots, without: "222222222222")
    with pytest.raises(LtError, match=r'slow.code: "111111111111" -> "222222222222"'):
        run_pipeline(tiny(), out, workers=0)


def test_another_version_of_lt_goes_on(out, monkeypatch):
    run_pipeline(tiny(), out, workers=0)
    finished = digests(out)
    (out / "shard-000002.json").unlink()
    monkeypatch.setattr("lt.datagen.engine.plan.__version__", "99.0")
    report = run_pipeline(tiny(), out, workers=0)
    assert (report.resumed, report.done) == (3, 1) and digests(out) == finished
    assert manifest_of(out).code_version == "99.0"


def test_code_that_changes_under_a_run_stops_its_tasks(out, monkeypatch):
    plan = make_plan(tiny(tasks=1))
    monkeypatch.setattr("lt.datagen.engine.code._digest", lambda roots, without: "222222222222")
    outcome = run_task(plan.pipeline, plan.tasks[0], out, lambda metrics: None)
    assert outcome.kind == "refused" and outcome.error == "The code of tiny is not the one that this run began with."
    assert not digests(out)


def test_a_folder_of_foreign_shards_is_refused(out):
    out.mkdir()
    (out / "00000.tar").write_bytes(b"")
    with pytest.raises(LtError, match=r"no run of lt has made \(00000.tar"):
        run_pipeline(tiny(), out, workers=0)
    assert [path.name for path in out.iterdir()] == ["00000.tar"]


def test_wrong_calls_are_refused(out, monkeypatch):
    with pytest.raises(UsageError, match="Unknown engine 'spark'"):
        run_pipeline(tiny(), out, engine="spark")
    with pytest.raises(UsageError, match="want 0 or more"):
        run_pipeline(tiny(), out, workers=-1)
    monkeypatch.setattr("lt.datagen.engine.plan.MAX_TASKS", 10)
    with pytest.raises(LtError, match="11 splits, at most 10"):
        make_plan(tiny(tasks=11))
    with pytest.raises(LtError, match="'slow' is used twice"):
        make_plan(Pipeline("twice", Numbers(), (Slow(), Slow(0.1))))


def test_task_digests_depend_on_all_that_decides_the_bytes():
    plan = make_plan(tiny())
    assert [task.digest for task in plan.tasks] == [task.digest for task in make_plan(tiny()).tasks]
    assert len({task.digest for task in plan.tasks}) == 4
    assert not {task.digest for task in plan.tasks} & {task.digest for task in make_plan(tiny(of=4)).tasks}


# ---- sources and stages that only these tests need


@dataclass(frozen=True)
class Doubler(SampleStage):
    """Two samples from one."""

    name: ClassVar[str] = "doubler"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for sample in samples:
            for end in "ab":
                yield Sample(f"{sample.key}-{end}", {"txt": sample["txt"], "json": {"from": sample.key}})

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"parents": [sample.meta["from"]], "model": "0123abcd"}


@dataclass(frozen=True)
class Twice(SampleStage):
    """Half of its time is a model's."""

    seconds: float
    name: ClassVar[str] = "twice"

    def process(self, sample: Sample) -> Sample | Reject:
        time.sleep(self.seconds)
        with model_time():
            time.sleep(self.seconds)
        return sample


@dataclass(frozen=True)
class Leaky(NoMultiples):
    name: ClassVar[str] = "leaky"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for sample in samples:
            yield self.process(sample)


@dataclass(frozen=True)
class Broken(SampleStage):
    name: ClassVar[str] = "broken"

    def process(self, sample: Sample) -> Sample | Reject:
        raise RuntimeError("no weights")


@dataclass(frozen=True)
class Raises(Numbers):
    """Two samples, then an error of its own."""

    tasks: int = 1

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        yield Sample("r-0", {"json": {"number": 0}})
        yield Sample("r-1", {"json": {"number": 1}})
        raise OSError("no network")


@dataclass(frozen=True)
class Nothing(SampleStage):
    name: ClassVar[str] = "nothing"

    def process(self, sample: Sample):
        return None


@dataclass(frozen=True)
class Refuses(SampleStage):
    calls: list[int]
    name: ClassVar[str] = "refuses"

    def process(self, sample: Sample) -> Sample | Reject:
        self.calls.append(sample.meta["number"])
        raise LtError("The weights are missing.", "lt doctor")


@dataclass(frozen=True)
class NeedsFile(SampleStage):
    path: str
    name: ClassVar[str] = "needs-file"

    def process(self, sample: Sample) -> Sample | Reject:
        if sample.meta["number"] == 14 and not Path(self.path).exists():
            raise LtError(f"{self.path} is missing.")
        return sample


@dataclass(frozen=True)
class Reads(Numbers):
    digest: str = ""

    def inputs(self) -> list[str]:
        return [self.digest]


@dataclass(frozen=True)
class Breaks(Numbers):
    """Every split gives one sample, then bytes that cannot be read."""

    tasks: int = 2

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        yield Sample(f"b-{split[0]}", {"txt": "fine"})
        raise SampleError("damaged-bytes", "byte 7")


@dataclass(frozen=True)
class Foreign(Numbers):
    """Samples whose json is not as ours."""

    tasks: int = 1

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        yield Sample("list", {"json": b"[1, 2]"})
        yield Sample("lineage", {"json": {"lineage": "a long one"}})
