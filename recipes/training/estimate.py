"""What a run will take: parameters, memory and time, counted and measured before it starts.

Weights, gradients, optimizer state and moving average are counted. What the forward pass keeps for the backward is measured on
two small batches (bytes of all saved tensors that are no weights) and extrapolated linearly to the micro-batch, as is the time.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from lt.recipes.config import TrainSettings
from lt.recipes.training.loader import to_device
from lt.recipes.training.objective import Batch, Objective, Turn
from lt.recipes.training.players import turns_of

_STATES = 2
"""fp32 tensors per weight that the optimizer keeps: AdamW and LAMB both keep two."""


@dataclass(frozen=True)
class Size:
    """One module: parameters in all, and those that are trained."""

    name: str
    parameters: int
    trained: int


@dataclass(frozen=True)
class Estimate:
    """Bytes per rank, seconds, multiply-adds over all ranks; what was not measured or counted is None."""

    sizes: list[Size]
    weights: int
    gradients: int
    optimizer: int
    ema: int
    activations: int | None = None
    seconds_per_step: float | None = None
    multiply_adds_per_step: float | None = None

    @property
    def memory(self) -> int:
        """Bytes at the peak, as far as they are known."""
        return self.weights + self.gradients + self.optimizer + self.ema + (self.activations or 0)


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def counted(objective: Objective, train: TrainSettings, ranks: int) -> Estimate:
    """What can be known without running anything, per rank."""
    rows = [
        Size(name, _count(module.parameters()), _count(p for p in module.parameters() if p.requires_grad))
        for name, module in objective.modules.items()
    ]
    rows += [Size(name, _count(module.parameters()), 0) for name, module in objective.frozen.items()]
    modules = [*objective.modules.values(), *objective.frozen.values()]
    tensors = [tensor for module in modules for tensor in [*module.parameters(), *module.buffers()]]
    weights = sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
    trained = 4 * sum(row.trained for row in rows)
    averaged = 4 * sum(row.trained for row in rows if row.name in (objective.averaged or objective.modules))
    shards = ranks if train.parallel == "fsdp" else 1
    ema = averaged if train.ema or train.ema_kimg else 0
    memory = (part // shards for part in (weights, trained, _STATES * trained, ema))
    each = objective.multiply_adds
    return Estimate(rows, *memory, multiply_adds_per_step=each and each * train.batch)


def measured(
    objective: Objective, batch: Batch, train: TrainSettings, accelerator: Accelerator, micro: int
) -> Estimate:
    """`counted`, and the activations and seconds of one step, from two small forward and backward passes of `batch`.

    The objective must be on the device; its weights and buffers are left as they were.
    """
    ranks, device = accelerator.num_processes, accelerator.device
    before = counted(objective, train, ranks)
    buffers = [buffer for module in objective.modules.values() for buffer in module.buffers()]
    saved = [buffer.clone() for buffer in buffers]
    small, large = max(1, len(batch["key"]) // 4), len(batch["key"])
    with accelerator.autocast():
        low, high = (  # the first pass of a shape is slower: libraries plan for it
            min((_probe(objective, _cut(batch, size, device)) for _ in range(2)), key=lambda found: found[1])
            for size in (small, large)
        )
    for buffer, value in zip(buffers, saved, strict=True):
        buffer.copy_(value)
    steps = train.batch // ranks / micro
    activations = _extrapolate(small, low[0], large, high[0], micro)
    seconds = steps * _extrapolate(small, low[1], large, high[1], micro)
    return replace(before, activations=int(activations), seconds_per_step=seconds)


def _cut(batch: Batch, size: int, device: torch.device) -> Batch:
    return to_device({name: value[:size] for name, value in batch.items()}, device)


def _extrapolate(small: int, low: float, large: int, high: float, size: int) -> float:
    if small == large:
        return high * size / large
    slope = max(0.0, (high - low) / (large - small))
    return max(high, low) + slope * (size - large)


def _probe(objective: Objective, batch: Batch) -> tuple[int, float]:
    """(bytes kept for the backward pass at most, seconds) of the turns of one step; gradients are dropped."""
    held, seconds = zip(*(_probe_turn(objective, batch, turn) for turn in turns_of(objective)), strict=True)
    return max(held), sum(seconds)


def _probe_turn(objective: Objective, batch: Batch, turn: Turn) -> tuple[int, float]:
    held: dict[int, int] = {}
    modules = [*objective.modules.values(), *objective.frozen.values()]
    own = {p.untyped_storage().data_ptr() for module in modules for p in module.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    wait = torch.accelerator.synchronize if torch.accelerator.is_available() else lambda: None
    wait()
    start = time.perf_counter()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss, _ = getattr(objective, turn.method)(batch)
    loss.backward()
    wait()
    seconds = time.perf_counter() - start
    for module in objective.modules.values():
        module.zero_grad(set_to_none=True)
    return sum(held.values()), seconds / turn.every


def available(device: torch.device) -> int:
    """Bytes that are free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def describe(estimate: Estimate, train: TrainSettings, device: torch.device) -> list[str]:
    """The estimate for people: parameters and what is frozen, memory, time."""
    free = available(device)
    lines = [_describe_size(size) for size in estimate.sizes]
    parts = {"weights": estimate.weights, "gradients": estimate.gradients, "optimizer": estimate.optimizer}
    parts |= {"moving average": estimate.ema, "activations (measured)": estimate.activations or 0}
    listed = ", ".join(f"{name} {human_bytes(size)}" for name, size in parts.items() if size)
    lines.append(f"memory per rank: {human_bytes(estimate.memory)} ({listed}); {human_bytes(free)} are free")
    if estimate.memory - estimate.weights > free:  # the weights are there already
        lines.append(
            "this does not fit: try --set train.micro=1, a smaller batch, or train.parallel=fsdp on several GPUs"
        )
    if estimate.seconds_per_step is not None:
        total, steps = human_seconds(train.steps * estimate.seconds_per_step), "step" if train.steps == 1 else "steps"
        lines.append(
            f"time: about {total} for {train.steps:,} {steps} ({estimate.seconds_per_step:.3g} s each, measured)"
        )
    if estimate.multiply_adds_per_step:
        each = f"{estimate.multiply_adds_per_step:.3g} multiply-adds a step of {train.batch:,} samples"
        lines.append(f"compute: {each}, {train.steps * estimate.multiply_adds_per_step:.3g} in all (counted)")
    return lines


def _describe_size(size: Size) -> str:
    if not size.trained:
        return f"{size.name}: {size.parameters:,} parameters, frozen"
    frozen = size.parameters - size.trained
    return f"{size.name}: {size.parameters:,} parameters" + (f", {frozen:,} of them frozen" if frozen else "")


def human_bytes(size: float) -> str:
    """`3.2 GB`: three figures, powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def human_seconds(seconds: float) -> str:
    """`42 s`, `8 min`, `3.5 h`, `12 days`."""
    for unit, length, limit in (("s", 1, 90), ("min", 60, 5400), ("h", 3600, 172800)):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds / 86400:.3g} days"
