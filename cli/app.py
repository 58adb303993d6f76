"""`lt`: the verbs, and how every command ends: exit code 0 (done), 1 (failed) or 2 (called wrongly), and never a traceback."""

import os
import sys
from typing import NoReturn

import typer

from lt.cli import datagen, doctor, eval, export, reproduce, shards, train
from lt.cli.verbs import Verbs

app = typer.Typer(
    name="lt",
    help="Build text-image data sets and train, run and measure the models of ten papers on them.\n\n"
    "Every step reads a folder of WebDataset shards and writes one.",
    epilog="Example: lt shards info data/scenes-train",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(datagen.app, name="datagen")
app.add_typer(shards.app, name="shards")
shards.app.command(epilog="Example: lt shards export data/scenes-train --format ora --out drawings --limit 10")(
    export.export
)
shards.app.command(epilog="Example: lt shards page data/scenes-train")(export.page)
app.add_typer(train.app, name="train")
app.add_typer(eval.app, name="eval")
for verb, does, example in (
    ("sample", "Let a trained system show what it does.", "Example: lt sample pangu --controls pose,edge"),
    ("edit", "Change pictures as an instruction says.", None),
):
    app.add_typer(typer.Typer(cls=Verbs, no_args_is_help=True, help=does, epilog=example), name=verb)
app.add_typer(reproduce.app, name="reproduce")
app.command("doctor", epilog="Example: lt doctor")(doctor.doctor)


def version(wanted: bool) -> None:
    if wanted:
        from lt import __version__

        print(f"lt {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=version, is_eager=True, help="Print the version and stop."
    ),
) -> None: ...


def main() -> None:
    """The `lt` command. Known errors are printed for people; a bug keeps its traceback."""
    if "OMP_WAIT_POLICY" not in os.environ:  # torch's threads would spin while they wait, which starves a busy machine
        os.environ.setdefault("GOMP_SPINCOUNT", "300")
    try:
        app()
    except KeyboardInterrupt:
        print("Stopped. The same command again continues where this one was stopped.", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        sys.exit(0)
    except ModuleNotFoundError as error:
        _explain_missing_package(error)
    except Exception as error:
        from lt.datagen.shards.errors import LtError, UsageError

        if not isinstance(error, LtError):
            raise
        _print_error(error.message, error.hint)
        sys.exit(2 if isinstance(error, UsageError) else 1)


def _explain_missing_package(error: ModuleNotFoundError) -> NoReturn:
    """Say which extra brings what could not be imported. Raises `error` again if none does: that is a bug."""
    from lt.recipes.doctor import DISTRIBUTION, extra_that_brings

    extra = extra_that_brings(error.name or "", sys.argv[1] if len(sys.argv) > 1 else "")
    if extra is None:
        raise error
    _print_error(
        f"This needs {error.name}, which is not installed.", f"Install it: pip install '{DISTRIBUTION}[{extra}]'"
    )
    sys.exit(1)


def _print_error(message: str, hint: str) -> None:
    print(f"Error: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
