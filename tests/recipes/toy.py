"""A tiny real system for the tests of the training base: which of four colours has the square, and how large is it?"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lt.datagen.shards import Sample, SampleError, ShardWriter
from lt.recipes.config import Section, Settings, free
from lt.recipes.registry import Recipe
from lt.recipes.system import System
from lt.recipes.training import checkpoints
from lt.recipes.training.logging import read_log
from lt.recipes.training.loop import Outcome, train
from lt.recipes.training.objective import Batch, Objective, Report
from lt.recipes.training.plan import RunPlan, make_plan

COLOURS = np.array([[200, 30, 30], [30, 200, 30], [30, 30, 200], [200, 200, 30]], np.uint8)
SIDE = 16


class ModelSettings(Section):
    """The network."""

    width: int = 16
    """Channels of the hidden layer."""
    dropout: float = 0.2
    """Share of channels that are dropped."""
    explode_at: int = -1
    """The loss becomes infinite when the network has seen so many batches; -1 = never."""
    trace: str = free("")
    """Append the keys of every training step to this file, one line a step; a number is added on ranks above 0."""


class ToySettings(Settings):
    model: ModelSettings = ModelSettings()


@dataclass(frozen=True)
class Crop:
    """A sample to a picture [3, 16, 16] in 0..1 and its targets; the augmentation flips and adds noise."""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, np.ndarray | int]:
        picture = sample.picture.astype(np.float32) / 255
        if picture.shape != (SIDE, SIDE, 3):
            raise SampleError("wrong-size", str(picture.shape))
        if rng is not None:
            picture = picture[:, ::-1] if rng.random() < 0.5 else picture
            picture = picture + rng.normal(0, 0.05, picture.shape).astype(np.float32)
        return {"image": np.ascontiguousarray(picture.transpose(2, 0, 1)), "colour": sample.meta["colour"]}


@dataclass(frozen=True)
class OnlyField:
    """The one array of a sample, whatever its field is called."""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        (name,) = sample.fields
        return {"image": sample[name]}


@dataclass(frozen=True)
class Dying:
    """An example whose process goes as one that ran out of memory."""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, int]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}


class Net(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, len(COLOURS))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(F.gelu(self.first(image)))
        return self.head(F.gelu(self.second(hidden)).mean((2, 3)))


class Toy(Objective):
    def __init__(self, settings: ToySettings):
        self.settings = settings
        self.modules = {"net": Net(settings.model.width, settings.model.dropout)}
        self.fsdp_blocks = (nn.Conv2d,)

    def example(self) -> Crop:
        return Crop()

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        net = self.modules["net"]
        logits = net(batch["image"])
        loss = F.cross_entropy(logits.float(), batch["colour"])
        if net.training:
            net.seen += 1
        if int(net.seen) == self.settings.model.explode_at:
            loss = loss * float("inf")
        return loss, {"accuracy": (logits.argmax(1) == batch["colour"]).float().mean()}

    def step(self, parts, parallel):
        if self.settings.model.trace:
            rank = os.environ.get("RANK", "0")
            with open(self.settings.model.trace + rank.replace("0", ""), "a") as file:
                file.write(" ".join(key for part in parts for key in part["key"]) + "\n")
        return super().step(parts, parallel)

    def validate(self, batches) -> Report:
        report = super().validate(batches)
        return Report(report.metrics, report.score, {"grid": np.zeros((4, 4, 3), np.uint8)})


def write_shards(folder: Path, count: int, per_shard: int = 40, seed: int = 0, bad: tuple[int, ...] = ()) -> list[str]:
    """Shards of coloured squares; the samples numbered `bad` hold a broken picture. Returns all keys in order."""
    rng = np.random.default_rng(seed)
    keys = [f"toy-{number:05d}" for number in range(count)]
    for first in range(0, count, per_shard):
        with ShardWriter(folder / f"shard-{first // per_shard:06d}.tar", durable=False) as writer:
            for number in range(first, min(first + per_shard, count)):
                colour, (y, x) = int(rng.integers(4)), rng.integers(0, 8, 2)
                picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
                picture[y : y + 8, x : x + 8] = COLOURS[colour]
                value = b"no picture" if number in bad else picture
                assert writer.write(Sample(keys[number], {"png": value, "json": {"colour": colour}}))
    return keys


def _world(settings: ToySettings, note) -> tuple[list[str], str]:
    folder = Path("data/toy")
    if not folder.exists():
        note("  makes data/toy")
        write_shards(folder, 200)
    return [str(folder)], str(folder)


RECIPE = Recipe(
    name="toy",
    settings=ToySettings,
    objective=Toy,
    world=_world,
    folder=Path(__file__).parent / "toy_cards",
)


SYSTEM = System("Colours of squares.", "toy:RECIPE")


def plan(shards: Path, out: Path, *overrides: str) -> RunPlan:
    """The tiny preset on `shards`, into `out`."""
    named = [f"data.train=[{shards}]", f"data.validation={shards}"]
    return make_plan(RECIPE, "tiny", None, [*named, *overrides], out)


def run(shards: Path, out: Path, *overrides: str) -> Outcome:
    """Train in this process, on one thread, in silence."""
    torch.set_num_threads(1)
    return train(plan(shards, out, *overrides), note=lambda _: None)


def losses(out: Path) -> dict[int, float]:
    """The loss of every step (from 1) of a run, as its log tells it; each step must be there once."""
    lines = read_log(out, "train")
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})
    return {line["step"]: line["loss"] for line in lines}


def digests(out: Path) -> dict[str, str]:
    """sha256 of weights, moving average and optimizer at the end of a run."""
    newest = checkpoints.latest(out / "checkpoints")
    assert newest is not None
    return checkpoints.Record.load(newest).files


def kill_at(lines: int, out: Path, process) -> bool:
    """SIGKILL the process when its log has so many lines; False if it ended before."""
    log = out / "log.jsonl"
    while process.is_alive():
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            return True
        time.sleep(0.001)
    return False
