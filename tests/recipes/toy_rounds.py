"""The toy in rounds: candidates are scored, the brighter half is kept, and the network of the round before trains on it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import toy

from lt.datagen.engine.stage import Pipeline, SampleStage
from lt.datagen.shards import Reject, Sample
from lt.datagen.sources.shards import ShardSource
from lt.recipes.config import Section, Settings
from lt.recipes.system import System
from lt.recipes.training.plan import RunPlan
from lt.recipes.training.rounds import Round, Rounds, Shards, Training


class RoundSettings(Section):
    """The rounds."""

    count: int = 2
    """How many."""
    trace: str = ""
    """A line for every sample that a stage sees, in this file."""


class ToyRoundsSettings(Settings):
    model: toy.ModelSettings = toy.ModelSettings()
    rounds: RoundSettings = RoundSettings()


@dataclass(frozen=True)
class Candidate(SampleStage):
    """Darken a picture, by the round's number."""

    number: int
    trace: str
    name: ClassVar[str] = "candidate"

    def process(self, sample: Sample) -> Sample:
        _trace(self.trace, f"candidate {self.number} {sample.key}")
        sample["png"] = sample.picture - 10 * self.number
        return sample


@dataclass(frozen=True)
class Brighter(SampleStage):
    """Keep the pictures that are brighter than this."""

    limit: float
    trace: str
    name: ClassVar[str] = "brighter"

    def process(self, sample: Sample) -> Sample | Reject:
        _trace(self.trace, f"best {self.limit} {sample.key}")
        mean = float(sample.picture.mean())
        return sample if mean > self.limit else Reject.of(sample, "dark", mean)


def _trace(file: str, line: str) -> None:
    with open(file, "a") as opened:
        opened.write(f"{line}\n")


def steps(plan: RunPlan, now: Round) -> Iterator[Shards | Training]:
    trace = plan.settings.rounds.trace
    source = ShardSource(plan.settings.data.train[0])
    yield Shards("candidates", Pipeline("candidates", source, (Candidate(now.number, trace),)))
    candidates = ShardSource(str(now.folder / "candidates"))
    yield Shards("best", Pipeline("best", candidates, (Brighter(120.0 - 10 * now.number, trace),)))
    start = str(now.before / "run") if now.before else ""
    yield Training("run", {"data.train": [str(now.folder / "best")], "train.init": start})


SYSTEM = System("Colours of squares, in rounds.", "toy_rounds:RECIPE")
RECIPE = replace(
    toy.RECIPE,
    name="toy_rounds",
    settings=ToyRoundsSettings,
    rounds=Rounds(lambda settings: settings.rounds.count, steps),
)
