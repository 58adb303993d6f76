"""The moving average of the weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Ema:
    """average = decay * average + (1 - decay) * weight after every step, in fp32 beside the trained weights.

    Early on the decay is smaller, min(decay, (1 + t) / (10 + t)), so that the random start is forgotten (as in diffusers).

    Args:
        weights: the trained parameters by name; their tensors stay the same objects during the run.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        self.decay = decay
        self._weights = weights
        self.average = {name: weight.detach().clone() for name, weight in weights.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
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
