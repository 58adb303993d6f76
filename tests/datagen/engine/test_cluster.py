"""The same tasks on a local Ray cluster of two processes."""

import sys
from pathlib import Path

import pytest
from engine_pipelines import Hang, Numbers, Trouble, dealt, devices_told, digests, tiny

from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import LtError, open_shards


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
def test_ray_makes_the_same_shards_as_this_process_and_deals_devices(cluster, tmp_path: Path):
    """Three workers on a cluster with room for two: the third task waits until one of them is dismissed."""
    marks, states = tmp_path / "marks", []
    marks.mkdir()
    report = run_pipeline(
        dealt(marks, tasks=3),
        tmp_path / "ray",
        engine="ray",
        devices=("cpu:0", "cpu:1", "cpu:2"),
        on_progress=lambda state: states.append(state.done),
    )
    assert devices_told(marks) == ["cpu", "cpu", "cpu"]
    alone = run_pipeline(dealt(marks, tasks=3), tmp_path / "local", workers=0)
    assert digests(tmp_path / "ray") == digests(tmp_path / "local") and len(digests(tmp_path / "ray")) == 3
    assert [(s.name, s.kept, s.rejected) for s in report.stages] == [(s.name, s.kept, s.rejected) for s in alone.stages]
    assert states[-1] == 3 and states == sorted(states)
    assert run_pipeline(dealt(marks, tasks=3), tmp_path / "local", workers=2, engine="ray").nothing_to_do


@pytest.mark.ray
@pytest.mark.slow
def test_trouble_on_ray_costs_one_retry_then_the_sample(cluster, tmp_path: Path):
    pipeline = Pipeline("troubled", Numbers(3), (Trouble("exit"), Hang("hang", at=15)))
    report = run_pipeline(pipeline, tmp_path, workers=2, engine="ray", stall_seconds=20)
    assert report.complete and report.rejected["worker-died"] == 2
    lost = {
        reject.key: reject.detail
        for _, reject in open_shards(str(tmp_path)).rejects()
        if reject.reason == "worker-died"
    }
    assert "ActorDiedError" in lost["n-000003"] and "no progress for 20 seconds" in lost["n-000015"]


def test_without_ray_the_command_that_adds_it_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LtError) as missing:
        run_pipeline(tiny(), tmp_path / "out", engine="ray")
    assert missing.value.message == "--engine ray needs the package ray."
    assert missing.value.hint == "pip install 'lt-toolkit[ray]'"
