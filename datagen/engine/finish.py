"""Close the books of a run: make keys unique over all shards, add up the metrics, write the manifest."""

import hashlib
from pathlib import Path

import numpy as np

from lt.datagen.engine.plan import UNIQUE, Plan
from lt.datagen.engine.task import count_write
from lt.datagen.shards.manifest import MANIFEST, Manifest, Sidecar, StageMetrics, rejects_beside, shard_name
from lt.datagen.shards.reader import Shards
from lt.datagen.shards.remote import Location
from lt.datagen.shards.sample import Reject
from lt.datagen.shards.writer import ShardWriter, read_rejects


def close_books(plan: Plan, out: Path) -> Manifest:
    """Write the final manifest over the sidecars of all tasks, atomically; returns it."""
    for number, keys in _repeated(plan, out).items():
        _drop(plan, out, number, keys)
    manifest = plan.manifest()
    manifest.close(out)
    for metrics in manifest.stages:
        if metrics.name == UNIQUE:  # only shards that lost a key were looked at
            metrics.kept = manifest.count
    manifest.save(out / MANIFEST)
    return manifest


def _sidecar(out: Path, number: int) -> Sidecar:
    return Sidecar.load((out / shard_name(number)).with_suffix(".json"))


def _repeated(plan: Plan, out: Path) -> dict[int, dict[str, int]]:
    """Keys that an earlier shard has too: {task: {key: task that keeps it}}. The lowest task keeps a key.

    Eight bytes a key are held in memory; the keys themselves only where two agree in these.
    """
    hashes = [_hashes(_sidecar(out, task.number)) for task in plan.tasks]
    values, counts = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]), return_counts=True)
    suspects = values[counts > 1]
    first: dict[str, int] = {}
    repeated: dict[int, dict[str, int]] = {}
    for number, own in enumerate(hashes):
        if not np.isin(own, suspects).any():
            continue
        for key in _sidecar(out, number).index:
            if first.setdefault(key, number) != number:
                repeated.setdefault(number, {})[key] = first[key]
    return repeated


def _hashes(sidecar: Sidecar) -> np.ndarray:
    """uint64 [n]: the first 8 bytes of every key's digest."""
    digests = b"".join(hashlib.blake2b(key.encode(), digest_size=8).digest() for key in sidecar.index)
    return np.frombuffer(digests, np.uint64)


def _drop(plan: Plan, out: Path, number: int, keys: dict[str, int]) -> None:
    """Write a shard again without `keys`, which become rejects. Which shard loses a key does not depend on the order of tasks."""
    sidecar = _sidecar(out, number)
    path, rejects = out / shard_name(number), out / rejects_beside(shard_name(number))
    metrics = StageMetrics(name=UNIQUE)
    with ShardWriter(path, task=sidecar.task) as writer:
        for earlier in read_rejects(rejects) if rejects.exists() else []:
            writer.reject(earlier)
        for sample in Shards([Location(str(path))]):
            if sample.key in keys:
                detail = f"{shard_name(keys[sample.key])} holds this key too"
                writer.reject(Reject.of(sample, "duplicate-key", detail=detail), stage=UNIQUE)
                metrics.rejected["duplicate-key"] = metrics.rejected.get("duplicate-key", 0) + 1
            else:
                count_write(writer, sample, metrics)
        writer.stages = [*sidecar.stages, metrics]
