"""A tiny game for two: a generator learns where the toy shards' squares lie, a discriminator tells its points from true ones."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from lt.datagen.shards import Sample
from lt.recipes.config import PlayerSettings, Section, Settings, free
from lt.recipes.registry import Recipe
from lt.recipes.system import System
from lt.recipes.training.loop import Outcome, train
from lt.recipes.training.objective import Batch, Objective, Player, Report, Turn
from lt.recipes.training.plan import make_plan

WIDTH, NOISE = 16, 4


class ModelSettings(Section):
    """The game."""

    penalty_every: int = 1
    """The discriminator's gradient is penalised in one step of so many."""
    explode_at: int = -9
    """The discriminator's loss is multiplied by a million in this step; by infinity in the one after the next."""
    trace: str = free("")
    """Append the steps in which the penalty was taken to this file; a number is added on ranks above 0."""


class DiscriminatorSettings(PlayerSettings):
    lr: float | None = 2e-2
    betas: tuple[float, float] | None = (0.0, 0.99)
    warmup: int | None = 0


class GameSettings(Settings):
    model: ModelSettings = ModelSettings()
    discriminator: DiscriminatorSettings = DiscriminatorSettings()


@dataclass(frozen=True)
class Point:
    """The mean place of the square in the picture, [2] about -1..1, and noise that depends on the sample alone."""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, np.ndarray]:
        inside = np.argwhere(np.any(sample.picture != 128, axis=2))
        noise = np.zeros(NOISE) if rng is None else rng.normal(size=NOISE)
        return {"point": (inside.mean(0) / 8 - 1).astype(np.float32), "noise": noise.astype(np.float32)}


def _net(entries: int, exits: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(entries, WIDTH), nn.Softplus(), nn.Linear(WIDTH, exits))


class Game(Objective):
    def __init__(self, settings: GameSettings):
        self.settings = settings
        self.modules = {"generator": _net(NOISE, 2), "discriminator": _net(2, 1)}
        self.players = (
            Player("generator", ("generator",)),
            Player("discriminator", ("discriminator",), settings.discriminator, falls=False),
        )
        every = settings.model.penalty_every
        penalty = Turn("discriminator", "penalty", every, lazy=True)
        self.turns = (Turn("generator"), Turn("discriminator"), penalty)
        self.averaged = ("generator",)

    def example(self) -> Point:
        return Point()

    def _made(self, batch: Batch) -> torch.Tensor:
        return self.modules["generator"](batch["noise"])

    def generator_loss(self, batch: Batch):
        made = self._made(batch)
        return F.softplus(-self.modules["discriminator"](made)).mean(), {"spread": made.std()}

    def discriminator_loss(self, batch: Batch):
        judge = self.modules["discriminator"]
        true, false = judge(batch["point"]), judge(self._made(batch).detach())
        loss = (F.softplus(-true) + F.softplus(false)).mean()
        if self.now in (self.settings.model.explode_at, self.settings.model.explode_at + 2):
            loss = loss * (1e6 if self.now == self.settings.model.explode_at else float("inf"))
        return loss, {"right": (true > 0).float().mean()}

    def discriminator_penalty(self, batch: Batch):
        """R1 (Mescheder et al., arXiv 1801.04406): half of the squared gradient at true points."""
        if self.settings.model.trace:
            with open(self.settings.model.trace + os.environ.get("RANK", "0").replace("0", ""), "a") as file:
                file.write(f"{self.now}\n")
        points = batch["point"].detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.modules["discriminator"](points).sum(), points, create_graph=True)
        return slope.square().sum(1).mean() / 2, {}

    def validate(self, batches) -> Report:
        judged = [self.generator_loss(batch)[0] for batch in batches]
        loss = float(torch.stack(judged).mean())
        return Report({"loss": loss}, -loss)


SYSTEM = System("A game for two.", "toy_players:RECIPE")
RECIPE = Recipe(
    name="toy_players",
    settings=GameSettings,
    objective=Game,
    world=lambda settings, note: ([], ""),
    folder=Path(__file__).parent / "toy_cards",
)


def plan(shards: Path, out: Path, *overrides: str):
    """The tiny preset on `shards`, into `out`."""
    named = [f"data.train=[{shards}]", f"data.validation={shards}"]
    return make_plan(RECIPE, "tiny", None, [*named, *overrides], out)


def run(shards: Path, out: Path, *overrides: str) -> Outcome:
    """Train in this process, on one thread, in silence."""
    torch.set_num_threads(1)
    return train(plan(shards, out, *overrides), note=lambda _: None)
