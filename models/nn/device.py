"""The one device that this process computes on, with which precision, and the devices that the machine has."""

import os

import torch

VARIABLE = "LT_DEVICE"
"""Set by the engine in each of its worker processes when it deals out several devices, such as `cuda:1`."""


def device() -> torch.device:
    """What `LT_DEVICE` names, else the current accelerator (CUDA, MPS ...), else the processor."""
    if named := os.environ.get(VARIABLE):
        return torch.device(named)
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def dtype_for(where: torch.device) -> torch.dtype:
    """Of weights that only draw: half precision on an accelerator, full on the processor."""
    return torch.float32 if where.type == "cpu" else torch.float16


def accelerators() -> tuple[str, ...]:
    """Every accelerator of this machine, such as ("cuda:0", "cuda:1"); empty without one."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    return tuple(f"{kind.type}:{index}" for index in range(torch.accelerator.device_count())) if kind else ()
