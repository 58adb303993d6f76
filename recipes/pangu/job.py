"""`lt sample pangu`: what was asked for, completed by what is there, said aloud, and made into a pipeline."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import UsageError
from lt.recipes.diffusion.pictures import Size
from lt.recipes.pangu import painters
from lt.recipes.pangu.control_files import read_picture, same_aspect
from lt.recipes.pangu.painters import Located
from lt.recipes.pangu.requests import PromptSource, ShardPrompts, read_prompts
from lt.recipes.pangu.sample import Draw, LowStart, make_pipeline
from lt.recipes.pangu.settings import CONTROLS
from lt.recipes.shipped import SCHEME, present
from lt.recipes.worlds import figures, figures_folder

_WORLD_SAMPLES, _FROM_SHARDS = 256, 16


@dataclass(frozen=True)
class Wishes:
    """The command's options as they were given; None and empty where they were not."""

    prompt: Sequence[str] = ()
    prompts: Path | None = None
    data: str | None = None
    checkpoint: Sequence[str] = ()
    base: str | None = None
    controls: Sequence[str] = ()
    pictures: Mapping[str, Path] = field(default_factory=dict)
    photos: Mapping[str, Path] = field(default_factory=dict)
    coop: Sequence[str] = ()
    style: Sequence[str] = ()
    low: str | None = None
    size: str | None = None
    count: int | None = None
    steps: int = 40
    guidance: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Job:
    """A pipeline that is ready to run, and the controls that it follows."""

    pipeline: Pipeline
    controls: tuple[str, ...]


def make_job(wishes: Wishes, note: Callable[[str], None]) -> Job:
    """Choose painters, prompts and size where nothing was said, and say so in the first lines.

    Raises:
        UsageError: options that contradict each other, unknown controls, a size or weight that does not fit.
        LtError: models, prompts or pictures that are not there or do not fit.
    """
    if twice := wishes.pictures.keys() & wishes.photos.keys():
        raise UsageError(f"There are two control pictures for {', '.join(sorted(twice))}.", "Name one.")
    controls = tuple(dict.fromkeys([*wishes.controls, *wishes.pictures, *wishes.photos]))
    for control in controls:
        if control not in CONTROLS:
            raise UsageError(f"Unknown control {control!r}.", f"Known: {', '.join(CONTROLS)}.")
    lead = _lead(wishes, controls)
    others, weights = _others(wishes, controls)
    painter = painters.load(lead)
    size = _size("--size", wishes.size) if wishes.size else (painter.side, painter.side)
    stage = Draw(
        (lead, *others),
        controls,
        *size,
        weights,
        wishes.steps,
        wishes.guidance or painter.guidance,
        styles=_styles(wishes.style),
        low=_low(wishes.low, controls, size) if wishes.low else None,
    )
    stage.check()
    first_line = f"pangu: {painter.name}; {_together(stage)}{size[0]}x{size[1]} pixels, "
    source = _source(wishes, controls, size, lambda what: note(first_line + what), note)
    _warn(source, wishes, stage, note)
    return Job(make_pipeline(source, stage), controls)


def _lead(wishes: Wishes, controls: Sequence[str]) -> Located:
    if wishes.base and wishes.checkpoint:
        raise UsageError("Give either --base or --checkpoint.", "--coop MODEL=WEIGHT lets a second model draw along.")
    if wishes.base:
        return painters.find(wishes.base, controls)
    if wishes.checkpoint:
        return painters.find_runs(wishes.checkpoint)
    elsewhere = bool(wishes.coop or wishes.low)  # the branch may belong to another model
    runs = ["runs/pangu-tiny", "runs/pangu-tiny-texture"]
    branches = {f"runs/pangu-tiny-{control}": control for control in controls}
    if Path(runs[0]).is_dir():
        return painters.find_runs([*runs, *(run for run in branches if Path(run).is_dir() or not elsewhere)])
    shipped, names = present(), {run: SCHEME + Path(run).name for run in [*runs, *branches]}
    for run, control in branches.items():
        if names[run] not in shipped and not elsewhere:
            raise UsageError(
                f"The miniature that comes with lt has no {control} branch.",
                f"Train your own: lt train pangu, then lt train pangu --control {control}",
            )
    return painters.find_runs([name for name in names.values() if name in shipped])


def _others(wishes: Wishes, controls: Sequence[str]) -> tuple[tuple[Located, ...], tuple[float, ...]]:
    scaled = [_scaled("--coop", text, "MODEL=WEIGHT", "models/sd15=0.5") for text in wishes.coop]
    return tuple(painters.find(where, controls) for where, _ in scaled), tuple(weight for _, weight in scaled)


def _styles(wished: Sequence[str]) -> tuple[tuple[str, float], ...]:
    return tuple(_scaled("--style", text, "TEXT=SCALE", '"an oil painting=4"') for text in wished)


def _scaled(option: str, text: str, form: str, example: str) -> tuple[str, float]:
    """What is named, and the number after the last `=`."""
    name, _, number = text.rpartition("=")
    if not name.strip() or not re.fullmatch(r"\d*\.?\d+", number):
        raise UsageError(f"{option} {text}: want {form}.", f"Example: {option} {example}")
    return name.strip(), float(number)


def _low(text: str, controls: Sequence[str], size: Size) -> LowStart:
    """What begins, by default as large as it draws by itself, in the aspect of the pictures."""
    where, sign, wanted = text.rpartition("@")
    located = painters.find(where if sign else text, controls)
    if sign:
        low = _size("--low MODEL@", wanted)
    else:
        painter = painters.load(located)
        scale, factor = painter.side / max(size), painter.space.factor
        width, height = (max(factor, round(side * scale / factor) * factor) for side in size)
        low = width, height
    if not same_aspect(low[::-1], size) or low[0] > size[0]:
        raise UsageError(
            f"--low begins at {low[0]}x{low[1]}, the pictures are to be {size[0]}x{size[1]}: want the same aspect, no larger.",
            f"Name its size: --low {where if sign else text}@WIDTHxHEIGHT",
        )
    return LowStart(located, *low)


def _size(option: str, text: str) -> Size:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not (int(match[1]) and int(match[2])):
        raise UsageError(f"{option} {text}: want WIDTHxHEIGHT in pixels.", "Example: 64x96")
    return int(match[1]), int(match[2])


def _source(
    wishes: Wishes, controls: tuple[str, ...], size: Size, tell: Callable[[str], None], note: Callable[[str], None]
) -> PromptSource | ShardPrompts:
    """Where prompts and control pictures come from; told in a few words before a world is made."""
    texts = [*wishes.prompt, *(read_prompts(wishes.prompts) if wishes.prompts else [])]
    if texts and wishes.data:
        raise UsageError("Give either prompts or --data.", "--data takes its prompts from the captions of the shards.")
    if texts:
        source = _from_prompts(wishes, texts, controls, size)
        tell(f"{len(texts)} prompt{'s'[: len(texts) > 1]} as asked")
        return source
    if wishes.pictures or wishes.photos:
        raise UsageError("A control picture needs a prompt.", 'Say what to draw: --prompt "a child in a red shirt"')
    count = wishes.count or _FROM_SHARDS
    world = "test", max(_WORLD_SAMPLES, count), max(64, *size)
    said = "as asked" if wishes.data else "no --prompt: the figures world's test split"
    tell(f"prompts and control pictures of {wishes.data or figures_folder(*world)} ({said})")
    where = wishes.data or str(figures(*world, note))
    return ShardPrompts(where, count, wishes.seed, size, controls)


def _from_prompts(wishes: Wishes, texts: Sequence[str], controls: Sequence[str], size: Size) -> PromptSource:
    pictures, photos = (
        tuple((name, str(file)) for name, file in of.items()) for of in (wishes.pictures, wishes.photos)
    )
    if missing := [control for control in controls if control not in {*wishes.pictures, *wishes.photos}]:
        options = " ".join(f"--{control} FILE" for control in missing)
        raise UsageError(f"There is no control picture for {', '.join(missing)}.", f"Name it: {options}")
    return PromptSource(tuple(texts), wishes.count or len(texts), wishes.seed, size, pictures, photos)


def _together(stage: Draw) -> str:
    """Who else draws."""
    low = stage.low
    begins = f"begun by {painters.load(low.painter).name} at {low.width}x{low.height}; " if low else ""
    others = zip(stage.members[1:], stage.weights, strict=True)
    named = [f"{painters.load(one).name} at {weight:g}" for one, weight in others]
    return begins + (f"together with {' and '.join(named)}; " if named else "")


def _warn(source: PromptSource | ShardPrompts, wishes: Wishes, stage: Draw, note: Callable[[str], None]) -> None:
    """Say what comes out otherwise than one might think."""
    if isinstance(source, ShardPrompts):
        if wishes.count and wishes.count > source.total:
            note(f"  {source.where} holds {source.total} samples: so many pictures, not {wishes.count}")
        return
    for control, file in source.pictures:
        height, width, _ = read_picture(control, Path(file), source.size).shape
        if (width, height) != source.size:
            note(f"  the {control} picture is scaled from {width}x{height} to {source.size[0]}x{source.size[1]}")
    painter = painters.load(stage.members[0])
    for style in ("", *(f"{style} " for style, _ in stage.styles)):
        for prompt in source.prompts:
            if cut := painter.unread(style + prompt):
                said = f"the last {cut} words of {(style + prompt)[:40]!r}..."
                note(f"  {said} are not read: the text encoder has no places for them")
