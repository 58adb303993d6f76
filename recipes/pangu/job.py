"""`lt sample pangu`: what was asked for, completed by what is there, said aloud, and made into a pipeline."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import UsageError
from lt.recipes.pangu import painters
from lt.recipes.pangu.painters import Located, Painter
from lt.recipes.pangu.requests import PromptSource, ShardPrompts, read_prompts
from lt.recipes.pangu.sample import Draw, make_pipeline
from lt.recipes.pangu.settings import CONTROLS
from lt.recipes.worlds import figures

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
    size: str | None = None
    count: int | None = None
    steps: int = 40
    guidance: float = 6.0
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
    width, height = _size(wishes.size, painter.side)
    stage = Draw((lead, *others), controls, width, height, weights, wishes.steps, wishes.guidance)
    stage.check()
    source, what = _source(wishes, controls, (width, height), note)
    note(f"pangu: {painter.name}; {_together(others, weights)}{width}x{height} pixels, {what}")
    if isinstance(source, PromptSource):
        _warn_of_cuts(source.prompts, painter, note)
    return Job(make_pipeline(source, stage), controls)


def _lead(wishes: Wishes, controls: Sequence[str]) -> Located:
    if wishes.base and wishes.checkpoint:
        raise UsageError("Give either --base or --checkpoint.", "--coop MODEL=WEIGHT lets a second model draw along.")
    if wishes.base:
        return painters.find(wishes.base, controls)
    tiny = ["runs/pangu-tiny", "runs/pangu-tiny-texture"]
    elsewhere = bool(wishes.coop)  # the branch may belong to a model that draws along
    branches = [f"runs/pangu-tiny-{control}" for control in controls]
    found = [branch for branch in branches if Path(branch).is_dir() or not elsewhere]
    return painters.find_runs(wishes.checkpoint or [*tiny, *found])


def _others(wishes: Wishes, controls: Sequence[str]) -> tuple[tuple[Located, ...], tuple[float, ...]]:
    located, weights = [], []
    for text in wishes.coop:
        where, sign, weight = text.rpartition("=")
        if not sign or not re.fullmatch(r"\d*\.?\d+", weight):
            raise UsageError(f"--coop {text}: want MODEL=WEIGHT.", "Example: --coop models/sd15=0.5")
        located.append(painters.find(where, controls))
        weights.append(float(weight))
    return tuple(located), tuple(weights)


def _size(text: str | None, side: int) -> tuple[int, int]:
    if text is None:
        return side, side
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not (int(match[1]) and int(match[2])):
        raise UsageError(f"--size {text}: want WIDTHxHEIGHT in pixels.", "Example: --size 64x96")
    return int(match[1]), int(match[2])


def _source(
    wishes: Wishes, controls: tuple[str, ...], size: tuple[int, int], note: Callable[[str], None]
) -> tuple[PromptSource | ShardPrompts, str]:
    """Where prompts and control pictures come from, and a few words on it."""
    texts = [*wishes.prompt, *(read_prompts(wishes.prompts) if wishes.prompts else [])]
    if texts and wishes.data:
        raise UsageError("Give either prompts or --data.", "--data takes its prompts from the captions of the shards.")
    if texts:
        return _from_prompts(wishes, texts, controls, size), f"{len(texts)} prompt{'s'[: len(texts) > 1]} as asked"
    if wishes.pictures or wishes.photos:
        raise UsageError("A control picture needs a prompt.", 'Say what to draw: --prompt "a child in a red shirt"')
    where = wishes.data or str(figures("test", _WORLD_SAMPLES, max(64, *size), note))
    said = "as asked" if wishes.data else "no --prompt: the figures world's test split"
    source = ShardPrompts(where, wishes.count or _FROM_SHARDS, wishes.seed, size, controls)
    return source, f"prompts and control pictures of {where} ({said})"


def _from_prompts(wishes: Wishes, texts: Sequence[str], controls: Sequence[str], size: tuple[int, int]) -> PromptSource:
    pictures, photos = (
        tuple((name, str(file)) for name, file in of.items()) for of in (wishes.pictures, wishes.photos)
    )
    if missing := [control for control in controls if control not in {*wishes.pictures, *wishes.photos}]:
        options = " ".join(f"--{control} FILE" for control in missing)
        raise UsageError(f"There is no control picture for {', '.join(missing)}.", f"Name it: {options}")
    return PromptSource(tuple(texts), wishes.count or len(texts), wishes.seed, size, pictures, photos)


def _together(others: Sequence[Located], weights: Sequence[float]) -> str:
    named = [f"{painters.load(one).name} at {weight:g}" for one, weight in zip(others, weights, strict=True)]
    return f"together with {' and '.join(named)}; " if named else ""


def _warn_of_cuts(prompts: Sequence[str], painter: Painter, note: Callable[[str], None]) -> None:
    for prompt in prompts:
        if cut := painter.unread(prompt):
            note(f"  the last {cut} words of {prompt[:40]!r}... are not read: the text encoder has no places for them")
