"""`lt datagen`: make data sets. Each command builds a pipeline and runs it; the same command again continues it."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, print_table, progress_bars
from lt.cli.verbs import DevicesOption, Verbs

if TYPE_CHECKING:
    from lt.datagen.engine.stage import Source
    from lt.datagen.fetch import Step

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    epilog="Example: lt datagen scenes --count 200 --size 128",
    help="Make data sets: layered pictures, built-in worlds; fetch what others host.",
)

Out = typer.Option(None, "--out", help="Folder for the shards.", show_default="data/<name>")
Workers = typer.Option(1, "--workers", min=1, help="Worker processes.")
Engine = typer.Option("local", "--engine", help="local | ray")
Limit = typer.Option(None, "--limit", min=1, help="Only the first so many pictures.")

_COCO = Path("data/coco")


@app.command(epilog="Example: lt datagen layers --src photos")
def layers(
    where: str = typer.Argument(None, help="A folder of pictures, COCO, or shards.", show_default=False),
    src: str = typer.Option(
        None, "--src", help="photos | coco | folder | shards", show_default="what WHERE holds; else photos"
    ),
    root: Path = typer.Option(None, "--root", help="With --src coco: its folder, as WHERE.", show_default=str(_COCO)),
    split: str = typer.Option(None, "--split", help="With --src coco: which split.", show_default="val2017"),
    limit: int = Limit,
    settings: list[str] = typer.Option([], "--set", help="A setting of a stage, as name=value; see --show."),
    show: bool = typer.Option(False, "--show", help="Print the settings with a line on each, and stop."),
    out: Path = Out,
    workers: int = Workers,
    engine: str = Engine,
    devices: str = DevicesOption,
    as_json: bool = JsonOption,
) -> None:
    """Photographs in, layers out: masks, mattes, z-order, completed backgrounds, captions per layer."""
    src = src or _kind_of(where)
    source = None if show else _layer_source(src, where, root, split, limit)
    from lt.cli.progress import run_with_table
    from lt.datagen.layers import LayersSettings, layers_pipeline
    from lt.recipes import config
    from lt.recipes.devices import devices_for

    chosen = config.resolve(LayersSettings, overrides=settings)
    if source is None:
        print_table(["setting", "value", "from", "what"], config.show(chosen))
        return
    pipeline = layers_pipeline(source, chosen.settings)
    out = out or Path(f"data/layers-{src}")
    run_with_table(pipeline, out, workers, engine, as_json, devices_for(pipeline, devices))


@app.command(epilog="Example: lt datagen fetch coco --split val2017 --limit 100")
def fetch(
    name: str = typer.Argument(help="coco"),
    split: str = typer.Option("val2017", "--split", help="val2017 | train2017"),
    limit: int = typer.Option(
        None, "--limit", min=1, help="Only the first so many pictures, one by one.", show_default="all"
    ),
    out: Path = typer.Option(_COCO, "--out", help="Folder to fill."),
    site: str = typer.Option(
        None, "--site", help="Another address that serves the same files.", show_default="COCO's own"
    ),
    as_json: bool = JsonOption,
) -> None:
    """Download a data set that others host; the same command again continues."""
    from lt.datagen.fetch import COCO_SITE, fetch_coco
    from lt.datagen.shards.errors import UsageError

    if name != "coco":
        raise UsageError(f"Nothing to fetch is called {name!r}.", "Known: coco.")
    with progress_bars() as bar:

        def watch(step: "Step") -> None:
            bar(step.what, step.done, step.total, unit="B" if step.unit == "bytes" else step.unit)

        fetched = fetch_coco(out, split, limit, site or COCO_SITE, watch)
    if as_json:
        print_json({"root": str(fetched.root), "pictures": fetched.pictures, "downloaded": fetched.downloaded})
        return
    state = f"{fetched.downloaded} files downloaded" if fetched.downloaded else "nothing to do"
    note(f"{fetched.pictures} pictures of {split} in {fetched.root} ({state}).")
    note(f"Next: lt datagen layers --src coco --root {fetched.root} --split {split}")


def _kind_of(where: str | None) -> str:
    """Which --src reads it."""
    from lt.datagen.sources.pictures import PICTURE_SUFFIXES

    if where is None:
        return "photos"
    path = Path(where)
    if (path / "annotations").is_dir():
        return "coco"
    is_pictures = path.is_dir() and not any(path.glob("*.tar"))
    return "folder" if is_pictures or path.suffix.lower() in PICTURE_SUFFIXES else "shards"


def _layer_source(src: str, where: str | None, root: Path | None, split: str | None, limit: int | None) -> "Source":
    from lt.datagen.shards.errors import UsageError
    from lt.datagen.sources.coco import CocoSource, photos_source
    from lt.datagen.sources.folder import FolderSource
    from lt.datagen.sources.shards import ShardSource
    from lt.recipes.config import nearest

    if src not in ("photos", "coco", "folder", "shards"):
        raise UsageError(f"Unknown source {src!r}.", nearest(src, ("photos", "coco", "folder", "shards")))
    if src != "coco" and (root or split):
        raise UsageError(f"--root and --split go with --src coco, not with {src}.")
    if src == "photos":
        if where is not None:
            raise UsageError(f"--src photos are those that ship with lt; {where} would not be read.", "Leave one out.")
        return photos_source(limit)
    if src == "coco":
        if where and root:
            raise UsageError(f"COCO is in {where}, or in --root {root}?", "Name one of them.")
        return CocoSource(root or (Path(where) if where else _default_coco()), split or "val2017", limit)
    if where is None:
        raise UsageError(f"--src {src} needs a folder.", f"For example: lt datagen layers --src {src} my-pictures")
    if src == "folder":
        return FolderSource(Path(where), limit)
    if limit:
        raise UsageError("--limit does not go with shards.", "Cut them first: lt shards reshard")
    return ShardSource(where)


def _default_coco() -> Path:
    from lt.datagen.shards.errors import LtError

    if (_COCO / "annotations").is_dir():
        return _COCO
    raise LtError(
        f"COCO is not in {_COCO}/ (val2017: 0.8 GB of pictures, 0.25 GB of annotations).",
        "Fetch it:        lt datagen fetch coco --split val2017        (add --limit 100 for a taste)\n"
        "  Have it already: lt datagen layers --src coco --root DIR --split val2017\n"
        "  What runs now:   lt datagen layers --src photos",
    )
