"""What was asked for, completed where nothing was said, and said aloud: prompts, control pictures and sizes."""

import re
from collections.abc import Callable, Sequence

from lt.datagen.shards import UsageError
from lt.datagen.shards.codec import whole_text
from lt.recipes.draw.control_files import read_picture, same_aspect
from lt.recipes.draw.options import ControlOptions, DrawOptions
from lt.recipes.draw.painters import Painter
from lt.recipes.draw.prompts import PromptSource, ShardPrompts, read_prompts
from lt.recipes.pictures import Size
from lt.recipes.system import Note
from lt.recipes.worlds import figures, world_folder

_WORLD_SAMPLES, _FROM_SHARDS = 256, 16
_TOLD = 8
"""Prompts whose unknown words are named."""


def size_of(text: str, option: str = "--size") -> Size:
    """(width, height) of `64x96`. Raises UsageError, naming the option, where it says something else."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if not match or not (int(match[1]) and int(match[2])):
        raise UsageError(f"{option} {text}: want WIDTHxHEIGHT in pixels.", "Example: 64x96")
    return int(match[1]), int(match[2])


def prompt_source(
    system: str,
    options: DrawOptions,
    follow: ControlOptions,
    size: Size,
    tell: Callable[[str], None],
    note: Note,
) -> PromptSource | ShardPrompts:
    """Where prompts and control pictures come from: what was named, else the test figures.

    Args:
        system: who draws.
        follow: the control pictures.
        tell: takes in a few words which they are, before a world is made.

    Raises:
        UsageError: options that contradict each other.
        LtError: prompts or pictures that are not there or do not fit.
    """
    texts = [*map(whole_text, options.prompt), *(read_prompts(options.prompts) if options.prompts else [])]
    if texts and options.data:
        raise UsageError("Give either prompts or --data.", "--data takes its prompts from the captions of the shards.")
    if texts:
        source = _from_prompts(system, options, texts, follow, size)
        tell(f"{len(texts)} prompt{'s'[: len(texts) > 1]} as asked")
        return source
    if follow.drawings or follow.photos:
        raise UsageError("A control picture needs a prompt.", 'Say what to draw: --prompt "a child in a red shirt"')
    count = options.count or _FROM_SHARDS
    world = "test", max(_WORLD_SAMPLES, count), max(64, *size)
    said = "as asked" if options.data else "no --prompt: the figures world's test split"
    tell(f"prompts and control pictures of {options.data or world_folder('figures', *world)} ({said})")
    where = options.data or str(figures(*world, note))
    return ShardPrompts(where, count, options.seed, size, follow.followed)


def _from_prompts(
    system: str, options: DrawOptions, texts: Sequence[str], follow: ControlOptions, size: Size
) -> PromptSource:
    if missing := [name for name in follow.followed if name not in {*follow.drawings, *follow.photos}]:
        files = " ".join(f"--{name} FILE" for name in missing)
        raise UsageError(f"There is no control picture for {', '.join(missing)}.", f"Name it: {files}")
    given = tuple(follow.drawings.items()), tuple(follow.photos.items())
    return PromptSource(system, tuple(texts), options.count or len(texts), options.seed, size, *given)


def warn(
    source: PromptSource | ShardPrompts, options: DrawOptions, painter: Painter, note: Note, styles: Sequence[str] = ()
) -> None:
    """Say what comes out otherwise than one might think. `styles` are texts that are read before each prompt."""
    if isinstance(source, ShardPrompts):
        if options.count and options.count > source.total:
            note(f"  {source.where} holds {source.total} samples: so many pictures, not {options.count}")
        return
    for control, file in (*source.pictures, *source.photos):
        height, width, _ = read_picture(control, file).shape
        size, wanted = f"{width}x{height}", f"{source.size[0]}x{source.size[1]}"
        if not same_aspect((height, width), source.size):
            how = "its middle is taken" if control == "color" else "it lies whole in the middle, on black"
            note(f"  {file} is {size}, another aspect than {wanted}: {how}")
        elif size != wanted and (control, file) in source.pictures:
            note(f"  the {control} picture is scaled from {size} to {wanted}")
    _warn_of_unknown_words(source.prompts, painter, note)
    for before in ("", *(f"{style} " for style in styles)):
        for prompt in source.prompts:
            if cut := painter.unread(before + prompt):
                said = f"the last {cut} words of {(before + prompt)[:40]!r}..."
                note(f"  {said} are not read: the text encoder has no places for them")


def _warn_of_unknown_words(prompts: Sequence[str], painter: Painter, note: Note) -> None:
    found = {prompt: painter.unknown([prompt]) for prompt in prompts}
    said = [
        f"  {share:.0%} of the words of {prompt[:40]!r} are unknown to this model: {', '.join(words)}"
        for prompt, (share, words) in found.items()
        if any(word[0].isalnum() for word in words)
    ]
    for line in said[:_TOLD]:
        note(line)
    if len(said) > _TOLD:
        note(f"  so are words of {len(said) - _TOLD:,} more prompts")
