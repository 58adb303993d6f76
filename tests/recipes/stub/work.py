from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from stub_model import Mean

from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import Sample
from lt.datagen.sources.numbered import NumberedSource
from lt.recipes.claims import Claim, Measured, Study, Variant, below, of
from lt.recipes.config import Settings
from lt.recipes.edit.stage import Edit, Edited, edit_job
from lt.recipes.registry import Recipe
from lt.recipes.system import Answer, Job, Table
from lt.recipes.training import checkpoints
from lt.recipes.training.objective import Objective
from lt.recipes.worlds import made


@dataclass(frozen=True)
class Squares(NumberedSource):
    shade: float = 0.1
    name: ClassVar[str] = "squares"

    def sample(self, number):
        return Sample(f"{number}", {"png": np.full((64, 64, 3), round(255 * self.shade), np.uint8), "txt": "a square"})


class Stub(Objective):
    def __init__(self, settings):
        self.modules = {"mean": Mean()}

    def example(self):
        return row

    def loss(self, batch):
        return self.modules["mean"](batch["image"]), {}


def row(sample, rng):
    return {"image": sample.picture.transpose(2, 0, 1).astype(np.float32) / 255}


def world(settings, note):
    return [str(made(Pipeline("squares", Squares(8)), Path("data/squares"), 8, note))], "data/squares"


def squares(options, note):
    return Job(Pipeline("squares", Squares(options.count)))


def learned(run="runs/stub-tiny"):
    return float(checkpoints.restore(Path(run))[0].modules["mean"].colour.detach().mean())


def sample(options, note):
    return Job(Pipeline("squares", Squares(options.count, shade=learned())))


def shade(options, note):
    return Answer({"shade": learned()}, tables=[Table("", ["figure", "value"], [["shade", learned()]])])


class Invert(Edit):
    name: ClassVar[str] = "invert"

    def edited(self, requests):
        pairs = [(one["source.png"], one["mask.png"][:, :, None]) for one in requests]
        return [Edited(np.where(mask, 255 - source, source), {"changed": mask.mean() / 255}) for source, mask in pairs]


def edit(options, note):
    return edit_job(options, Invert())


RECIPE = Recipe("stub", Settings, Stub, world, Path(__file__).parent)
STUDY = Study(
    "stub",
    [Variant("plain")],
    [Claim("dark", "Squares are dark", "-", "below a half", {"shade": of("plain", "shade").must_be(below, 0.5)})],
    lambda note: ({"data.train": world(None, note)[1]}, "data/squares"),
    lambda run, test: {"shade": Measured(learned(run), 0.01)},
    steps=40,
    expected="a second",
)
