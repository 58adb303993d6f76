"""`lt sample`: let a trained system show what it does."""

from pathlib import Path

import typer

from lt.cli.output import JsonOption, note, print_json

app = typer.Typer(no_args_is_help=True, help="Let a trained system show what it does.")

Align = typer.Option(True, "--align", help="Word-patch alignment pictures (what these models have to show).")
Checkpoint = typer.Option(
    None, "--checkpoint", help="A run's folder or a checkpoint.", show_default="runs/<system>-tiny"
)
Data = typer.Option(None, "--data", help="Shards, or a file of captions.", show_default="the built-in test scenes")
Pictures = typer.Option(
    None, "--pictures", help="With a file of captions: the folder of its pictures.", show_default=False
)
Prompt = typer.Option(None, "--prompt", help="This text for every picture.", show_default="each sample's caption")
Label = typer.Option(
    None, "--label", help="Words of the prompt to highlight.", show_default="the names of drawn things"
)
Count = typer.Option(6, "--count", min=1, help="How many pictures to draw.")
Limit = typer.Option(500, "--limit", min=1, help="How many samples to score.")
Out = typer.Option(None, "--out", help="Folder for the pictures.", show_default="samples/<system>")


@app.command(epilog="Example: lt sample filip --align --data data/scenes-test-64px-1000")
def filip(
    align: bool = Align,
    checkpoint: Path = Checkpoint,
    data: str = Data,
    pictures: Path = Pictures,
    prompt: str = Prompt,
    label: str = Label,
    count: int = Count,
    limit: int = Limit,
    out: Path = Out,
    as_json: bool = JsonOption,
) -> None:
    """Which word does each patch choose? Pictures in the style of FILIP's figure 2, and how often words find their things."""
    _align("filip", checkpoint, data, pictures, prompt, label, count, limit, out, as_json)


@app.command(epilog="Example: lt sample wukong --align --count 6")
def wukong(
    align: bool = Align,
    checkpoint: Path = Checkpoint,
    data: str = Data,
    pictures: Path = Pictures,
    prompt: str = Prompt,
    label: str = Label,
    count: int = Count,
    limit: int = Limit,
    out: Path = Out,
    as_json: bool = JsonOption,
) -> None:
    """The same for Chinese captions; with reduced tokens, of the patches before the reduction."""
    _align("wukong", checkpoint, data, pictures, prompt, label, count, limit, out, as_json)


def _align(
    system: str,
    checkpoint: Path | None,
    data: str | None,
    pictures: Path | None,
    prompt: str | None,
    label: str | None,
    count: int,
    limit: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from lt.datagen.shards.errors import LtError
    from lt.recipes.contrastive.world import test_scenes
    from lt.recipes.evaluate.features import Encoder
    from lt.recipes.evaluate.readers import open_collection
    from lt.recipes.filip.sample import align as draw

    where = checkpoint or Path("runs") / f"{system}-tiny"
    if not where.exists():
        raise LtError(f"{where} is not there.", f"Train it first: lt train {system}")
    encoder = Encoder.load(where)
    data = data or str(test_scenes(encoder.objective.settings, note))
    note(f"{system}: {where} (step {encoder.record.step:,}) on {encoder.device.type}; data {data}")
    collection = open_collection(data, pictures, encoder.language)
    result = draw(encoder, collection, out or Path("samples") / system, prompt, label, count, limit, note)
    if as_json:
        print_json(result.as_json())
        return
    if result.found:
        note(
            f"Words find their things: {result.found.value:.1f} % ({result.found.low:.1f} to {result.found.high:.1f}; "
            f"chance {result.chance:.1f} %) of {result.things:,} things in {result.samples:,} pictures."
        )
    print(result.pictures[0])
