"""Every recipe learns the same with sharded weights (`train.parallel=fsdp`), on two gloo ranks."""

import os
import subprocess
import sys

import fsdp_ranks
import pytest
import torch

from lt.recipes.registry import systems_with


def test_every_recipe_is_tried():
    toys = {name for name in systems_with("recipe") if name.startswith("toy")}
    assert {system for system, *_ in fsdp_ranks.RECIPES.values()} == set(systems_with("recipe")) - toys


@pytest.mark.slow
def test_sharded_weights_learn_as_whole_ones_do(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        fsdp_ranks.__file__,
        str(tmp_path),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr
    for rank in range(2):
        for recipe, steps in torch.load(tmp_path / f"{rank}.pt", weights_only=True).items():
            plain, sharded = steps["whole"], steps["sharded"]
            assert plain.keys() == sharded.keys() and any(name.startswith("gradient") for name in plain)
            for name, value in plain.items():
                torch.testing.assert_close(sharded[name], value, rtol=1e-4, atol=1e-6, msg=f"{recipe}: {name}")
