# ruff: noqa: E402 - paths and threads come before torch
"""The toy system, importable by name here and in worker processes, and runs in this process or in ones that can be killed."""

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
sys.path.insert(0, HERE)
os.environ["PYTHONPATH"] = os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])  # the server's own sys.path
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import toy

from lt.recipes import registry

torch.set_num_threads(1)

_SPEC = importlib.util.spec_from_file_location("tiny_pipelines", Path(__file__).parents[1] / "models" / "conftest.py")
assert _SPEC is not None and _SPEC.loader is not None
_PIPELINES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_PIPELINES)
tiny_sd, tiny_sdxl, tiny_pixart = _PIPELINES.tiny_sd, _PIPELINES.tiny_sdxl, _PIPELINES.tiny_pixart


@pytest.fixture(scope="session", autouse=True)
def toy_system():
    """The toys in the registry; processes start from a server that has imported it, and torch with it."""
    registry.SYSTEMS.update(toy="toy", toy_players="toy_players", toy_rounds="toy_rounds")
    multiprocessing.set_forkserver_preload(["toy"])
    yield
    for name in ("toy", "toy_players", "toy_rounds"):
        del registry.SYSTEMS[name]


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """200 good samples in 5 shards."""
    folder = tmp_path_factory.mktemp("shards")
    toy.write_shards(folder, 200)
    return folder
