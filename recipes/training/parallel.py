"""One rank or many: accelerate's device and processes, data-parallel wrapping, sharded tensors made whole."""

import os
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lt.recipes.config import TrainSettings
from lt.recipes.training.loader import to_device
from lt.recipes.training.objective import Batch, Objective


def make_accelerator(train: TrainSettings) -> Accelerator:
    """accelerate's handle on device and ranks, as `lt train`, `torchrun` or `accelerate launch` started us."""
    AcceleratorState._reset_state()  # a process may train several systems one after the other
    on_cpu = train.device == "cpu" or not torch.accelerator.is_available()
    return Accelerator(cpu=on_cpu, mixed_precision="bf16" if train.precision == "bf16" else "no")


def leave_ranks(code: int = 0) -> None:
    """End this process with an exit code once all ranks are here and all is done; a single process goes on.

    It ends at once, without taking anything down: with sharded weights a gloo process that took itself down died now and then by
    `std::terminate` (compare torch's issue 190489), its process group destroyed before or not, and a launcher then calls the
    finished run failed. After an error nobody leaves so: the others wait in a collective call, and the launcher ends them.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def place(objective: Objective, device: torch.device) -> None:
    """Move all that an objective holds to the device. What is frozen learns nothing, but what a trained module shares with it."""
    trained = {id(p) for module in objective.modules.values() for p in module.parameters() if p.requires_grad}
    for module in objective.frozen.values():
        module.eval()
        for parameter in module.parameters():
            parameter.requires_grad_(id(parameter) in trained)
    for module in [*objective.modules.values(), *objective.frozen.values()]:
        module.to(device)


class _Modules(nn.Module):
    """What is wrapped: modules of an objective, with one forward pass that calls any of its methods."""

    def __init__(self, objective: Objective, names: Collection[str]):
        super().__init__()
        self.parts = nn.ModuleDict({name: objective.modules[name] for name in names})
        self._call = objective.__getattribute__

    def forward(self, method: str, *args: Any) -> Any:
        return self._call(method)(*args)


class DataParallel:
    """Modules of an objective, which are on the device, wrapped for several ranks: the `Parallel` that its `step` is given.

    `ddp` copies the weights to every rank, `fsdp` shards them (torch's `fully_shard`: block by block, then the rest).
    In bf16 the forward pass runs under autocast; the weights stay fp32 either way.
    """

    def __init__(self, objective: Objective, names: Collection[str], accelerator: Accelerator, train: TrainSettings):
        self._accelerator = accelerator
        modules = _Modules(objective, names)
        if train.compile and accelerator.device.type == "cuda":
            for module in [*modules.parts.values(), *objective.frozen.values()]:
                module.compile()
        if train.parallel == "fsdp" and accelerator.num_processes > 1:
            _shard(modules, objective, accelerator.device)
            self._modules: Any = modules
        else:
            self._modules = accelerator.prepare_model(modules)

    def __call__(self, method: str, *args: Any) -> Any:
        with self._accelerator.autocast():
            return self._modules(method, *args)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        if isinstance(self._modules, FSDPModule):
            self._modules.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                self._modules.set_requires_gradient_sync(True)
        else:
            with self._accelerator.no_sync(self._modules):
                yield

    def reshard(self) -> None:
        """Drop the whole weights that FSDP keeps after a forward pass: the shards are about to change."""
        for module in self._modules.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _shard(modules: nn.Module, objective: Objective, device: torch.device) -> None:
    mesh = torch.distributed.device_mesh.init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in reversed(list(modules.modules())):  # inner blocks first
        if isinstance(block, objective.fsdp_blocks):
            fully_shard(block, mesh=mesh)
    fully_shard(modules, mesh=mesh)


class Parts(Sequence[Batch]):
    """A rank's micro-batches of one step; indexing moves one to the device."""

    def __init__(self, batches: list[Batch], device: torch.device):
        self._batches, self._device = batches, device

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> Any:
        return to_device(self._batches[number], self._device)


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a sharded one (all ranks must call this), any other as it is; on the CPU, contiguous."""
    tensor = tensor.detach()
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.to("cpu").contiguous()


def like(tensor: Tensor, pattern: Tensor) -> Tensor:
    """`tensor` on the pattern's device, sharded as the pattern is (scalars never are)."""
    tensor = tensor.to(pattern.device)
    if isinstance(pattern, DTensor) and tensor.ndim:
        return distribute_tensor(tensor, pattern.device_mesh, pattern.placements)
    return tensor
