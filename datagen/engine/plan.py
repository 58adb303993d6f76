"""What a run will do: its tasks and their digests, and how it differs from the run that filled a folder before.

A task is one split of the source and becomes one shard. Its digest is over everything that decides its bytes: the split, the
inputs, the settings of source and stages, and the code of both, but not the version of lt.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lt import __version__
from lt.datagen.engine.code import code_of, code_version
from lt.datagen.engine.stage import Pipeline, stage_settings
from lt.datagen.shards import LtError, codec
from lt.datagen.shards.manifest import Manifest
from lt.datagen.shards.storage import digest_of

WRITE, UNIQUE = "write", "unique"
"""Steps of the engine itself: encoding into the shard, and dropping keys that an earlier shard has."""
MAX_TASKS = 1_000_000
"""Shard names have six digits."""
_MOST_NAMED = 12


@dataclass(frozen=True)
class Task:
    """One split of the source: makes `shard-{number:06d}.tar`.

    Attributes:
        code: what `pipeline_code` said when the run began.
        lost: samples that are left out, by key with what they did: they have ended two workers.
    """

    number: int
    split: Any
    digest: str
    code: str = ""
    lost: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A pipeline, laid out. `settings` and `inputs` are json values; `digest` names the whole run."""

    pipeline: Pipeline
    settings: dict[str, Any]
    inputs: list[str]
    digest: str
    tasks: list[Task]

    def manifest(self) -> Manifest:
        """The manifest of a run that has not finished anything yet."""
        return Manifest(
            pipeline=self.pipeline.name,
            run=self.digest,
            settings=self.settings,
            inputs=self.inputs,
            code_version=__version__,
            tasks=len(self.tasks),
            tolerance=self.pipeline.tolerance,
            licences=self.pipeline.source.licences(),
        )


def make_plan(pipeline: Pipeline) -> Plan:
    """Ask the source for its splits and inputs, and compute all digests.

    Raises:
        LtError: two steps have the same name, so that their metrics could not be told apart; or the splits are too many.
    """
    source, stages = pipeline.source, pipeline.stages
    names = Counter([source.name, *(stage.name for stage in stages), WRITE, UNIQUE])
    if twice := [name for name, count in names.items() if count > 1]:
        raise LtError(
            f"Pipeline {pipeline.name}: the name {twice[0]!r} is used twice.", "Give every stage its own name."
        )
    splits = _plain(source.splits())
    if len(splits) > MAX_TASKS:
        raise LtError(
            f"Pipeline {pipeline.name}: {len(splits):,} splits, at most {MAX_TASKS:,}.", "Make the splits larger."
        )
    inputs = list(source.inputs())
    settings = {
        "pipeline": pipeline.name,
        "tolerance": pipeline.tolerance,
        "source": {"name": source.name, "settings": _plain(source.settings()), "code": code_version(source)},
        "stages": [
            {"name": stage.name, "settings": _plain(stage_settings(stage)), "code": code_version(stage)}
            for stage in stages
        ],
        "codec": {"code": code_of(codec)},
        "splits": digest_of(splits)[:12],
    }
    digest = digest_of([settings, inputs])
    code = pipeline_code(pipeline)
    tasks = [Task(number, split, digest_of([digest, number, split]), code) for number, split in enumerate(splits)]
    return Plan(pipeline, settings, inputs, digest, tasks)


def pipeline_code(pipeline: Pipeline) -> str:
    """Digest over the code versions of all steps, and of what turns their samples into bytes."""
    return digest_of([code_of(codec), *(code_version(step) for step in (pipeline.source, *pipeline.stages))])


def differences(manifest: Manifest, plan: Plan) -> list[str]:
    """What differs between the run that filled a folder and the one planned now, each as `name: old -> new`."""
    old, new = _flat_settings(manifest), _flat_settings(plan)
    pairs = {name: (old.get(name, "(none)"), new.get(name, "(none)")) for name in [*new, *(old.keys() - new)]}
    found = [f"{name}: {_cut(one)} -> {_cut(other)}" for name, (one, other) in pairs.items() if one != other]
    gone, come = (Counter(a) - Counter(b) for a, b in ((manifest.inputs, plan.inputs), (plan.inputs, manifest.inputs)))
    if gone or come:
        found.append(f"inputs: {_some(gone)} -> {_some(come)}")
    if manifest.tasks != len(plan.tasks):
        found.append(f"tasks: {manifest.tasks} -> {len(plan.tasks)}")
    more = len(found) - _MOST_NAMED
    return found[:_MOST_NAMED] + ([f"and {more} more"] if more > 0 else [])


def _flat_settings(run: Manifest | Plan) -> dict[str, str]:
    """Dotted names to values as json text."""
    return {name: json.dumps(value, ensure_ascii=False) for name, value in _flat(run.settings)}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as (dotted name, value); lists of named steps go by their names, and by their order."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name and key != "settings" else name or key)
    elif isinstance(value, list) and value and all(isinstance(inner, dict) and "name" in inner for inner in value):
        yield f"{name} in order", ", ".join(inner["name"] for inner in value)
        for inner in value:
            rest = {key: part for key, part in inner.items() if key != "name"}
            yield from _flat(rest, inner["name"])
    else:
        yield name, value


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _some(inputs: Counter[str]) -> str:
    names = [_cut(name, 27) for name in inputs]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "(none)"


def _plain(value: Any) -> Any:
    """`value` as json gives it back: tuples become lists, paths text."""
    return json.loads(json.dumps(value, default=str))
