"""`lt sample pangu` in this process, and what it drew."""

import sys
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from lt.cli import app
from lt.datagen.shards import open_shards

LT = Path(sys.executable).with_name("lt")
PROMPT = "a child in a red shirt and blue trousers waving"
TINY = ["runs/pangu-tiny", "runs/pangu-tiny-texture"]


def sample(*words: str) -> str:
    """What the command says on stderr. Errors are raised."""
    result = CliRunner().invoke(app.app, ["sample", "pangu", "--steps", "2", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stderr


def fails(monkeypatch, capsys, *words: str) -> tuple[int, str]:
    """Exit code and stderr of the whole command, as `main` ends it."""
    monkeypatch.setattr(sys, "argv", ["lt", "sample", "pangu", "--steps", "2", *words])
    code = 0
    try:
        app.main()
    except SystemExit as end:
        code = int(end.code or 0)
    return code, capsys.readouterr().err


def drawn(out: Path) -> dict[int, np.ndarray]:
    """Pictures by their seed."""
    return {one.meta["seed"]: one.picture.astype(int) for one in open_shards(str(out))}
