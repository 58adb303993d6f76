"""`lt shards`: look at, check, index, cut anew and export any folder of shards."""

import typer

from lt.cli.output import JsonOption, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Look at, check, index, cut anew and export any folder of shards.")


@app.command(epilog="Example: lt shards ls data/scenes --limit 5")
def ls(
    where: str = typer.Argument(help="Folder, .tar, brace pattern or URL."),
    limit: int = typer.Option(20, min=1, help="How many samples to list."),
    as_json: bool = JsonOption,
) -> None:
    """List keys with their fields and captions."""
    from itertools import islice

    from lt.datagen.shards import open_shards

    rows = [[s.key, " ".join(s.fields), s.caption() or ""] for s in islice(open_shards(where), limit)]
    if as_json:
        print_json([dict(zip(("key", "fields", "caption"), row, strict=True)) for row in rows])
    else:
        print_table(["key", "fields", "caption"], rows)
