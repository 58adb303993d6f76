"""How commands speak: results on stdout (json with `--json`), everything else on stderr, progress only on a terminal."""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

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


def note(message: str) -> None:
    """A line for people on stderr."""
    print(message, file=sys.stderr)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
