"""The same tasks on a local Ray cluster of two processes."""

import sys
from pathlib import Path

import pytest
from engine_pipelines import digests, tiny, troubled

from lt.datagen.engine.run import run_pipeline
from lt.datagen.shards import LtError


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # ray's workers take over the environment, not sys.path
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
        yield
        ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_makes_the_same_shards_as_the_local_engine(cluster, tmp_path: Path):
    states: list[int] = []
    report = run_pipeline(
        tiny(seconds=0.02),
        tmp_path / "ray",
        workers=2,
        engine="ray",
        on_progress=lambda state: states.append(state.done),
    )
    alone = run_pipeline(tiny(seconds=0.02), tmp_path / "local", workers=0)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local") and len(digests(tmp_path / "ray")) == 4
    assert [(s.name, s.kept, s.rejected) for s in report.stages] == [(s.name, s.kept, s.rejected) for s in alone.stages]
    assert states[-1] == 4 and states == sorted(states)
    assert run_pipeline(tiny(seconds=0.02), tmp_path / "local", workers=2, engine="ray").nothing_to_do


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "error"), [("exit", "WorkerCrashedError"), ("bug", "a bug in a stage"), ("hang", "no progress for")]
)
def test_trouble_on_ray_costs_one_retry_then_the_task(cluster, tmp_path: Path, kind, error):
    patience = 25 if kind == "hang" else 120  # a busy machine must not make the healthy task look stalled
    once = run_pipeline(
        troubled(kind, str(tmp_path / "mark"), tasks=2),
        tmp_path / "once",
        workers=2,
        engine="ray",
        stall_seconds=patience,
    )
    assert once.exit_code == 0 and once.done == 2
    always = run_pipeline(troubled(kind, tasks=2), tmp_path / "always", workers=2, engine="ray", stall_seconds=patience)
    assert always.exit_code == 1 and always.done == 1
    assert [failed.task for failed in always.failed] == [0] and error in always.failed[0].error


def test_without_ray_the_command_that_adds_it_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LtError) as missing:
        run_pipeline(tiny(), tmp_path / "out", engine="ray")
    assert missing.value.message == "--engine ray needs the package ray."
    assert missing.value.hint == "pip install 'lt-toolkit[ray]'"
