"""What a folder of shards is: how it was made, what it holds, what was dropped and why."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt.datagen.shards.manifest import Manifest, StageMetrics, add_stage_metrics
from lt.datagen.shards.reader import Shards, open_shards
from lt.datagen.shards.sample import is_known_field


@dataclass(slots=True)
class FieldMetrics:
    """One field over all samples. `known` is False for names outside our vocabulary."""

    name: str
    samples: int
    bytes: int
    known: bool


@dataclass(slots=True)
class Info:
    """The metrics of a set. What only our manifest states (pipeline, settings ...) is empty for foreign shards.

    `problems` counts by reason what readers refuse to pass on, `wrong-size` the tars that are not as long as they were written;
    `bytes` are those of the tars.
    """

    where: str
    ours: bool
    pipeline: str
    complete: bool | None
    shards: int
    samples: int
    bytes: int
    digest: str
    fields: list[FieldMetrics]
    stages: list[StageMetrics]
    rejected: dict[str, int]
    problems: dict[str, int]
    licences: list[str]
    settings: dict[str, Any]
    inputs: list[str]
    code_version: str
    tolerance: float | None


def describe(where: str | Path) -> Info:
    """Look at all indexes of a set (the tars themselves are read only where a foreign one has no cached index).

    Raises:
        ShardError: nothing is there, or a sidecar or manifest is damaged.
    """
    shards = open_shards(where)
    manifest = shards.manifest
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    total = 0
    for shard in shards.shards:
        problems.update(problem.reason for problem in shard.index.problems)
        for places in shard.index.samples.values():
            counts.update(places.keys())
            sizes.update({name: size for name, (_, size, _) in places.items()})
        sidecar, length = shard.index.sidecar, shard.location.stat()[0]
        if sidecar is not None and sidecar.bytes != length:
            problems["wrong-size"] += 1
        total += length
    stages, rejected = _metrics(shards)
    told = manifest or Manifest(pipeline="")
    return Info(
        where=str(where),
        ours=manifest is not None or any(shard.index.sidecar for shard in shards.shards),
        pipeline=told.pipeline,
        complete=manifest.complete and not problems["wrong-size"] if manifest else None,
        shards=len(shards.shards),
        samples=len(shards),
        bytes=total,
        digest=shards.digest() if all(shard.index.sidecar for shard in shards.shards) else "",
        fields=[FieldMetrics(name, counts[name], sizes[name], is_known_field(name)) for name in sorted(counts)],
        stages=stages,
        rejected=rejected,
        problems={reason: count for reason, count in problems.most_common() if count},
        licences=told.licences,
        settings=told.settings,
        inputs=told.inputs,
        code_version=told.code_version,
        tolerance=told.tolerance,
    )


def _metrics(shards: Shards) -> tuple[list[StageMetrics], dict[str, int]]:
    """Stages and rejects from the manifest; while a run is unfinished, from the shards that are there."""
    if shards.manifest is not None and shards.manifest.complete:
        return shards.manifest.stages, shards.manifest.rejected
    stages: list[StageMetrics] = []
    for shard in shards.shards:
        if shard.index.sidecar is not None:
            stages = add_stage_metrics(stages, shard.index.sidecar.stages)
    rejected: Counter[str] = Counter()
    for metrics in stages:
        rejected.update(metrics.rejected)
    return stages, dict(rejected.most_common())
