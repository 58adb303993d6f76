"""A run that consists of rounds: each makes shards (candidates, their scores, the best of them) and trains on them.

    def steps(plan, now):                                         # a generator: what it yields is done before it goes on
        last = now.before / "run" if now.before else plan.settings.model.base
        yield Shards("candidates", Pipeline("candidates", Prompts(now.number), (Draw(last),)))
        yield Shards("best", Pipeline("best", ShardSource(str(now.folder / "candidates")), (Best(),)))
        yield Training("run", {"data.train": [str(now.folder / "best")], "train.init": str(last)})

    RECIPE = Recipe(..., rounds=Rounds(lambda settings: settings.rounds.count, steps))

runs/finerewards-tiny/
  round-01/candidates/    shards
  round-01/best/          shards
  round-01/run/           a run like any other: log.jsonl, checkpoints/
  round-02/ ...

Every step is resumable and knows when it is complete, so going on after a kill is taking all steps again.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt.datagen.engine.lock import directory_lock
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import write_json
from lt.recipes.config import Card, flat, resolve
from lt.recipes.devices import run_to_end
from lt.recipes.system import Note

if TYPE_CHECKING:
    from lt.recipes.training.plan import RunPlan
    from lt.recipes.training.run import Outcome


DONE = "rounds.json"
"""Says in the run's folder how many rounds are complete, once all are."""


@dataclass(frozen=True)
class Round:
    """A round's number, from 1, its folder, and that of the round before."""

    number: int
    folder: Path
    before: Path | None


@dataclass(frozen=True)
class Shards:
    """A step that makes the shards of a pipeline in the round's folder of this name."""

    name: str
    pipeline: Pipeline


@dataclass(frozen=True)
class Training:
    """A step that trains in the round's folder of this name, with the run's settings but for those in `values`, by dotted key."""

    name: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Rounds:
    """How many rounds a run with these settings has, and what the steps of one are, in order; the last is a training."""

    count: Callable[[Any], int]
    steps: Callable[["RunPlan", Round], Iterator[Shards | Training]]

    def are_done(self, out: Path, settings: Any) -> bool:
        """Whether a run's folder says that so many were completed as its settings ask for."""
        done = out / DONE
        return done.exists() and json.loads(done.read_bytes())["rounds"] >= self.count(settings)


def run_rounds(
    plan: "RunPlan", rounds: Rounds, note: Note, main: bool, train: Callable[["RunPlan"], "Outcome"]
) -> "Outcome":
    """Take all steps of all rounds, on all ranks; what is complete already is passed over.

    Args:
        main: this is the first rank.
        train: makes one training, or says that there is nothing to do.

    Raises:
        LtError: tasks of a pipeline failed, a folder was made with other settings, what `train` raises.
    """
    outcomes: list[Outcome] = []
    count = rounds.count(plan.settings)
    with directory_lock(plan.out) if main else nullcontext():
        for now in _rounds(plan.out, count):
            for step in rounds.steps(plan, now):
                note(f"Round {now.number} of {count}: {step.name}")
                if isinstance(step, Shards):
                    run_to_end(step.pipeline, now.folder / step.name)
                    continue
                outcomes.append(train(_part(plan, now.folder / step.name, step.values)))
                if outcomes[-1].status == "stopped":
                    return outcomes[-1]
    if not outcomes:
        raise LtError(f"The rounds of {plan.recipe.name} train nothing.")
    if main:
        write_json(plan.out / DONE, {"rounds": count})
    idle = all(outcome.status == "nothing to do" for outcome in outcomes)
    return replace(outcomes[-1], out=plan.out, status="nothing to do" if idle else "done")


def _rounds(out: Path, count: int) -> Iterator[Round]:
    before = None
    for number in range(1, count + 1):
        folder = out / f"round-{number:02d}"
        yield Round(number, folder, before)
        before = folder


def _part(plan: "RunPlan", out: Path, values: Mapping[str, Any]) -> "RunPlan":
    """The plan of one training among the rounds."""
    card = Card(plan.preset, plan.card_text, {**flat(plan.settings), **values})
    return replace(plan, resolved=replace(plan.resolved, settings=resolve(type(plan.settings), card).settings), out=out)
