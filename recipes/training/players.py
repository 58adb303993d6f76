"""The players of an objective in a run: each one's weights in their own wrapper, with its own optimizer, rate and spike guard."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from torch.distributed.tensor import DTensor

from lt.datagen.shards.errors import LtError
from lt.recipes.config import TrainSettings
from lt.recipes.training.guard import SpikeGuard
from lt.recipes.training.objective import Batch, Objective, Player, Turn, accumulate
from lt.recipes.training.optim import make_optimizer, rate, set_rate
from lt.recipes.training.parallel import DataParallel


def players_of(objective: Objective) -> Sequence[Player]:
    """Who is trained. Raises ValueError unless each module is one player's."""
    players = objective.players or (Player("", tuple(objective.modules)),)
    taken = [name for player in players for name in player.modules]
    if sorted(taken) != sorted(objective.modules):
        raise ValueError(f"players have the modules {taken}, there are {list(objective.modules)}: each is one player's")
    return players


def turns_of(objective: Objective) -> Sequence[Turn]:
    """What a training step consists of."""
    return objective.turns or [Turn(player.name) for player in players_of(objective)]


class Side:
    """One player in a run.

    Args:
        train: the run's settings; `self.train` are those of this player.
        losses: of the steps before, from a checkpoint.
    """

    def __init__(
        self,
        player: Player,
        objective: Objective,
        accelerator: Accelerator,
        train: TrainSettings,
        losses: Sequence[float] = (),
    ):
        self.player, self.objective = player, objective
        self.train = lazily(
            player.settings.over(train), [turn for turn in turns_of(objective) if turn.player == player.name]
        )
        self.guard = SpikeGuard(self.train.spike if player.falls else 0.0, losses)
        self.parallel = DataParallel(objective, player.modules, accelerator, train)
        own = {id(weight) for name in player.modules for weight in objective.modules[name].parameters()}
        groups = [
            {**group, "params": [weight for weight in group["params"] if id(weight) in own]}
            for group in objective.parameter_groups(self.train.weight_decay)
        ]
        self.weights: list[Tensor] = [weight for group in groups for weight in group["params"]]
        self.optimizer = make_optimizer([group for group in groups if group["params"]], self.train, accelerator.device)

        self.lead = f"{player.name}_" if player.name else ""

    def rate(self, step: int) -> dict[str, float]:
        """The rate of a step (from 0), for the log."""
        return {f"{self.lead}lr": rate(step, self.train)}

    def learn(self, turn: Turn, parts: Sequence[Batch], step: int) -> dict[str, Tensor | float]:
        """Take a turn: forward, backward, optimizer. Nothing here waits for the device.

        Returns:
            the loss under the method's name; the gradient's `<player>_norm` (`<method>_norm` of further losses); the objective's
            metrics under `<player>_`. A sole player's are `loss`, `norm`, and the metrics as they are.
        """
        set_rate(self.optimizer, step, self.train)
        if turn.method == "loss":
            loss, metrics = self.objective.step(parts, self.parallel)
        else:
            loss, metrics = accumulate(turn.method, parts, self.parallel, turn.every if turn.lazy else 1.0)
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.train.clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        own = {f"{self.lead}{name}": value for name, value in metrics.items()}
        return {**own, turn.method: loss, norm_of(turn): norm.full_tensor() if isinstance(norm, DTensor) else norm}

    def trouble(self, turn: Turn, metrics: Mapping[str, float]) -> str:
        """What is wrong with a turn, or ""."""
        loss, norm = metrics[turn.method], metrics[norm_of(turn)]
        guard = self.guard if turn.loss == "loss" else SpikeGuard(0.0)
        return guard.trouble(loss, norm, turn.method.replace("_", " "))


def norm_of(turn: Turn) -> str:
    """The name of the gradient's norm in the log."""
    return f"{turn.method.removesuffix('loss')}norm" if turn.loss == "loss" else f"{turn.method}_norm"


def lazily(train: TrainSettings, turns: Sequence[Turn]) -> TrainSettings:
    """The player's settings, its rate and betas corrected for the optimizer steps that lazy regularisers add.

    With one in every k steps, c = k / (k + 1): rate * c, betas ** c (Karras et al., arXiv 1912.04958, appendix B).
    """
    share = 1 / (1 + sum(1 / turn.every for turn in turns if turn.lazy))
    first, second = train.betas
    return (
        train.model_copy(update={"lr": train.lr * share, "betas": (first**share, second**share)})
        if share < 1
        else train
    )


def make_sides(
    objective: Objective, accelerator: Accelerator, train: TrainSettings, losses: Mapping[str, Sequence[float]]
) -> dict[str, Side]:
    """All players, by name. Raises LtError where one wrapper cannot serve them."""
    players = players_of(objective)
    if len(players) > 1:
        if train.parallel == "fsdp":
            raise LtError("Sharded weights serve one player only.", "Train with copies: --set train.parallel=ddp.")
        # a regulariser need not reach all weights: the gradient of D(x) with respect to x knows nothing of the last bias
        cast(Any, accelerator).ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
    return {one.name: Side(one, objective, accelerator, train, losses.get(one.name, ())) for one in players}


def alone(sides: Mapping[str, Side], name: str) -> None:
    """Let only one player's weights take gradients: the others' are used in its turn, and stand still."""
    if len(sides) > 1:
        for side in sides.values():
            for weight in side.weights:
                weight.requires_grad_(side.player.name == name)
