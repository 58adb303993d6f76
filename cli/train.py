"""`lt train`: train a system on shards; the same command again continues, and says when there is nothing to do."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, progress_bars
from lt.cli.verbs import Systems

if TYPE_CHECKING:
    from lt.recipes.config import Section
    from lt.recipes.system import System, TrainOptions
    from lt.recipes.training.loop import Outcome, Progress
    from lt.recipes.training.plan import RunPlan


def train(
    name: str,
    own: "TrainOptions",
    data: list[str] = typer.Option(
        [], "--data", help="Shards: folder, tar, pattern or URL; may be repeated.", show_default="the built-in world"
    ),
    preset: str = typer.Option(None, "--preset", help="tiny | paper | another card.", show_default="as fits"),
    card: Path = typer.Option(None, "--card", help="A card of your own, in YAML.", show_default=False),
    settings: list[str] = typer.Option([], "--set", help="A setting, as train.lr=3e-4; see --show."),
    steps: int = typer.Option(None, "--steps", min=1, help="Short for --set train.steps=N.", show_default=False),
    seed: int = typer.Option(None, "--seed", min=0, help="Short for --set train.seed=N.", show_default=False),
    out: Path = typer.Option(None, "--out", help="Folder of the run.", show_default="runs/<system>-<preset>"),
    resume: bool = typer.Option(False, "--resume", help="Insist on a checkpoint to continue (it is used in any case)."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print parameters, memory and time, and stop."),
    show: bool = typer.Option(False, "--show", help="Print the settings with a line on each, and stop."),
    export: Path = typer.Option(
        None, "--export", help="Write the run's model for other libraries (ONNX, transformers ...) here, and stop."
    ),
    as_json: bool = JsonOption,
) -> None:
    """Train `name`, whose own options are `own`."""
    from lt.recipes import registry
    from lt.recipes.training.parallel import leave_ranks
    from lt.recipes.training.plan import completing, make_plan, missing_first

    given = {"data.train": json.dumps(data) if data else None, "train.steps": steps, "train.seed": seed}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None] + settings
    plan = make_plan(registry.find_recipe(name), own.preset(preset), card, overrides, out)
    if show:
        _show(plan, as_json)
    elif dry_run:
        _dry_run(plan, as_json)
    elif export:
        _export(plan, export)
    else:
        for first in missing_first(plan):
            note(f"{plan.out} builds on {first.out}, which is trained first:")
            _train(first, resume=False, as_json=False)
        _train(plan, resume, as_json)
        for further in completing(plan):
            note(f"{further.out} makes {plan.recipe.name} whole:")
            _train(further, resume=False, as_json=False)
        leave_ranks()


class Training(Systems):
    """`lt train NAME`."""

    function = staticmethod(train)
    part = "recipe"
    example = "lt train {} --set train.lr=3e-4"

    def does(self, name: str, system: "System") -> "tuple[Callable[..., None], type[Section]]":
        return lambda own, **values: train(name, own, **values), system.train


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


def _export(plan: "RunPlan", folder: Path) -> None:
    from lt.recipes.training import checkpoints

    checkpoints.export(plan.out, folder)
    note(f"{plan.out} is written to {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}.")


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
    if outcome.status == "nothing to do":
        return f"Nothing to do: {outcome.out} has all its {outcome.steps:,} steps ({metrics})."
    if outcome.status == "stopped":
        return (
            f"Stopped after step {outcome.step:,} of {outcome.steps:,}; saved as {outcome.checkpoint}. "
            "The same command continues."
        )
    return f"Done: {outcome.steps:,} steps, {outcome.seconds:,.0f} s; {outcome.checkpoint} ({metrics})."
