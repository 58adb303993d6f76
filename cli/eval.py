"""`lt eval`: measure a trained model; every figure comes with its interval and the digests of model and data."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lt.cli.output import JsonOption, note, print_json, print_table
from lt.cli.verbs import Verbs

if TYPE_CHECKING:
    from lt.recipes.evaluate.report import Evaluation

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    epilog="Example: lt eval retrieval --checkpoint lt:filip-tiny --data data/scenes-train",
    help="Measure a trained model, with intervals and the digests behind each number.",
)

Checkpoint = typer.Option(..., "--checkpoint", help="A run's folder (its best checkpoint is taken) or a checkpoint.")
Data = typer.Option(..., "--data", help="Shards (folder, tar, pattern, URL), or a file of captions.")
Pictures = typer.Option(
    None, "--pictures", help="With a file of captions: the folder of its pictures.", show_default="the file's own"
)
Split = typer.Option("", "--split", help="With one of Karpathy's files: train | val | test ...", show_default="all")
Only = typer.Option(None, "--only", help="With a file of captions: keep the pictures that this file lists, one a line.")
Limit = typer.Option(None, "--limit", min=1, help="Only the first so many pictures.", show_default="all")
Cache = typer.Option(True, "--cache/--no-cache", help="Keep the pictures' features under LT_HOME for the next time.")


@app.command(epilog="Example: lt eval retrieval --checkpoint runs/filip-tiny --data data/scenes-test-64px-1000")
def retrieval(
    checkpoint: Path = Checkpoint,
    data: str = Data,
    pictures: Path = Pictures,
    split: str = Split,
    only: Path = Only,
    limit: int = Limit,
    captions: int = typer.Option(
        None, "--captions", min=1, help="At most so many captions a picture.", show_default="all"
    ),
    prompt: str = typer.Option("{}", "--prompt", help='Around every caption, such as "a photo of {}" (as FILIP does).'),
    cache: bool = Cache,
    as_json: bool = JsonOption,
) -> None:
    """R@1, R@5, R@10 between pictures and captions, both ways, and their mean. COCO, Flickr30k(-CN), COCO-CN files are read."""
    from lt.recipes.evaluate.features import load_encoder
    from lt.recipes.evaluate.readers import open_collection
    from lt.recipes.evaluate.report import evaluate_retrieval

    encoder = load_encoder(checkpoint)
    collection = open_collection(data, pictures, encoder.language, split, only)
    _print(evaluate_retrieval(encoder, collection, limit, captions, prompt, cache, note), as_json)


@app.command(
    "zero-shot", epilog="Example: lt eval zero-shot --checkpoint runs/filip-tiny --data data/scenes-test-64px-1000"
)
def zero_shot(
    checkpoint: Path = Checkpoint,
    data: str = Data,
    classes: Path = typer.Option(
        None, "--classes", help="Class names, one a line (or: label, tab, name).", show_default="the labels that occur"
    ),
    prompts: str = typer.Option(
        None,
        "--prompts",
        help="A file of templates with {}, or english | chinese | world-english | world-chinese.",
        show_default="by language",
    ),
    rule: str = typer.Option(None, "--rule", help="mean | votes", show_default="the paper's"),
    limit: int = Limit,
    cache: bool = Cache,
    as_json: bool = JsonOption,
) -> None:
    """Classify pictures by prompts alone. Labels: a `cls` field, json.label, or layers of one category."""
    from lt.datagen.shards.errors import UsageError
    from lt.recipes.evaluate.features import load_encoder
    from lt.recipes.evaluate.readers import open_collection
    from lt.recipes.evaluate.report import evaluate_zero_shot

    if rule not in (None, "mean", "votes"):
        raise UsageError(f"Unknown rule {rule!r}.", "Known: mean, votes.")
    encoder = load_encoder(checkpoint)
    collection = open_collection(data, language=None)  # captions are not asked for
    _print(evaluate_zero_shot(encoder, collection, classes, prompts, rule, limit, cache, note), as_json)


@app.command(
    epilog="Example: lt eval images samples/pangu --reference data/figures-test-64px-256 --controls edge,pose --json"
)
def images(
    shards: str = typer.Argument(
        ..., help="Drawn pictures (folder, tar, pattern, URL), such as lt sample pangu makes."
    ),
    reference: str = typer.Option(
        ..., "--reference", help="True pictures; for pose and caption: those that the drawn ones were drawn from."
    ),
    extractor: str = typer.Option(
        "world",
        "--extractor",
        help="world (for miniatures; trained on the first call), or a file of Inception's weights.",
    ),
    clip: Path = typer.Option(
        None, "--clip", help="A contrastive run: how alike pictures and prompts are.", show_default="left out"
    ),
    controls: str = typer.Option(
        "", "--controls", help="edge, pose, caption, with commas: how well the pictures follow them."
    ),
    limit: int = Limit,
    against: Path = typer.Option(
        None, "--against", help="What --json printed before: differences to it, where the protocols agree."
    ),
    cache: bool = Cache,
    as_json: bool = JsonOption,
) -> None:
    """Distances to true pictures (FID, KID or the world's), precision and recall, CLIP score, fidelity to what was asked."""
    from lt.recipes.evaluate.features import load_encoder
    from lt.recipes.evaluate.images import report
    from lt.recipes.evaluate.images.pictures import PictureSet

    named = report.checked_controls(controls)
    drawn = PictureSet(shards, limit)
    wanted = PictureSet(reference, limit, drawn.own_size)
    before = report.Before.read(against) if against else None
    encoder = load_encoder(clip) if clip else None
    found = report.evaluate_images(drawn, wanted, extractor, encoder, named, cache, note)
    changes = report.compare(found, before) if before else {}
    if as_json:
        told = {"differences": {name: change._asdict() for name, change in changes.items()}} if against else {}
        print_json({**found.as_json(), **told})
        return
    note(
        f"  by {found.protocol['extractor']['name']}; {found.protocol['pictures']:,} pictures of {found.protocol['size']}"
    )
    rows = [[name, i.value, f"{i.low:.4g} to {i.high:.4g}"] for name, i in found.metrics.items()]
    print_table(["figure", "value", "95 % interval"], rows)
    if changes:
        rows = [[name, i.value, f"{i.low:+.4g} to {i.high:+.4g}"] for name, i in changes.items()]
        print_table(["difference", "value", "95 % interval"], rows)


def _print(evaluation: "Evaluation", as_json: bool) -> None:
    if as_json:
        print_json(evaluation.as_json())
        return
    rows = [[name, round(i.value, 2), f"{i.low:.1f} to {i.high:.1f}"] for name, i in evaluation.metrics.items()]
    print_table(["figure", "%", "95 % interval"], rows)
