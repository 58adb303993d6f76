"""`lt train`: train a system on shards; the same command again continues, and says when there is nothing to do."""

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import note, print_json, progress_bars
from lt.cli.verbs import Systems

if TYPE_CHECKING:
    from lt.recipes.system import TrainOptions
    from lt.recipes.training.loop import Outcome, Progress
    from lt.recipes.training.plan import RunPlan


def train(name: str, options: "TrainOptions", as_json: bool) -> None:
    """Train a system."""
    from lt.recipes.registry import find_recipe
    from lt.recipes.training.parallel import leave_ranks
    from lt.recipes.training.plan import completing, make_plan, missing_first

    data = json.dumps(options.data) if options.data else None
    given = {"data.train": data, "train.steps": options.steps, "train.seed": options.seed}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None] + options.settings
    plan = make_plan(find_recipe(name), options.card_name, options.card, overrides, options.out)
    if options.show:
        _show(plan, as_json)
    elif options.dry_run:
        _dry_run(plan, as_json)
    elif options.export:
        _export(plan, options.export, as_json)
    else:
        for first in [] if options.resume else missing_first(plan):
            note(f"{plan.out} builds on {first.out}, which is trained first:")
            _train(first, resume=False, as_json=False)
        _train(plan, options.resume, as_json)
        for further in completing(plan):
            note(f"{further.out} makes {plan.recipe.name} whole:")
            _train(further, resume=False, as_json=False)
        leave_ranks()


class Training(Systems):
    """`lt train NAME`."""

    part = "recipe"
    example = "lt train {} --set train.lr=3e-4"
    run = staticmethod(train)


app = typer.Typer(
    cls=Training,
    no_args_is_help=True,
    epilog="Example: lt train filip --data data/scenes-train --set train.lr=3e-4",
    help="Train a system. On a laptop, with nothing else said: its tiny preset on a built-in world.",
)


def _show(plan: "RunPlan", as_json: bool) -> None:
    from lt.recipes.config import show

    rows = show(plan.resolved)
    if as_json:
        print_json([dict(zip(("setting", "value", "from", "what"), row, strict=True)) for row in rows])
        return
    cells = [(key, str(value), origin, what) for key, value, origin, what in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    for row in cells:  # one line each, however long: for grep
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]))


def _dry_run(plan: "RunPlan", as_json: bool) -> None:
    from dataclasses import asdict

    from lt.recipes.training.loop import dry_run
    from lt.recipes.training.plan import missing_first

    waiting = missing_first(plan)
    for first in waiting:
        note(f"{plan.out} builds on {first.out}, which is not there yet and is trained first.")
    now = waiting[0] if waiting else plan
    estimate = dry_run(now, note)
    for later in [*waiting[1:], plan] if waiting else []:
        note(f"{later.out} can be estimated once what it builds on is there.")
    if as_json:
        print_json({"run": str(now.out), **asdict(estimate), "memory": estimate.memory})


def _export(plan: "RunPlan", folder: Path, as_json: bool) -> None:
    from lt.recipes.training import checkpoints

    checkpoints.export(plan.out, folder)
    files = sorted(path.name for path in folder.iterdir())
    note(f"{plan.out} is written to {folder}: {', '.join(files)}.")
    if as_json:
        print_json({"run": str(plan.out), "out": str(folder), "files": files})


def _train(plan: "RunPlan", resume: bool, as_json: bool) -> None:
    from lt.recipes.training.loop import train
    from lt.recipes.training.parallel import leave_ranks

    with progress_bars(brief=True) as show:
        outcome = train(plan, note, lambda now: show("training", now.step, now.steps, _how_far(now)), resume)
    if outcome.main:
        note(_ending(outcome))
        if as_json:
            print_json(vars(outcome))
    if outcome.status == "stopped":
        leave_ranks(1)
        raise typer.Exit(1)


def _how_far(now: "Progress") -> str:
    left = timedelta(seconds=round(now.seconds_left))
    return f"{now.step:,}/{now.steps:,} · loss {now.loss:.4g} · {now.samples_per_second:,.1f} samples/s · {left} left"


def _ending(outcome: "Outcome") -> str:
    metrics = ", ".join(f"{name} {value:.4g}" for name, value in outcome.metrics.items())
    metrics = f" ({metrics})" if metrics else ""
    steps = f"{outcome.steps:,} step{'' if outcome.steps == 1 else 's'}"
    if outcome.status == "nothing to do":
        return f"Nothing to do: {outcome.out} has all its {steps}{metrics}."
    if outcome.status == "stopped":
        return (
            f"Stopped after step {outcome.step:,} of {outcome.steps:,}; saved as {outcome.checkpoint}. "
            "The same command continues."
        )
    return f"Done: {steps}, {outcome.seconds:,.0f} s; {outcome.checkpoint}{metrics}."
