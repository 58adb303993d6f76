"""How a sample came to be, or why it was dropped: its lineage with every stage's settings, or its reject."""

import difflib
import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import Manifest
from lt.datagen.shards.reader import Shards, open_shards
from lt.datagen.shards.sample import Reject
from lt.datagen.shards.storage import digest_of

_LIKELY = 2000


@dataclass(frozen=True, slots=True)
class Step:
    """One stage that a sample passed. `settings` is None where the manifest does not hold those that `params` is the digest of
    (a stage of an earlier pipeline, say); `more` is what else the lineage tells, such as seed, model digest and parents."""

    stage: str
    params: str
    code: str
    settings: dict[str, Any] | None
    more: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Story:
    """What happened to a key. `file` holds it: the shard if it was kept, else the rejects file; `reject` says why it was not."""

    key: str
    file: str
    steps: list[Step]
    reject: Reject | None = None


def explain(where: str | Path, key: str) -> list[Story]:
    """All that happened under `key`: where it was kept, and each time that it was rejected.

    Raises:
        ShardError: there are no shards, or they are damaged.
        LtError: nobody knows the key; the hint names the nearest ones.
    """
    shards = open_shards(where)
    stories = []
    for shard in shards.shards:
        if key in shard.index.samples:
            stories.append(Story(key, shard.name, _steps(shard.read(key).readable("json"), shards.manifest)))
        for problem in shard.index.problems:
            if problem.name == key:
                reject = Reject(key, problem.reason, problem.detail, stage="read")
                stories.append(Story(key, shard.name, [], reject))
    for file, reject in shards.rejects(key):
        stories.append(Story(key, file, _steps(reject.meta, shards.manifest), reject))
    if not stories:
        raise _unknown(shards, key)
    return stories


def _steps(meta: Any, manifest: Manifest | None) -> list[Step]:
    lineage = meta.get("lineage") if isinstance(meta, dict) else None
    entries = [entry for entry in lineage if isinstance(entry, dict)] if isinstance(lineage, list) else []
    return [_step(dict(entry), manifest) for entry in entries]


def _step(entry: dict[str, Any], manifest: Manifest | None) -> Step:
    stage, params, code = (str(entry.pop(name, "")) for name in ("stage", "params", "code"))
    return Step(stage, params, code, _settings(manifest, stage, params), entry)


def _settings(manifest: Manifest | None, stage: str, params: str) -> dict[str, Any] | None:
    """The settings in the manifest whose digest is `params`, as `engine.stage.stage_digest` computes it."""
    if manifest is None:
        return None
    for step in [manifest.settings.get("source"), *(manifest.settings.get("stages") or [])]:
        if isinstance(step, dict) and step.get("name") == stage:
            settings = step.get("settings") or {}
            if digest_of([stage, settings])[:12] == params:
                return settings
    return None


def _unknown(shards: Shards, key: str) -> LtError:
    known = [*shards.keys(), *(reject.key for _, reject in shards.rejects())]
    near = nearest(key, known)
    hint = f"Nearest: {', '.join(near)}." if near else "`lt shards ls` lists the keys."
    return LtError(f"{shards} has no sample {key!r}, neither kept nor rejected.", hint)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The words most like `word`. Of very many only those are compared that share the longest beginning or end with it."""

    def shared(other: str) -> tuple[int, str]:
        return max(_in_common(word, other), _in_common(word[::-1], other[::-1])), other

    likely = heapq.nlargest(_LIKELY, set(known), key=shared)
    return difflib.get_close_matches(word, likely, count, cutoff=0.5)


def _in_common(first: str, second: str) -> int:
    """Length of the common beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(first), len(second)))
