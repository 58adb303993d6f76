"""What the command line knows of a system before anything heavy is imported: its verbs, their options, and where the code lies.

Options are a pydantic section: a field's docstring is its help, and `option` says what else the command line shows.
docs/training.md has an example.
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
class Table:
    """Rows for people."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Answer:
    """What was found: `json` for machines; lines, and tables under them, for people."""

    json: Any
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Verb:
    """What a system does under one verb.

    Attributes:
        options: a section, from whose fields the command's options are made.
        run: `module:function` or a light function, from (options, note) to a `Job` or an `Answer`.
        example: a whole command, the last line of the help.
        about: a sentence, the first line of the help.
        out: where the shards go that a `Job` makes, such as `data/scenes-{split}`, with options in it; "" = it makes none.
        workers: how many processes make them by default; 0 = this one, where the models are.
    """

    options: type[Section]
    run: str | Callable[..., Any]
    example: str
    about: str
    out: str = ""
    workers: int = 1


def option(default: Any, *, flag: str = "", shown: str | bool = True, argument: bool = False, **limits: Any) -> Any:
    """A field of a verb's options.

    Args:
        default: `...` where it must be given.
        flag: `--name`, where it is not the field's own with dashes; `--yes/--no` for a switch of two names.
        shown: what the help says for the default; True = the default itself, False = nothing.
        argument: taken by its place instead of by name.
        limits: pydantic's, such as `ge=1`.
    """
    return Field(default, json_schema_extra={"flag": flag, "shown": shown, "argument": argument}, **limits)


class TrainOptions(Section):
    """What to train, and how. A system that takes more inherits from this."""

    data: list[str] = option([], shown="the built-in world")
    """Shards: folder, tar, pattern or URL; may be repeated."""
    preset: str | None = option(None, shown="as fits")
    """tiny | paper | another card."""
    card: Path | None = option(None, shown=False)
    """A card of your own, in YAML."""
    settings: list[str] = option([], flag="--set")
    """A setting, as train.lr=3e-4; see --show."""
    steps: int | None = option(None, shown=False, ge=1)
    """Short for --set train.steps=N."""
    seed: int | None = option(None, shown=False, ge=0, le=2**63 - 1)
    """Short for --set train.seed=N."""
    out: Path | None = option(None, shown="runs/<system>-<preset>")
    """Folder of the run."""
    resume: bool = option(False)
    """Insist on a checkpoint to continue (it is used in any case)."""
    dry_run: bool = option(False)
    """Print parameters, memory and time, and stop."""
    show: bool = option(False)
    """Print the settings with a line on each, and stop."""
    export: Path | None = option(None)
    """Write the run's model for other libraries (ONNX, transformers ...) here, and stop."""

    @property
    def card_name(self) -> str | None:
        """The preset that these options name."""
        return self.preset


class ReproduceOptions(Section):
    """How much of a study to do. A system that takes more inherits from this."""

    seeds: int = option(3, ge=1)
    """Independent runs of every variant."""
    steps: int | None = option(None, shown="the study's", ge=1)
    """Fewer steps: tests the machinery, not the claims."""
    out: Path | None = option(None, shown="runs/reproduce-<system>")
    """Folder of all runs."""
    jobs: int | None = option(None, shown="one a core; 1 with an accelerator", ge=1)
    """Runs at once, of one thread each."""

    def instead(self, note: Note) -> Answer | None:
        """What is asked for instead of the study, if anything is."""
        return None


@dataclass(frozen=True)
class System:
    """A system. What it lacks is None or empty; names such as `module:NAME` are imported when they are used."""

    about: str
    recipe: str = ""
    """`module:NAME` of its `Recipe`, for `lt train`."""
    train: type[TrainOptions] = TrainOptions
    study: str = ""
    """`module:NAME` of its `Study`, for `lt reproduce`."""
    reproduce: type[ReproduceOptions] = ReproduceOptions
    sample: Verb | None = None
    edit: Verb | None = None
    eval: Mapping[str, Verb] = field(default_factory=dict)
    """`lt eval NAME`, by name."""
    datagen: Mapping[str, Verb] = field(default_factory=dict)
    """`lt datagen NAME`, by name."""


def imported(where: str | Callable[..., Any]) -> Any:
    """The object that `module:NAME` names; what is no name is it itself."""
    if not isinstance(where, str):
        return where
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)
