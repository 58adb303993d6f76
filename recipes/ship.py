"""Make shipped weights of trained runs: `python -m lt.recipes.ship filip` takes `runs/filip-tiny` (see shipped.py)."""

import shutil
import sys
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from torch import Tensor

from lt.datagen.shards import LtError
from lt.recipes.registry import UsualRun, find_recipe, systems_with
from lt.recipes.shipped import SCHEME, weights_folder
from lt.recipes.training import checkpoints
from lt.recipes.training.objective import Objective
from lt.recipes.training.plan import make_plan, needs_of

LIMIT = 8_000_000
"""Bytes of one system's shipped weights."""


def shipping() -> dict[str, UsualRun]:
    """The runs that ship, by the name under which they do, as their cards say."""
    runs = [UsualRun(system, preset) for system in systems_with("recipe") for preset in find_recipe(system).presets]
    return {name: run for run in runs if (name := run.card.header.get("ships as"))}


def ship(run: Path, target: Path) -> Path:
    """Write a run's best checkpoint as shipped weights into a folder.

    What it was built on (`runs/vae-tiny`) becomes the shipped one of that name (`lt:vae-tiny`), which must be shipped before.

    Raises:
        LtError: the run has no checkpoint, or what it was built on is not shipped.
    """
    objective, record = checkpoints.restore(run)
    settings = _as_shipped(record.settings)
    record = record.model_copy(update={"settings": settings, "losses": {}})
    recipe = find_recipe(record.system)
    built_on = recipe.objective(checkpoints.settings_of(record, recipe.settings)).built_on
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    record = record.model_copy(update={"built_on": built_on})
    checkpoints.write(target, record, {"model": _halved(objective)}, objective.words)
    shutil.copyfile(run / "log.jsonl", target / "log.jsonl")
    return target


def _halved(objective: Objective) -> dict[str, Tensor]:
    """Weights in half precision; single numbers stay as they are."""
    weights = checkpoints.weights_of(objective)
    return {name: t.half() if t.is_floating_point() and t.ndim else t for name, t in weights.items()}


def _as_shipped(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that name what ships; what a run started from is history, and stays."""
    known = {str(run.out): SCHEME + name for name, run in shipping().items()}
    return {
        key: known.get(value, value) if isinstance(value, str) and key != "train.init" else value
        for key, value in settings.items()
    }


def in_order(runs: Mapping[str, UsualRun]) -> Iterable[str]:
    """Names of runs, each after those that it builds on."""
    needs = {
        name: {need.out for need in needs_of(make_plan(find_recipe(run.system), run.preset))}
        for name, run in runs.items()
    }
    graph = {name: [other for other, run in runs.items() if run.out in needs[name]] for name in runs}
    return TopologicalSorter(graph).static_order()


def main(systems: list[str]) -> None:
    """Ship the runs of some systems from `runs/`. Raises LtError if they are too large."""
    for system in systems:
        folder = weights_folder(system)
        own = {name: run for name, run in shipping().items() if run.system == system}
        for name in in_order(own):
            ship(own[name].out, folder / name)
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
        print(f"{system}: {size:,} bytes of weights in {folder}")
        if size > LIMIT:
            raise LtError(f"The weights of {system} have {size:,} bytes, the limit is {LIMIT:,}.")


if __name__ == "__main__":
    main(sys.argv[1:])
