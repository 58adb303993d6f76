"""Gathering rows from all ranks, with gradients. Without a process group every function is the identity.

Convention, as in open_clip's `gather_with_grad`: the backward pass *sums* over ranks what each rank's loss says about a row, and
the data-parallel wrapper then *averages* parameter gradients over ranks. Together that is the gradient of the mean of all ranks'
losses (and of the whole batch's loss, whether each rank computes its own rows or all of them).
"""

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of ranks; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, wire: torch.dtype | None) -> Tensor:
        sent = rows.to(wire or rows.dtype).contiguous()
        parts = [torch.empty_like(sent) for _ in range(world_size())]
        dist.all_gather(parts, sent)
        return torch.cat(parts).to(rows.dtype)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(world_size())[rank()], None


def gather_rows(rows: Tensor, wire: torch.dtype | None = None) -> Tensor:
    """Rows [b, ...] of every rank, in rank order: [ranks * b, ...]. Every rank must pass the same shape.

    `wire` is the type that travels (FILIP sends fp16); the result has the type of `rows`. The rounding is treated as the
    identity in the backward pass, and gradients travel back unrounded: many of them lie below fp16's smallest number.
    """
    return rows if world_size() == 1 else _GatherRows.apply(rows, wire)


def gather_constant(rows: Tensor) -> Tensor:
    """As `gather_rows` for masks and numbers, which have no gradient."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)
