"""Run a pipeline and show it: a live table on stderr, a last line for people, the report as json on stdout where asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import note, print_json

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from lt.datagen.engine.run import RunReport, RunState
    from lt.datagen.engine.stage import Pipeline
    from lt.datagen.shards.manifest import StageMetrics

_MOST_FAILURES = 3


def run_with_table(
    pipeline: "Pipeline", out: Path, workers: int, engine: str, as_json: bool, devices: "Sequence[str] | None" = None
) -> None:
    """Run `pipeline` into `out` under a live table and say how it ended.

    Raises:
        typer.Exit: with code 1, after a word on how to go on, if tasks have failed or Ctrl-C was pressed.
        LtError: all samples were rejected.
    """
    from lt.datagen.engine.run import run_pipeline
    from lt.datagen.shards.errors import LtError

    try:
        with _live_table() as show:
            report = run_pipeline(pipeline, out, workers=workers, engine=engine, devices=devices, on_progress=show)
    except KeyboardInterrupt:  # typer would only say "Aborted"
        note(f"Stopped. {out} keeps what is finished; the same command again continues.")
        raise typer.Exit(1) from None
    note(summary(report, out))
    if as_json:
        print_json(report.model_dump(mode="json"))
    if report.exit_code:
        raise typer.Exit(report.exit_code)
    if not report.count:
        raise LtError(f"Nothing was made: all samples of {out} were rejected.", f"Why: lt shards info {out}")


def summary(report: "RunReport", out: Path) -> str:
    """What a run came to, in one line; in several if tasks have failed."""
    if report.failed:
        return _failures(report, out)
    size = f"{_many(report.count, 'sample')} in {_many(report.shards, 'shard')}"
    if report.nothing_to_do:
        return f"Nothing to do: {out} is complete ({size})."
    rejected = f"; rejected: {reasons(report.rejected)}" if report.rejected else ""
    before = f", {report.resumed} of {report.tasks} tasks were done before" if report.resumed else ""
    return f"{out}: {size}, {report.bytes / 1e6:,.1f} MB{rejected} ({report.seconds:,.1f} s{before})."


def _many(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _failures(report: "RunReport", out: Path) -> str:
    lines = [f"{len(report.failed)} of {report.tasks} tasks failed; {out} is not complete."]
    for failure in report.failed[:_MOST_FAILURES]:
        lines.append(f"  Task {failure.task}: {failure.error}")
        lines += [f"    {line}" for line in [failure.hint, *failure.trace.splitlines()[-8:]] if line]
    if len(report.failed) > _MOST_FAILURES:
        lines.append(f"  ... and {len(report.failed) - _MOST_FAILURES} more; --json lists them all.")
    return "\n".join([*lines, "The same command again tries only these tasks."])


def reasons(rejected: dict[str, int]) -> str:
    """Reasons with their counts, the most frequent first: `too-small 12, no-picture 1`."""
    ordered = sorted(rejected.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count:,}" for reason, count in ordered)


@contextmanager
def _live_table() -> "Iterator[Callable[[RunState], None] | None]":
    """A function that shows a state, or None where stderr is no terminal."""
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda state: live.update(render(state), refresh=True)


def render(state: "RunState") -> "RenderableType":
    """The table of a run: a row per stage, and below it how far the run is."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    ended = state.resumed + state.done + len(state.failed)
    foot = Table.grid(padding=(0, 1))
    foot.add_row(ProgressBar(max(state.tasks, 1), ended, width=16), Text(_how_far(state, ended)))
    return Group(_stage_table(state.stages), foot)


def _stage_table(stages: "list[StageMetrics]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(header_style="bold")
    table.add_column("stage", no_wrap=True)
    for name in ("kept", "seconds", "items/s", "in models"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("rejected")
    for row in stages:
        items = row.kept + sum(row.rejected.values())
        rate = _rate(items / row.seconds) if row.seconds > 0.001 else ""
        share = f"{row.model_seconds / row.seconds:.0%}" if row.model_seconds else ""
        table.add_row(Text(row.name), f"{row.kept:,}", f"{row.seconds:,.1f}", rate, share, Text(reasons(row.rejected)))
    return table


def _rate(items: float) -> str:
    return f"{items:,.0f}" if items >= 10 else f"{items:.1f}"


def _how_far(state: "RunState", ended: int) -> str:
    parts = [f"{ended}/{state.tasks} tasks"]
    if state.resumed:
        parts.append(f"{state.resumed} done before")
    if state.failed:
        parts.append(f"{len(state.failed)} failed")
    if state.stages and state.seconds:
        parts.append(f"{state.stages[-1].kept / state.seconds:,.1f} samples/s")
    left = state.seconds_left
    clock = timedelta(seconds=round(state.seconds))
    parts.append(f"{clock} gone" + ("" if left is None else f", {timedelta(seconds=round(left))} left"))
    return " · ".join(parts)
