"""`lt reproduce`: re-test a paper's claims in miniature, and say which are confirmed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, print_table

if TYPE_CHECKING:
    from lt.recipes.reproduce import Result
    from lt.recipes.training.loop import Progress


def reproduce(
    name: str = typer.Argument(help="The system: filip | wukong | pangu"),
    seeds: int = typer.Option(3, "--seeds", min=1, help="Independent runs of every variant."),
    steps: int = typer.Option(
        None, "--steps", min=1, help="Fewer steps: tests the machinery, not the claims.", show_default="the study's"
    ),
    out: Path = typer.Option(None, "--out", help="Folder of all runs.", show_default="runs/reproduce-<system>"),
    jobs: int = typer.Option(
        None,
        "--jobs",
        min=1,
        help="Runs at once, of one thread each.",
        show_default="one a core; 1 with an accelerator",
    ),
    ledger: list[str] = typer.Option(
        None, "--ledger", help="With pangu: only estimate the efficiency table for the pictures of these shards."
    ),
    as_json: bool = JsonOption,
) -> None:
    """Re-test a paper's claims in miniature: train what it compares at equal budget over several seeds, and judge."""
    if ledger:
        _print_ledger(name, ledger, as_json)
        return
    from lt.recipes.claims import find_study
    from lt.recipes.reproduce import reproduce as run
    from lt.recipes.reproduce import usual_jobs

    study = find_study(name)
    folder = out or Path("runs") / (f"reproduce-{name}" + (f"-{steps}-steps" if steps else ""))
    with _progress() as watch:
        result = run(study, folder, seeds, steps, note, watch, jobs or usual_jobs())
    if as_json:
        print_json(asdict(result))
    else:
        _print(result)
    note(f"{folder / 'claims.json'}: {result.seconds / 60:,.1f} minutes of training and measuring in all.")


def _print_ledger(name: str, where: list[str], as_json: bool) -> None:
    from lt.datagen.shards import UsageError

    if name != "pangu":
        raise UsageError(f"{name} has no efficiency table.", "Say: lt reproduce pangu --ledger DATA")
    from lt.recipes.pangu.ledger import estimated, sizes_of

    table = estimated(sizes_of(where))
    if as_json:
        print_json(asdict(table))
    else:
        print_table(table.headings, table.rows, table.title)


def _print(result: "Result") -> None:
    for claim in result.claims:
        rows = [
            [label, round(ours["value"], 3), f"{ours['low']:.3g} to {ours['high']:.3g}"]
            for label, ours in claim["ours"].items()
        ]
        print_table(["ours", "value", "± 2 s.e."], rows, f"{claim['statement']}: {claim['verdict'].upper()}")
        print(
            f"  paper: {claim['paper']}\n  rule: {claim['rule']}"
            + (f"\n  {claim['remark']}" if claim["remark"] else "")
        )
        print()
    for table in result.tables:
        print_table(table.headings, table.rows, table.title)
    if not result.full:
        print("A shortened run: these verdicts test the machinery, not the claims.")


@contextmanager
def _progress() -> "Iterator[Callable[[str, Progress], None]]":
    """One line on stderr for the run in motion. Silent where stderr is no terminal."""
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = ["{task.description}", progress.BarColumn(24), progress.MofNCompleteColumn(), "{task.fields[state]}"]
    with progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        task = bars.add_task("", total=None, state="")

        def watch(run: str, now: "Progress") -> None:
            state = f"loss {now.loss:.4g} · {now.seconds_left:,.0f} s left in this run"
            bars.update(task, description=run, completed=now.step, total=now.steps, state=state)

        yield watch
