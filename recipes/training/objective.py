"""What a system must say so that the one loop can train it: the `Objective`. docs/training.md has examples.

The loop owns everything else: batches, optimizer, schedule, accumulation, EMA, clipping, logs, checkpoints and resume.

A *batch* is a dict: tensors [b, ...] on the device, lists for what is not a number, and under `"key"` the samples' keys.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lt.datagen.shards import LtError, Sample
from lt.recipes.config import PlayerSettings

Batch = dict[str, Any]
Metrics = Mapping[str, Tensor | float]
Example = Callable[[Sample, np.random.Generator | None], Mapping[str, Any]]
"""A sample to arrays and numbers of fixed shapes. The generator is for augmentation and depends only on (seed, epoch, sample);
None means: do not augment. It may raise SampleError: the sample is then counted and replaced, see `loader.py`."""


@dataclass(frozen=True)
class Report:
    """What a validation found. Higher `score` is better: the checkpoint with the highest one is kept as the best."""

    metrics: dict[str, float]
    score: float | None = None
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    """Name to uint8 RGB [h, w, 3]: shown in TensorBoard and stored as PNG."""


@dataclass(frozen=True)
class Player:
    """One side of a training: it has its own optimizer, and moves only in its own turns.

    Attributes:
        name: stands before the names of its methods and metrics, as in `generator_loss`; a sole player has none.
        modules: those of the objective's `modules` that are its.
        settings: where it learns otherwise than `train` says.
        falls: its loss is meant to fall, so that one that jumps ends the run. One that is no number always does.
    """

    name: str
    modules: tuple[str, ...]
    settings: PlayerSettings = field(default_factory=PlayerSettings)
    falls: bool = True


@dataclass(frozen=True)
class Turn:
    """An optimizer step of one player within a training step; nobody else's weights move in it.

    Attributes:
        player: its name.
        loss: the objective's method `<player>_<loss>` gives it, a batch to (loss, metrics) as `Objective.loss` does.
        every: it is taken in the steps 0, every, 2 * every ...
        lazy: a regulariser that stands for one in every step: it counts `every` times, and the player's rate and betas are
            taken to the power that makes up for its further optimizer steps (Karras et al., arXiv 1912.04958, appendix B).
    """

    player: str
    loss: str = "loss"
    every: int = 1
    lazy: bool = False

    @property
    def method(self) -> str:
        """The name of the objective's method, and of the loss in the log."""
        return f"{self.player}_{self.loss}" if self.player else self.loss


class Parallel(Protocol):
    """How an objective's `step` reaches its modules on any number of ranks."""

    def __call__(self, method: str, *args: Any) -> Any:
        """Call the objective's method of that name inside the data-parallel wrapper and in the run's precision."""
        ...

    def no_sync(self) -> AbstractContextManager[None]:
        """Inside, backward passes add to the local gradients only: for all parts of a step but the last."""
        ...


class Objective:
    """A system's modules, its loss, how it is validated. Subclass it; `modules`, `example` and `loss` are a must."""

    modules: Mapping[str, nn.Module]
    """Trained and stored in every checkpoint. Parameters with `requires_grad=False` are stored, not trained."""
    players: Sequence[Player] = ()
    """Who is trained, each module by one; none = a sole player with all modules, and `loss`."""
    turns: Sequence[Turn] = ()
    """What a training step consists of, in order; none = every player's loss once."""
    averaged: Collection[str] = ()
    """Of `modules`: those whose moving average is kept, where one is asked for; none = all."""
    now: int = 0
    """Steps done so far, as the loop tells: for what begins late or fades in."""
    frozen: Mapping[str, nn.Module] = {}
    """What is only used, in eval mode: pretrained helpers, the base of a branch or of an adapter; the constructor loads it from
    where the settings say. Parameters that one of `modules` holds as well (an adapter inside its base) are trained."""
    built_on: Mapping[str, str] = {}
    """The digests of what was loaded into `frozen`, by the setting that names its place, as `model.base`. Checkpoints keep them,
    and are refused where something else lies there now."""
    revisions: Mapping[str, str] = {}
    """Commits of what was loaded by a name on the hub, by the setting that names it: kept in checkpoints beside the versions."""
    words: Sequence[str] = ()
    """The list of words that texts are numbered by, where `text.words` names one: it goes with every checkpoint, and who takes up
    the checkpoint takes it from there."""
    group_of: Callable[[Collection[str]], int] | None = None
    """Where samples differ in shape: the group of a sample by the names of its fields. Batches then hold one group only."""
    multiply_adds: float | None = None
    """Of one sample's forward and backward pass, where they were counted: for estimates that cannot be measured."""
    fsdp_blocks: tuple[type[nn.Module], ...] = ()
    """Classes of the blocks that FSDP shards one by one (transformer layers, U-Net stages)."""

    def example(self) -> Example:
        """The picklable function that turns a sample into one row of a batch, inside a loader worker."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        """The mean loss of a batch (a scalar with a graph) and named metrics for the log."""
        raise NotImplementedError

    def step(self, parts: Sequence[Batch], parallel: Parallel) -> tuple[Tensor, Metrics]:
        """Forward and backward passes of one optimizer step; gradients are left in the parameters.

        Args:
            parts: this rank's share of the step's batch, cut into micro-batches of equal size. Indexing moves one to the
                device; nothing keeps it there.
            parallel: calls a method of this objective in the data-parallel wrapper.

        Override it where the loss needs the whole batch at once (contrastive accumulation with cached features). The
        gradient must be that of the mean over this rank's share; the wrapper averages over ranks. Several players' turns
        do not pass through it.

        Returns:
            the loss of this rank's share, detached, and the metrics, both averaged over the parts.
        """
        return accumulate("loss", parts, parallel)

    def texts_of(self, sample: Sample) -> Sequence[str]:
        """The texts of a sample that are read by `words`."""
        return ()

    def validate(self, batches: Iterable[Batch]) -> Report:
        """Measure on the validation batches (not shuffled, not augmented; eval mode, no gradients, EMA weights if kept).

        Every rank runs this over all validation batches; rank 0's report counts. The default is the mean loss.
        """
        loss, sums, count = 0.0, {}, 0
        for batch in batches:
            size = len(batch["key"])
            value, metrics = self.loss(batch)
            loss, count = loss + float(value) * size, count + size
            for name, figure in metrics.items():
                sums[name] = sums.get(name, 0.0) + float(figure) * size
        if not count:
            raise LtError("The validation set has no samples.", "Name another one: --set data.validation=DIR.")
        means = {name: value / count for name, value in sums.items()}
        return Report({"loss": loss / count, **means}, score=-loss / count)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups; `lr_scale` in a group multiplies the rate. Default: no decay for vectors and scalars."""
        trained = [p for m in self.modules.values() for p in m.parameters() if p.requires_grad]
        trained = list({id(p): p for p in trained}.values())  # modules may share weights
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def pretrained(self) -> str:
        """Load the pretrained weights that the settings name: called once, when a run starts from nothing. What is to be said of
        them, or ""."""
        return ""

    def adopt(self, folder: Path) -> bool:
        """Start from weights in another library's format where `folder`, named by `train.init`, holds such; False where not."""
        return False

    def after_step(self) -> None:
        """Called at the end of every training step: the place to clamp a temperature."""

    def export(self, folder: Path) -> None:
        """Write the modules in their ecosystem's format (a diffusers or transformers folder)."""
        raise LtError(
            f"{type(self).__name__} has no export format.", "Its checkpoints are safetensors: read them as they are."
        )


def accumulate(
    method: str, parts: Sequence[Batch], parallel: Parallel, factor: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Forward and backward passes of an objective's method over micro-batches, see `Objective.step`.

    Args:
        factor: of the gradient; the loss that is returned is without it.
    """
    total, sums = torch.zeros(()), {}
    for number in range(len(parts)):
        with parallel.no_sync() if number < len(parts) - 1 else nullcontext():
            loss, metrics = parallel(method, parts[number])
            (loss * (factor / len(parts))).backward()
        total = total.to(loss.device) + loss.detach() / len(parts)
        for name, value in metrics.items():
            sums[name] = sums.get(name, 0.0) + torch.as_tensor(value).detach() / len(parts)
    return total, sums
