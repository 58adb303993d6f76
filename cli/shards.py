"""`lt shards`: look at, check, index, cut anew and export any folder of shards."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from lt.datagen.shards.info import Info
    from lt.datagen.shards.verify import Report
    from lt.datagen.shards.why import Step, Story

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Example: lt shards info data/scenes-train",
    help="Look at, check, index, cut anew and export any folder of shards.",
)

Where = typer.Argument(help="Folder, .tar, brace pattern or URL.")
Key = typer.Argument(help="Key of the sample; `lt shards ls` lists them.")


@app.command(epilog="Example: lt shards info data/scenes-train")
def info(where: str = Where, as_json: bool = JsonOption) -> None:
    """Say what a folder holds and how it was made: counts, fields, settings, stages, rejects, licences."""
    from dataclasses import asdict

    from lt.datagen.shards.info import describe

    found = describe(where)
    if as_json:
        print_json({**asdict(found), "stages": [metrics.model_dump() for metrics in found.stages]})
    else:
        _print_info(found)


def _print_info(found: "Info") -> None:
    state = {True: "complete", False: "not complete: run its command again", None: ""}[found.complete]
    kind = (found.pipeline or "shards of lt without manifest") if found.ours else "foreign shards"
    print(f"{found.where}: {kind}{', ' if state else ''}{state}")
    digest = f", digest {found.digest[:12]}" if found.digest else ""
    print(f"{_amount(found.samples, found.shards)}, {_size(found.bytes)}{digest}")
    if found.code_version:
        tolerance = f"recomposition error up to {found.tolerance:g}" if found.tolerance else "exact"
        print(f"made by lt {found.code_version}; layers: {tolerance}")
    for licence in found.licences:
        print(f"licence: {licence}")
    rows = [[f.name, f.samples, _size(f.bytes), _size(f.bytes // max(f.samples, 1)), "yes" if f.known else "no"]
            for f in found.fields]  # fmt: skip
    print_table(["field", "samples", "bytes", "mean", "in the vocabulary"], rows)
    if found.stages:
        print_table(
            ["stage", "kept", "rejected", "seconds", "in models"],
            [[s.name, s.kept, sum(s.rejected.values()), s.seconds, s.model_seconds] for s in found.stages],
        )
    for title, counts in (("rejected because", found.rejected), ("not passed on because", found.problems)):
        if counts:
            print_table([title, "count"], [[reason, count] for reason, count in counts.items()])
    for name, value in _flat(found.settings):
        print(f"{name} = {value}")


@app.command(epilog="Example: lt shards ls data/scenes-train --limit 5")
def ls(
    where: str = Where,
    limit: int = typer.Option(20, min=1, help="How many samples to list."),
    as_json: bool = JsonOption,
) -> None:
    """List keys with their fields and captions."""
    from itertools import islice

    from lt.datagen.shards import Reject, open_shards

    bad: list[Reject] = []
    samples = islice(open_shards(where).samples(on_bad=bad.append), limit)
    rows = [[sample.key, " ".join(sample.fields), _caption(sample)] for sample in samples]
    for reject in bad[:limit]:
        note(f"not passed on: {reject.key}: {reject.reason} ({reject.detail})")
    if as_json:
        print_json([dict(zip(("key", "fields", "caption"), row, strict=True)) for row in rows])
    else:
        print_table(["key", "fields", "caption"], rows)
    if bad and not rows:
        raise typer.Exit(1)


def _caption(sample) -> str:
    from lt.datagen.shards import SampleError
    from lt.datagen.shards.captions import main_caption

    try:
        return main_caption(sample)
    except SampleError as error:
        return f"({error})"


@app.command(epilog="Example: lt shards show data/scenes-train scene-train-0-000001 --field png --out scene.png")
def show(
    where: str = Where,
    key: str = Key,
    field: str = typer.Option(None, "--field", help="Write this field's bytes to --out.", show_default=False),
    out: Path = typer.Option(None, "--out", help="File for --field.", show_default="<key>.<field>"),
    as_json: bool = JsonOption,
) -> None:
    """Show one sample: fields with sizes, captions and its json; or write one field into a file."""
    from lt.datagen.shards import open_shards
    from lt.datagen.shards.errors import UsageError
    from lt.datagen.shards.show import extract, summary

    sample = open_shards(where)[key]
    if field is not None:
        written = extract(sample, field, out)
        if as_json:
            print_json({"file": str(written), "bytes": written.stat().st_size})
        else:
            note(f"{written}: {_size(written.stat().st_size)}")
        return
    if out is not None:
        raise UsageError("--out needs --field.", f"Fields of {key}: {', '.join(sample.fields)}.")
    shown = summary(sample)
    if as_json:
        print_json(shown)
        return
    print_table(["field", "bytes", "what"], [[f["name"], f["bytes"], f["what"]] for f in shown["fields"]], title=key)
    for language, captions in shown["captions"].items():
        for caption in captions:
            print(f"{language}: {caption}")
    print_json(shown["json"])


@app.command(epilog="Example: lt shards verify data/scenes-train --workers 2")
def verify(
    where: str = Where,
    workers: int = typer.Option(1, "--workers", min=1, help="Processes."),
    fast: bool = typer.Option(False, "--fast", help="Check bytes only: decode no pictures, recompute no layers."),
    decode: bool = typer.Option(False, "--decode", help="Decode also what lt is recorded to have decoded before."),
    limit: int = typer.Option(20, min=1, help="How many findings to print; --json has all."),
    as_json: bool = JsonOption,
) -> None:
    """Check all that a folder claims: bytes, index, keys, counts, fields, pictures, layers. Exit code 1 if anything is wrong."""
    from dataclasses import asdict

    from lt.datagen.shards.errors import UsageError
    from lt.datagen.shards.verify import verify as check

    if fast and decode:
        raise UsageError("--fast decodes nothing, --decode everything.", "Choose one of them.")
    with progress_bar("verify", "B") as progress:
        report = check(where, decode=False if fast else decode or None, workers=workers, on_progress=progress)
    if as_json:
        print_json({**asdict(report), "good": report.is_good})
    else:
        _print_report(report, limit)
    if not report.is_good:
        raise typer.Exit(1)


def _print_report(report: "Report", limit: int) -> None:
    if report.findings:
        rows = [[f.shard, f.key, f.what, f.detail] for f in report.findings[:limit]]
        print_table(["shard", "key", "what", "detail"], rows)
    if len(report.findings) > limit:
        print(f"... and {len(report.findings) - limit:,} more; --json lists all.")
    rate = f"{_size(int(report.bytes / report.seconds))}/s" if report.seconds else ""
    looked = {True: "decoded", False: "bytes only", None: "decoded as needed"}[report.decoded]
    verdict = "good" if report.is_good else f"{len(report.findings):,} findings"
    size = f"{_amount(report.samples, report.shards)}, {_size(report.bytes)}"
    print(f"{report.where}: {verdict} ({size}, {looked}, {report.seconds:.1f} s, {rate}).")


@app.command(epilog="Example: lt shards why data/scenes-train scene-train-0-000001")
def why(where: str = Where, key: str = Key, as_json: bool = JsonOption) -> None:
    """Tell how a sample came to be, stage by stage, or which stage rejected it, why, and by which figure."""
    from dataclasses import asdict

    from lt.datagen.shards.why import explain

    stories = explain(where, key)
    if as_json:
        print_json([asdict(story) for story in stories])
        return
    for story in stories:
        _print_story(story)


def _print_story(story: "Story") -> None:
    print(f"{story.key} was {'rejected' if story.reject else 'kept'} ({story.file})")
    width = max([len(step.stage) for step in story.steps] + [len(story.reject.stage) if story.reject else 0])
    for number, step in enumerate(story.steps, 1):
        print(f"{number:>3}. {step.stage:<{width}}  {_step_line(step)}")
    if story.reject is not None:
        reject = story.reject
        figure = "" if reject.figure is None else f", figure {reject.figure:g}"
        detail = f": {reject.detail}" if reject.detail else ""
        print(f"  x. {reject.stage or 'unknown stage':<{width}}  {reject.reason}{figure}{detail}")
    elif not story.steps:
        print("  It carries no lineage: another program made it.")


def _step_line(step: "Step") -> str:
    settings = f"settings {step.params}, not in this manifest"
    if step.settings is not None:
        settings = ", ".join(f"{name} = {value}" for name, value in _flat(step.settings) if name) or "no settings"
    more = "".join(f"; {name} {value}" for name, value in step.more.items())
    return f"{settings}{more}; code {step.code}"


@app.command(epilog="Example: lt shards index 's3://bucket/laion/{00000..00099}.tar'")
def index(
    where: str = Where,
    refresh: bool = typer.Option(False, "--refresh", help="Scan again even where an index is cached."),
    as_json: bool = JsonOption,
) -> None:
    """Index foreign shards for reading by key. The indexes lie in the user's cache, never beside foreign shards."""
    from lt.datagen.shards.index import index_of
    from lt.datagen.shards.reader import open_shards

    rows = []
    with progress_bar("index", "shards") as progress:
        shards = open_shards(where).shards
        for number, shard in enumerate(shards, 1):
            found, place = index_of(shard.location, refresh)
            rows.append([str(shard.location), len(found.samples), len(found.problems), place])
            progress(number, len(shards))
    if as_json:
        print_json([dict(zip(("shard", "samples", "problems", "index"), row, strict=True)) for row in rows])
    else:
        print_table(["shard", "samples", "problems", "index"], rows)


@app.command(epilog="Example: lt shards reshard data/scenes-train --bytes 256MB --out data/scenes-256")
def reshard(
    where: str = Where,
    out: Path = typer.Option(..., "--out", help="Folder for the new shards."),
    samples: int = typer.Option(None, "--samples", min=1, help="Samples per shard.", show_default=False),
    max_bytes: str = typer.Option(
        None, "--bytes", help="Most bytes per shard: 100000, 64MB, 1GiB.", show_default=False
    ),
    as_json: bool = JsonOption,
) -> None:
    """Cut shards anew by count or bytes. Keys, order, lineage, rejects and every byte of every field stay."""
    from dataclasses import asdict

    from lt.datagen.reshard import parse_size
    from lt.datagen.reshard import reshard as cut

    limit = parse_size(max_bytes) if max_bytes is not None else None
    with progress_bar("reshard", "samples") as progress:
        done = cut(where, out, samples=samples, max_bytes=limit, on_progress=progress)
    if as_json:
        print_json(asdict(done))
    elif not done.made:
        note(f"Nothing to do: {done.out} is complete ({_amount(done.samples, done.shards)}).")
    else:
        note(f"{done.out}: {_amount(done.samples, done.shards)}, {done.made:,} of them written now.")
    if done.rejected and not as_json:
        note(f"Rejected: {', '.join(f'{count:,} {reason}' for reason, count in done.rejected.items())}.")
    if done.rejected and not done.samples:
        raise typer.Exit(1)


def _amount(samples: int, shards: int) -> str:
    return f"{samples:,} sample{'s' * (samples != 1)} in {shards:,} shard{'s' * (shards != 1)}"


def _size(count: int) -> str:
    from rich.filesize import decimal

    return decimal(count)


def _flat(value: object, name: str = "") -> "list[tuple[str, object]]":
    """Nested settings as (dotted name, value); a list of named steps goes by their names."""
    if isinstance(value, dict) and value:
        inner = [(f"{name}.{key}" if name else str(key), part) for key, part in value.items()]
    elif isinstance(value, list) and value and all(isinstance(part, dict) and "name" in part for part in value):
        inner = [(f"{name}.{part['name']}", {k: v for k, v in part.items() if k != "name"}) for part in value]
    else:
        return [(name, value)]
    return [pair for key, part in inner for pair in _flat(part, key)]
