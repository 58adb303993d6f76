"""How commands speak: results on stdout (json with `--json`), everything else on stderr, progress only on a terminal."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
def progress_bar(what: str, unit: str = "") -> "Iterator[Callable[[int, int], None]]":
    """A bar on stderr with amount, rate and time left; silent where stderr is no terminal.

    Yields:
        a function of (done, total). `unit` is `B` for bytes, else the name of what is counted.
    """
    from rich import filesize, progress
    from rich.console import Console

    def amount(value: float) -> str:
        return filesize.decimal(int(value)) if unit == "B" else f"{value:,.0f} {unit}".rstrip()

    console = Console(stderr=True)
    columns = ["{task.description}", progress.BarColumn(), "{task.fields[state]}", progress.TimeRemainingColumn()]
    with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(what, total=None, state="")

        def show(done: int, total: int) -> None:
            speed = bars.tasks[task].speed
            rate = f", {amount(speed)}/s" if speed else ""
            bars.update(task, completed=done, total=total, state=f"{amount(done)} of {amount(total)}{rate}")

        yield show


def note(message: str) -> None:
    """A line for people on stderr."""
    print(message, file=sys.stderr)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
