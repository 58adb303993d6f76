"""The commands that systems bring, made from their sections when they are asked for: `lt sample NAME`, `lt edit NAME` ...

A field of a section is an option: its docstring is the help, a switch where it is bool, repeatable where it is a list or tuple,
with choices where it is a Literal, with the limits that it has.
"""

from collections.abc import Callable, Iterable
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import typer
from typer.core import TyperGroup

from lt.cli.output import JsonOption, note, print_json, print_table

if TYPE_CHECKING:
    from lt.recipes.config import Section
    from lt.recipes.system import Answer, Job, Verb

DevicesOption = typer.Option(
    "auto",
    "--devices",
    help="One worker each: such as cuda:0,cuda:1, or cpu; auto = all accelerators for what computes on one.",
)


class Verbs(TyperGroup):
    """The commands under one verb: those written in its file, and those that systems bring."""

    is_complete = False

    def list_commands(self, ctx: Any) -> list[str]:
        self._complete()
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.commands:
            self._complete()
        if cmd_name not in self.commands:
            raise self.unknown(cmd_name)
        return self.commands[cmd_name]

    def unknown(self, name: str) -> Exception:
        """What to raise for a name that is none of the commands."""
        from lt.datagen.shards.errors import UsageError
        from lt.recipes.config import nearest

        return UsageError(f"There is no `lt {self.name} {name}`.", nearest(name, self.commands))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        super().format_commands(ctx, formatter)
        if not self.commands:
            formatter.write_paragraph()
            formatter.write_text("No system does so yet.")

    def _complete(self) -> None:
        """Ask the systems, once."""
        if self.is_complete:
            return
        self.is_complete = True
        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        app.callback()(lambda: None)  # a group, also where it has one command
        self.add_to(app)
        self.commands = {**self.commands, **typer.main.get_group(app).commands}

    def add_to(self, app: typer.Typer) -> None:
        """Add the commands that systems bring."""
        from lt.recipes.registry import verbs

        for name, verb in verbs(self.name or "").items():
            add_command(app, name, _doing(verb), _parameters_of(verb), verb.about, verb.example)


class Systems(Verbs):
    """The systems under a verb that treats all alike. The `System` has a section of options under the verb's name.

    Attributes:
        part: what a system must have.
        example: with {} for the system's name.
        run: is called with the system's name, its options, and whether json is wanted.
    """

    part: str
    example: str
    run: staticmethod

    def add_to(self, app: typer.Typer) -> None:
        from lt.recipes.registry import systems_with

        for name, system in systems_with(self.part).items():
            section = getattr(system, self.name or "")

            def do(as_json: bool, name: str = name, section: Any = section, **values: Any) -> None:
                self.run(name, checked(section, values), as_json)

            add_command(app, name, do, parameters(section), system.about, self.example.format(name))

    def unknown(self, name: str) -> Exception:
        from lt.recipes.registry import unknown

        return unknown(name, self.name or "", self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Options may stand before the name too."""
        known = self.list_commands(ctx)
        place = next((place for place, word in enumerate(args) if word in known), 0)
        return super().parse_args(ctx, [*args[place : place + 1], *args[:place], *args[place + 1 :]])


def add_command(
    app: typer.Typer, name: str, run: Callable[..., None], parameters: Iterable[Parameter], about: str, example: str
) -> None:
    """Add a command to `app` that calls `run` with the values of these parameters, and with `as_json`."""

    def command(**values: Any) -> None:
        run(**values)

    made = Signature([*parameters, _keyword("as_json", JsonOption, bool)])
    command.__signature__ = made  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in made.parameters.items()}
    app.command(name, help=about, epilog=f"Example: {example}")(command)


def parameters(section: "type[Section]") -> list[Parameter]:
    """A parameter, as typer wants it, for every field of a section."""
    return [_parameter(name, info) for name, info in section.model_fields.items()]


def _parameter(name: str, info: Any) -> Parameter:
    said: dict[str, Any] = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    limits = {ours: getattr(of, its) for of in info.metadata for ours, its in _LIMITS.items() if hasattr(of, its)}
    kind: Any = info.annotation
    default: Any = ... if info.is_required() else info.default
    if get_origin(kind) in (list, tuple):
        kind, default = list[get_args(kind)[0]], default if default is ... else list(default)
    told = {"help": " ".join((info.description or "").split()), "show_default": said.get("shown", True), **limits}
    flag = said.get("flag") or f"--{name.replace('_', '-')}"
    shown = typer.Argument(default, **told) if said.get("argument") else typer.Option(default, flag, **told)
    return _keyword(name, shown, kind)


_LIMITS = {"min": "ge", "max": "le"}


def _keyword(name: str, default: Any, kind: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _parameters_of(verb: "Verb") -> list[Parameter]:
    """Those of its section, and what every command has that makes shards."""
    if not verb.out:
        return parameters(verb.options)
    where = verb.out.replace("{", "<").replace("}", ">")
    workers = "Worker processes." if verb.workers else "Worker processes; 0 = this one."
    return [
        *parameters(verb.options),
        _keyword("out", typer.Option(None, "--out", help="Folder for the shards.", show_default=where), Path | None),
        _keyword("workers", typer.Option(verb.workers, "--workers", min=verb.workers, help=workers), int),
        _keyword("engine", typer.Option("local", "--engine", help="What runs them."), Literal["local", "ray"]),
        _keyword("devices", DevicesOption, str),
    ]


def _doing(verb: "Verb") -> Callable[..., None]:
    def do(as_json: bool, **values: Any) -> None:
        from lt.recipes.system import Job, imported

        options = checked(
            verb.options, {name: values.pop(name) for name in verb.options.model_fields if name in values}
        )
        found = imported(verb.run)(options, note)
        if isinstance(found, Job):
            _make(found, Path(verb.out.format_map(dict(options))), as_json=as_json, **values)
        else:
            show(found, as_json)

    return do


def checked(section: "type[Section]", values: dict[str, Any]) -> Any:
    """A section with these values. Raises UsageError naming the option that does not fit."""
    from pydantic import ValidationError

    from lt.datagen.shards.errors import UsageError

    try:
        return section(**values)
    except ValidationError as error:
        first = error.errors()[0]
        named = f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: " if first["loc"] else ""
        raise UsageError(named + first["msg"].removeprefix("Value error, ") + ".") from None


def _make(job: "Job", usual: Path, out: Path | None, workers: int, engine: str, devices: str, as_json: bool) -> None:
    from lt.cli.progress import run_with_table
    from lt.recipes.devices import devices_for

    out = out or job.out or usual
    run_with_table(job.pipeline, out, workers, engine, as_json, devices_for(job.pipeline, devices))
    if said := job.then(out):
        note(said)


def show(answer: "Answer", as_json: bool) -> None:
    """An answer on stdout."""
    if as_json:
        print_json(answer.json)
        return
    for line in answer.lines:
        print(line)
    for table in answer.tables:
        print_table(table.headings, table.rows, table.title)
