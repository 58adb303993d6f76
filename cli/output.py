"""How commands speak: results on stdout (json with `--json`), everything else on stderr, progress only on a terminal."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

JsonOption = typer.Option(False, "--json", help="Print the result as json on stdout, for machines.")


def print_json(value: Any) -> None:
    """One json document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=1, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "") -> None:
    """A table on stdout; columns whose cells are all numbers are set right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*[Text(_cell(value)) for value in row])
    Console().print(table)


@contextmanager
def progress_bars(unit: str = "", brief: bool = False) -> "Iterator[Callable[..., None]]":
    """Bars on stderr, one for everything that is named, with amount, rate and time left; silent where stderr is no terminal.

    Args:
        unit: `B` for bytes, else the name of what is counted.
        brief: only the newest bar, and none when all is over.

    Yields:
        a function of (what, done, total), and optionally words in the place of amount and rate, or another unit.
    """
    from rich import filesize, progress
    from rich.console import Console

    console = Console(stderr=True)
    columns = ["{task.description}", progress.BarColumn(24), "{task.fields[state]}"]
    columns += [] if brief else [progress.TimeRemainingColumn()]
    with progress.Progress(*columns, console=console, disable=not console.is_terminal, transient=brief) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def show(what: str, done: int, total: int, words: str = "", unit: str = unit) -> None:
            def amount(value: float) -> str:
                return filesize.decimal(int(value)) if unit == "B" else f"{value:,.0f} {unit}".rstrip()

            if what not in tasks:
                for old in tasks.values() if brief else ():
                    bars.update(old, visible=False)
                tasks[what] = bars.add_task(what, state="")
            speed = bars.tasks[tasks[what]].speed
            rate = f", {amount(speed)}/s" if speed else ""
            state = words or f"{amount(done)} of {amount(total)}{rate}"
            bars.update(tasks[what], completed=done, total=total or None, state=state)

        yield show


@contextmanager
def progress_bar(what: str, unit: str = "") -> "Iterator[Callable[[int, int], None]]":
    """One bar, see `progress_bars`. Yields a function of (done, total)."""
    with progress_bars(unit) as show:
        yield partial(show, what)


def note(message: str) -> None:
    """A line for people on stderr."""
    print(message, file=sys.stderr)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
