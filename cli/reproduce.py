"""`lt reproduce`: re-test a paper's claims in miniature, and say which are confirmed."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lt.cli.output import JsonOption, note, print_json, print_table, progress_bars
from lt.cli.verbs import Systems, show

if TYPE_CHECKING:
    from lt.recipes.config import Section
    from lt.recipes.reproduce import Result
    from lt.recipes.system import System
    from lt.recipes.training.loop import Progress


def reproduce(
    name: str,
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
    as_json: bool = JsonOption,
) -> None:
    """Train, measure, judge and print."""
    from lt.recipes.claims import find_study
    from lt.recipes.reproduce import reproduce as run_study
    from lt.recipes.reproduce import usual_jobs

    study = find_study(name)
    folder = out or Path("runs") / (f"reproduce-{name}" + (f"-{steps}-steps" if steps else ""))
    with progress_bars(brief=True) as bar:

        def watch(run: str, now: "Progress") -> None:
            bar(run, now.step, now.steps, _how_far(now))

        result = run_study(study, folder, seeds, steps, note, watch, jobs or usual_jobs())
    if as_json:
        print_json(asdict(result))
    else:
        _print(result)
    note(f"{folder / 'claims.json'}: {result.seconds / 60:,.1f} minutes of training and measuring in all.")


class Reproducing(Systems):
    """`lt reproduce NAME`."""

    function = staticmethod(reproduce)
    part = "study"
    example = "lt reproduce {}"

    def does(self, name: str, system: "System") -> "tuple[Callable[..., None], type[Section]]":
        from lt.recipes.config import Section
        from lt.recipes.system import imported

        def do(own: "Section", as_json: bool, **values: Any) -> None:
            if system.instead and (found := imported(system.instead.run)(own, note)):
                show(found, as_json)
            else:
                reproduce(name, as_json=as_json, **values)

        return do, system.instead.options if system.instead else Section


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
