"""What the command line knows of a system before anything heavy is imported: its verbs, their options, and where the code lies.

    # recipes/shout/__init__.py
    SYSTEM = System(
        about="Pictures from loud words.",
        recipe="lt.recipes.shout.objective:RECIPE",
        sample=Verb(ShoutOptions, "lt.recipes.shout.sample:sample", 'lt sample shout --prompt "a cat"', "Draw pictures."),
    )

Options are a pydantic section: a field's docstring is its help, and `option` says what else the command line shows.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lt.recipes.config import Section

if TYPE_CHECKING:
    from lt.datagen.engine.stage import Pipeline

Note = Callable[[str], None]
"""Takes lines for people."""


@dataclass(frozen=True)
class Job:
    """Shards to be made: the command line runs `pipeline` under its table, then says what `then` returns of their folder.

    Attributes:
        out: the folder, where the options of the job itself say it; None = the command line's `--out`, or its default.
    """

    pipeline: "Pipeline"
    out: Path | None = None
    then: Callable[[Path], str] = lambda out: ""


@dataclass(frozen=True)
class Answer:
    """What was found: `json` for machines; lines, and a table under them, for people."""

    json: Any
    lines: Sequence[str] = ()
    headings: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


@dataclass(frozen=True)
class Verb:
    """What a system does under one verb.

    Attributes:
        options: a section, from whose fields the command's options are made.
        run: `module:function`, from (options, note) to a `Job` or an `Answer`.
        example: a whole command, the last line of the help.
        about: a sentence, the first line of the help.
    """

    options: type[Section]
    run: str
    example: str
    about: str


@dataclass(frozen=True)
class System:
    """A system. What it lacks is None or empty; names such as `module:NAME` are imported when they are used."""

    about: str
    recipe: str = ""
    """`module:NAME` of its `Recipe`, for `lt train`."""
    study: str = ""
    """`module:NAME` of its `Study`, for `lt reproduce`."""
    sample: Verb | None = None
    edit: Verb | None = None
    eval: Mapping[str, Verb] = field(default_factory=dict)
    """`lt eval NAME`, by name."""
    datagen: Mapping[str, Verb] = field(default_factory=dict)
    """`lt datagen NAME`, by name."""


def option(default: Any, *, flag: str = "", shown: str | bool = True, argument: bool = False, **limits: Any) -> Any:
    """A field of a verb's options.

    Args:
        flag: `--name`, where it is not the field's own with dashes; `--yes/--no` for a switch of two names.
        shown: what the help says for the default; True = the default itself, False = nothing.
        argument: taken by its place instead of by name.
        limits: pydantic's, such as `ge=1`.
    """
    return Field(default, json_schema_extra={"flag": flag, "shown": shown, "argument": argument}, **limits)


def resolved(where: str) -> Any:
    """The object that `module:NAME` names."""
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
