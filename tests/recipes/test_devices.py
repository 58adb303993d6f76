"""What `--devices` means."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import UsageError
from lt.models.nn import device as places
from lt.recipes.devices import devices_for

PLAIN = Pipeline("plain", source=SimpleNamespace())  # pyright: ignore
MODELS = replace(PLAIN, stages=(SimpleNamespace(on_device=True),))  # pyright: ignore


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes torch say that there are so many CUDA devices."""

    def has(count: int) -> None:
        kind = torch.device("cuda") if count else None
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: kind)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)

    return has


def test_auto_is_all_accelerators_for_pipelines_that_compute_on_them(machine):
    machine(2)
    assert devices_for(MODELS) == ("cuda:0", "cuda:1") and devices_for(PLAIN) is None
    for few in (0, 1):  # each process finds the only one by itself
        machine(few)
        assert devices_for(MODELS) is None


def test_names_are_taken_as_they_stand_if_they_are_here(machine):
    machine(2)
    assert devices_for(PLAIN, "cuda:1, cpu") == ("cuda:1", "cpu") and devices_for(MODELS, "cuda") == ("cuda",)
    for wrong, message in [("cuda:2", "There is no device"), ("gpu", "is no device"), (",", "names no device")]:
        with pytest.raises(UsageError, match=message):
            devices_for(MODELS, wrong)


def test_a_process_computes_where_it_is_told_to(machine, monkeypatch):
    machine(2)
    assert places.device() == torch.device("cuda")
    monkeypatch.setenv(places.VARIABLE, "cuda:1")
    assert places.device() == torch.device("cuda:1")
