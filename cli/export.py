"""`lt shards export` and `lt shards page`: shards for people and for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lt.datagen.shards import Reject, Sample, Shards

Where = typer.Argument(help="Folder, .tar, brace pattern or URL.")
Limit = typer.Option(None, "--limit", min=1, help="Only the first so many samples.", show_default="all")


def export(
    where: str = Where,
    kind: str = typer.Option(..., "--format", "-f", help="png | ora (GIMP, Krita) | psd | coco"),
    out: Path = typer.Option(..., "--out", help="Folder to fill."),
    keys: list[str] = typer.Option([], "--key", help="Only this sample; may be repeated."),
    limit: int = Limit,
    as_json: bool = JsonOption,
) -> None:
    """Write samples as files that other programs open. Files that are there already are left as they are."""
    from itertools import islice

    from lt.datagen.shards import export as library
    from lt.datagen.shards import open_shards

    shards = open_shards(where)
    samples = _picked(shards, keys) if keys else shards.samples_and_rejects()
    total = len(keys) or min(len(shards), limit or len(shards))
    with progress_bar("export", "samples") as show:
        done = library.export(islice(samples, limit), out, kind, lambda number: show(number, total))
    _report(done.rejects)
    if as_json:
        rejects = [[reject.key, reject.reason, reject.detail] for reject in done.rejects]
        print_json({"out": str(out), "written": done.written, "present": done.present, "rejects": rejects})
    else:
        present = f", {done.present:,} were there" if done.present else ""
        note(f"{done.written:,} samples written to {out}{present}, {len(done.rejects):,} could not be.")
    if done.rejects:
        raise typer.Exit(1)


def _picked(shards: "Shards", keys: list[str]) -> "Iterator[Sample | Reject]":
    """The samples of these keys; an unknown one is an error, a damaged one a reject."""
    from lt.datagen.shards import Reject, ShardError

    for key in keys:
        try:
            yield shards[key]
        except ShardError as error:
            if key not in shards:
                raise
            yield Reject(key, "damaged-bytes", error.message)


def page(
    where: str = Where,
    out: Path = typer.Option(None, "--out", help="Folder for the page.", show_default="<folder>-page"),
    title: str = typer.Option(None, "--title", help="Heading of the page.", show_default="name of the folder"),
    limit: int = Limit,
    as_json: bool = JsonOption,
) -> None:
    """Draw a web page that shows every sample, layer, box, caption and reject. It opens without a server."""
    from lt.datagen.shards import open_shards
    from lt.datagen.shards.page.build import build_page

    shards = open_shards(where)
    name = where.rstrip("/").removesuffix(".tar")
    folder = out or Path(f"{name if '://' not in name else Path(name).name}-page")
    total = min(len(shards), limit or len(shards))
    with progress_bar("page", "samples") as show:
        built = build_page(shards, folder, title or Path(name).name, limit, lambda number: show(number, total))
    _report(built.rejects)
    if as_json:
        print_json({"index": str(built.index), "samples": built.samples, "rejects": len(built.rejects)})
    else:
        note(f"{built.samples:,} samples on {built.index} (open it in a browser).")
    if built.rejects and not built.samples:
        raise typer.Exit(1)


def _report(rejects: "list[Reject]", most: int = 5) -> None:
    for reject in rejects[:most]:
        note(f"  {reject.key}: {reject.reason} {reject.detail}".rstrip())
    if len(rejects) > most:
        note(f"  ... and {len(rejects) - most} more")
