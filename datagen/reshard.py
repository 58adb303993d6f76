"""Cut a set of shards anew, by count or by bytes. Keys, their order, every byte of every field and all rejects stay.

Keys of foreign shards that ours may not hold (`a b`, 120 letters) are changed; the field `key.txt` tells the old one.

Each new shard is a task: it is written whole or not at all, and the same call again makes only what is missing.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from lt import __version__
from lt.datagen.engine.lock import directory_lock
from lt.datagen.engine.plan import Task
from lt.datagen.engine.run import is_finished, sweep
from lt.datagen.shards.errors import LtError, UsageError
from lt.datagen.shards.index import Places, is_ours
from lt.datagen.shards.manifest import (
    MANIFEST,
    Manifest,
    Sidecar,
    StageMetrics,
    add_stage_metrics,
    rejects_beside,
    shard_name,
)
from lt.datagen.shards.reader import Shard, Shards, open_shards, shard_identity
from lt.datagen.shards.remote import Location
from lt.datagen.shards.sample import FOREIGN_KEY, Reject, our_key
from lt.datagen.shards.storage import digest_of
from lt.datagen.shards.tar import HARMLESS, footprint
from lt.datagen.shards.writer import ShardWriter, read_rejects

_STEP = "reshard"


@dataclass
class Cut:
    """One new shard: runs of neighbouring keys from the old ones, and the old shards whose rejects and metrics it carries."""

    number: int
    runs: list[tuple[Shard, list[str]]] = field(default_factory=list)
    carried: list[Location] = field(default_factory=list)
    refused: list[Reject] = field(default_factory=list)
    count: int = 0
    bytes: int = 0

    def add(self, shard: Shard, key: str, size: int) -> None:
        if not self.runs or self.runs[-1][0] is not shard:
            self.runs.append((shard, []))
        self.runs[-1][1].append(key)
        self.count += 1
        self.bytes += size


@dataclass(frozen=True)
class Resharded:
    """What became of a call. `made` of `shards` were written now, the others were there."""

    out: str
    shards: int
    made: int
    samples: int
    rejected: dict[str, int]


def parse_size(text: str) -> int:
    """`100000`, `64MB`, `1.5 GiB` in bytes; kB is 1000 and KiB 1024 of them. Raises UsageError if it is no size."""
    try:
        return TypeAdapter(ByteSize).validate_python(text.strip())
    except ValidationError:
        raise UsageError(f"{text!r} is no size.", "Say bytes, or a number with kB, MB, GB, KiB, MiB or GiB.") from None


def reshard(
    where: str | Path,
    out: str | Path,
    *,
    samples: int | None = None,
    max_bytes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Resharded:
    """Write the samples of `where` into the folder `out`, in shards of `samples` samples or at most `max_bytes` bytes.

    What a foreign archive holds that cannot be passed on becomes rejects.

    Args:
        max_bytes: of the samples with their tar headers; a sample that is larger gets a shard of its own.
        on_progress: called with (samples done, samples in all).

    Raises:
        UsageError: neither or both of `samples` and `max_bytes`, or one below 1.
        LtError: `out` holds other data, another run holds it, or it cannot be written.
        ShardError: the input is damaged: nothing is dropped in silence.
    """
    if (samples is None) == (max_bytes is None) or (samples or max_bytes or 0) < 1:
        raise UsageError("Say how to cut: either a number of samples or of bytes per shard, at least 1.")
    out = Path(out).absolute()
    shards = open_shards(where)
    if shards.root is not None and shards.root.is_local and shards.root.path.absolute() == out:
        raise UsageError(f"{out} is the input itself.", "Choose another --out.")
    rule = {"samples": samples} if samples else {"bytes": max_bytes}
    manifest = _manifest_for(shards, rule)
    cuts = _plan(shards, samples, max_bytes)
    manifest.tasks = len(cuts)
    tasks = [Task(cut.number, None, digest_of([manifest.run, cut.number])) for cut in cuts]
    with directory_lock(out):
        _refuse_other_data(manifest, out)
        sweep(out)
        manifest.save(out / MANIFEST)
        made = done = 0
        for cut, task in zip(cuts, tasks, strict=True):
            if not is_finished(task, out):
                _write(cut, task, out)
                made += 1
            done += cut.count
            if on_progress is not None:
                on_progress(done, len(shards))
        manifest.close(out)
        reasons = Counter(reject.reason for _, reject in Shards([], root=Location(str(out))).rejects())
        manifest.rejected = dict(reasons.most_common())  # with those that no stage of the input counted
        manifest.save(out / MANIFEST)
    return Resharded(str(out), len(manifest.shards), made, manifest.count, manifest.rejected)


def _manifest_for(shards: Shards, rule: dict[str, Any]) -> Manifest:
    """The input's manifest, so that `why` still finds every setting, with how it was cut; its counts are filled in later."""
    inputs = [":".join(shard_identity(shard)) for shard in shards.shards]
    source = shards.manifest or Manifest(pipeline=_STEP)
    return Manifest(
        pipeline=source.pipeline,
        run=digest_of([_STEP, rule, inputs]),
        settings={**source.settings, _STEP: {**rule, "of": source.run}},
        inputs=inputs,
        code_version=__version__,
        tolerance=source.tolerance,
        licences=source.licences,
    )


def _plan(shards: Shards, samples: int | None, max_bytes: int | None) -> list[Cut]:
    """Where the new shards begin and end, from the indexes alone."""
    cuts = [Cut(0)]
    seen: set[str] = set()
    for shard in _with_empty_ones(shards):
        begins = True
        for key, places in shard.index.samples.items():
            if key in seen:
                cuts[-1].refused.append(
                    Reject(key, "duplicate-key", "an earlier shard holds this key too", stage=_STEP)
                )
                continue
            seen.add(key)
            size, last = _size(key, places), cuts[-1]
            is_full = last.count == samples or (max_bytes is not None and last.bytes + size > max_bytes)
            if is_full and last.count:
                cuts.append(Cut(last.number + 1))
            if begins:
                cuts[-1].carried.append(shard.location)
            begins = False
            cuts[-1].add(shard, key, size)
        if begins:
            cuts[-1].carried.append(shard.location)
        cuts[-1].refused += [
            Reject(problem.name or shard.name, problem.reason, problem.detail, stage="read")
            for problem in shard.index.problems
            if problem.reason not in HARMLESS
        ]
    return cuts


def _with_empty_ones(shards: Shards) -> list[Shard]:
    """All shards in order, with those that kept no sample: they have a sidecar and rejects, but no tar."""
    if shards.manifest is None or shards.root is None:
        return shards.shards
    by_name = {shard.name: shard for shard in shards.shards}
    every = [shards.root / shard_name(number) for number in range(shards.manifest.tasks)]
    for location in every:
        if location.name not in by_name and location.with_suffix(".json").read_if_present() is not None:
            by_name[location.name] = Shard(location)
    return [by_name[name] for name in sorted(by_name)]


def _size(key: str, places: Places) -> int:
    """Bytes of a sample in its new shard."""
    kept = our_key(key)
    more = footprint(f"{kept}.{FOREIGN_KEY}", len(key.encode())) if kept != key else 0
    return more + sum(footprint(f"{kept}.{name}", size) for name, (_, size, _) in places.items())


def _write(cut: Cut, task: Task, out: Path) -> None:
    metrics: list[StageMetrics] = []
    with ShardWriter(out / shard_name(cut.number), task=task.digest) as writer:
        for location in cut.carried:
            place = location.with_suffix(".json")
            data = place.read_if_present()
            if data is None or not is_ours(data):
                continue
            sidecar = Sidecar.parse(data, str(place))
            metrics = add_stage_metrics(metrics, sidecar.stages)
            if sidecar.rejected:
                for reject in read_rejects(location.sibling(rejects_beside(location.name))):
                    writer.reject(reject)
        for reject in cut.refused:
            writer.reject(reject)
        for shard, keys in cut.runs:
            for sample in shard.read_many(keys):
                writer.write(sample.adopted())
            shard.close()
        writer.stages = metrics


def _refuse_other_data(manifest: Manifest, out: Path) -> None:
    if not (out / MANIFEST).exists():
        if any(out.glob("*.tar")):
            raise LtError(f"{out} holds shards that no run of lt has made.", "Choose another --out.")
        return
    old = Manifest.load(out / MANIFEST)
    if old.run == manifest.run:
        return
    cut, wanted = old.settings.get(_STEP), manifest.settings[_STEP]
    difference = "other input" if cut == wanted else f"{cut or 'by another command'} -> {wanted}"
    raise LtError(
        f"{out} holds other data ({difference}).", "Choose another --out, or remove the folder to make it anew."
    )
