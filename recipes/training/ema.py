"""The moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from lt.recipes.config import TrainSettings


def decay(step: int, train: TrainSettings) -> float:
    """The average's decay in step `step` (from 0), smaller early on so that the random start is forgotten.

    `ema`: min(ema, (1 + step) / (10 + step)), as in diffusers. `ema_kimg`: 0.5 ** (batch / half-life), the half-life in samples
    at most `ema_rampup` of those seen before this step (Karras et al., arXiv 2006.06676, in their training loop).
    """
    if not train.ema_kimg:
        return min(train.ema, (1 + step) / (10 + step))
    life = 1000 * train.ema_kimg
    if train.ema_rampup:
        life = min(life, step * train.batch * train.ema_rampup)
    return 0.5 ** (train.batch / max(life, 1e-8))


class Ema:
    """average = decay * average + (1 - decay) * weight after every step, in fp32 beside the trained weights.

    Args:
        weights: the trained parameters by name; their tensors stay the same objects during the run.
    """

    def __init__(self, weights: Mapping[str, Tensor]):
        self._weights = weights
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Take in the weights as they are now."""
        weights = [self._weights[name].detach() for name in self.average]
        torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        for name, tensor in self.average.items():
            tensor.copy_(average[name])

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the modules hold the average; afterwards the trained weights, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self.average.items():
            trained = self._weights[name].detach().clone()
            self._weights[name].copy_(average)
            average.copy_(trained)
