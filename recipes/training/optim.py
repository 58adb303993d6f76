"""Optimizers and the learning rate as a pure function of the step."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lt.recipes.config import TrainSettings


def peak_rate(train: TrainSettings) -> float:
    """The highest learning rate: `lr`, or lr * sqrt(batch / 512) (FILIP, appendix A.3; You et al., arXiv 1904.00962)."""
    return train.lr * math.sqrt(train.batch / 512) if train.lr_scaling == "sqrt" else train.lr


def rate(step: int, train: TrainSettings) -> float:
    """The learning rate of step `step` (from 0): linear warm-up that ends at the peak, then a half cosine or a constant."""
    peak = peak_rate(train)
    if step < train.warmup:
        return peak * (step + 1) / train.warmup
    if train.schedule == "constant":
        return peak
    done = (step - train.warmup) / max(1, train.steps - train.warmup)
    low = peak * train.lr_end
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def make_optimizer(groups: list[dict[str, Any]], train: TrainSettings, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of the settings over an objective's parameter groups."""
    groups = [{"lr_scale": 1.0, **group} for group in groups]
    common = {"lr": peak_rate(train), "betas": train.betas, "eps": train.eps, "weight_decay": train.weight_decay}
    if train.optimizer == "lamb":
        return Lamb(groups, **common)
    return torch.optim.AdamW(groups, **common, fused=device.type in ("cuda", "cpu") or None)


def set_rate(optimizer: torch.optim.Optimizer, step: int, train: TrainSettings) -> float:
    """Set every group's rate for this step and return it (before the groups' own factors)."""
    now = rate(step, train)
    for group in optimizer.param_groups:
        group["lr"] = now * group["lr_scale"]
    return now


class Lamb(torch.optim.Optimizer):
    """LAMB: Adam whose step is rescaled, per tensor, to the length of the weights.

    As FILIP used it (cybertronai/pytorch-lamb): no bias correction, weight decay inside the step, the weights' length at most 10.
    Source: You et al., arXiv 1904.00962, algorithm 2.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        longest: float = 10.0,
    ):
        super().__init__(
            params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "longest": longest}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step over all parameters that have a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(weight.grad, 1 - beta1)
        square.mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        update = mean / (square.sqrt() + group["eps"]) + group["weight_decay"] * weight
        length, change = weight.norm().clamp(max=group["longest"]), update.norm()
        trust = torch.where((length > 0) & (change > 0), length / change, torch.ones_like(length))
        weight.sub_(update * (trust * group["lr"]))
