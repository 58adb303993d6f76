"""`lt reproduce`: re-test a paper's claims in miniature, and say which are confirmed."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import note, print_json, print_table, progress_bars
from lt.cli.verbs import Systems, show

if TYPE_CHECKING:
    from lt.recipes.reproduce import Result
    from lt.recipes.system import ReproduceOptions
    from lt.recipes.training.loop import Progress


def reproduce(name: str, options: "ReproduceOptions", as_json: bool) -> None:
    """Train, measure, judge and print."""
    from lt.recipes.claims import find_study
    from lt.recipes.reproduce import reproduce as run_study
    from lt.recipes.reproduce import usual_jobs

    if answer := options.instead(note):
        show(answer, as_json)
        return
    usual = f"reproduce-{name}" + (f"-{options.steps}-steps" if options.steps else "")
    folder = options.out or Path("runs") / usual
    with progress_bars(brief=True) as bar:

        def watch(run: str, now: "Progress") -> None:
            bar(run, now.step, now.steps, _how_far(now))

        jobs = options.jobs or usual_jobs()
        result = run_study(find_study(name), folder, options.seeds, options.steps, note, watch, jobs)
    if as_json:
        print_json(asdict(result))
    else:
        _print(result)
    note(f"{folder / 'claims.json'}: {result.seconds / 60:,.1f} minutes of training and measuring in all.")


class Reproducing(Systems):
    """`lt reproduce NAME`."""

    part = "study"
    example = "lt reproduce {}"
    run = staticmethod(reproduce)


app = typer.Typer(
    cls=Reproducing,
    no_args_is_help=True,
    epilog="Example: lt reproduce filip",
    help="Re-test a paper's claims in miniature: train what it compares at equal budget over several seeds, and judge.",
)


def _how_far(now: "Progress") -> str:
    return f"{now.step:,}/{now.steps:,} · loss {now.loss:.4g} · {now.seconds_left:,.0f} s left in this run"


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
