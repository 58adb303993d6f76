"""`lt sample`: let a trained system show what it does."""

from pathlib import Path

import typer

from lt.cli.output import JsonOption, note, print_json

app = typer.Typer(no_args_is_help=True, help="Let a trained system show what it does.")

Align = typer.Option(True, "--align", help="Word-patch alignment pictures (what these models have to show).")
Checkpoint = typer.Option(
    None,
    "--checkpoint",
    help="A run's folder or a checkpoint.",
    show_default="runs/<system>-tiny, else the one that comes with lt",
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


@app.command(epilog="Example: lt sample pangu --controls pose,edge --count 16")
def pangu(
    prompt: list[str] = typer.Option(
        [], "--prompt", help="What to draw, in English or Chinese; may be repeated.", show_default=False
    ),
    prompts: Path = typer.Option(None, "--prompts", help="A file of prompts, one a line.", show_default=False),
    data: str = typer.Option(
        None,
        "--data",
        help="Shards: their captions are the prompts, their control pictures are followed.",
        show_default="without prompts: the figures world's test split",
    ),
    checkpoint: list[str] = typer.Option(
        [],
        "--checkpoint",
        help="A run of `lt train pangu`; once for each generator and branch.",
        show_default="runs/pangu-tiny, -texture and the branches asked for, else lt:pangu-tiny ...",
    ),
    base: str = typer.Option(
        None,
        "--base",
        help="A diffusers folder instead (SD 1 and 2, SDXL, PixArt); DIR:pose,edge names its ControlNets.",
        show_default=False,
    ),
    controls: str = typer.Option(
        "",
        "--controls",
        help="Control pictures to follow: pose, edge, layout, color, with commas.",
        show_default="none",
    ),
    pose: Path = typer.Option(None, "--pose", help="A skeleton in OpenPose's colours on black.", show_default=False),
    edge: Path = typer.Option(None, "--edge", help="An edge map, white on black.", show_default=False),
    layout: Path = typer.Option(None, "--layout", help="Filled boxes on black, a colour a name.", show_default=False),
    color: Path = typer.Option(None, "--color", help="Flat cells of colour, eight a side.", show_default=False),
    pose_of: Path = typer.Option(
        None, "--pose-of", help="A photograph, whose people's pose (BlazePose) is followed.", show_default=False
    ),
    edge_of: Path = typer.Option(
        None, "--edge-of", help="A photograph, whose edges (Canny) are followed.", show_default=False
    ),
    color_of: Path = typer.Option(
        None, "--color-of", help="A picture, whose mean colours are followed.", show_default=False
    ),
    coop: list[str] = typer.Option(
        [],
        "--coop",
        help="MODEL=WEIGHT: another diffusers folder, or runs joined by +, that draws along; may be repeated.",
        show_default=False,
    ),
    low: str = typer.Option(
        None,
        "--low",
        help="MODEL[@WxH]: draws smaller until t = 500, then hands over.",
        show_default=False,
    ),
    style: list[str] = typer.Option(
        [],
        "--style",
        help="TEXT=SCALE: lean to what TEXT before the prompt changes; may be repeated.",
        show_default=False,
    ),
    size: str = typer.Option(None, "--size", help="Pixels, as 64x96.", show_default="the model's"),
    count: int = typer.Option(None, "--count", min=1, help="Pictures.", show_default="one a prompt; 16 of shards"),
    steps: int = typer.Option(40, "--steps", min=1, help="Sampling steps."),
    guidance: float = typer.Option(
        None,
        "--guidance",
        min=1,
        help="How closely to follow the prompt; 1 = no guidance.",
        show_default="6, the paper's; 3 with the tiny U-Nets",
    ),
    seed: int = typer.Option(0, "--seed", min=0, help="Of the first picture; the n-th has seed + n."),
    batch: int = typer.Option(8, "--batch", min=1, help="Pictures at once: fewer need less memory."),
    out: Path = typer.Option(None, "--out", help="Folder for the shards.", show_default="samples/pangu"),
    as_json: bool = JsonOption,
) -> None:
    """Draw pictures from prompts and control pictures into shards, with a grid. The same command again continues."""
    from lt.cli.progress import run_with_table
    from lt.recipes.pangu.options import PanguOptions
    from lt.recipes.pangu.sample import sample

    given = {name: value for name, value in locals().items() if name in PanguOptions.model_fields}
    job = sample(PanguOptions(**given), note)
    out = out or Path("samples") / "pangu"
    run_with_table(job.pipeline, out, 0, "local", as_json)
    note(job.then(out))


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
    from lt.recipes.shipped import located, or_shipped

    where = checkpoint or Path(or_shipped(f"runs/{system}-tiny"))
    if not located(where).exists():
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
