"""Commands of README and documents run, in order, and print what is shown; links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import typer

from lt.cli.app import app
from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import Sample
from lt.datagen.sources.numbered import NumberedSource

ROOT = Path(__file__).parents[1]
LT = Path(sys.executable).with_name("lt")


def console(page: str) -> list[tuple[str, list[str]]]:
    """(command, lines of shown output) of every `$ lt ...` in a page."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def masked(line: str) -> str:
    """A line without what differs from run to run: numbers, digests of code, widths."""
    line = re.sub(r"code [0-9a-f]{12}", "CODE", line)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d,.]*", "N", line)).strip()


def run(command: str, folder: Path) -> str:
    """What a command prints on stderr and stdout."""
    env = {**os.environ, "LT_HOME": str(folder / "home"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    name, *arguments = shlex.split(command)
    assert name == "lt"
    done = subprocess.run([LT, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stderr + done.stdout


def check(page: str, folder: Path) -> None:
    """Every command of a page prints every line that the page shows."""
    for command, shown in console(page):
        printed = [masked(line) for line in run(command, folder).splitlines()]
        for line in shown:
            told = "\n".join(printed)
            assert masked(line) in printed, f"{command}: {page} shows\n  {line}\nbut it printed\n{told}"


@pytest.mark.slow
def test_commands_print_what_the_readme_shows(tmp_path):
    assert len(console("README.md")) >= 3
    check("README.md", tmp_path)


@dataclass(frozen=True)
class Grey(NumberedSource):
    """Grey pictures as a world's: as many as a document's world has, made at once."""

    name: ClassVar[str] = "scenes"

    def sample(self, number):
        picture = np.full((self.size, self.size, 3), number % 256, np.uint8)
        return Sample(f"grey-{number}", {"png": picture, "txt": "a red ball"})


@pytest.mark.slow
def test_commands_print_what_the_documents_show(tmp_path):
    for split, count in (("train", 12000), ("test", 1000)):
        folder = tmp_path / "data" / f"scenes-{split}-64px-{count}"
        assert run_pipeline(Pipeline("scenes", Grey(count, size=64), tolerance=0.0), folder, workers=0).complete
    pages = [f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md"))]
    assert any(console(page) for page in pages)
    for page in pages:
        check(page, tmp_path)


def documented() -> list[str]:
    """Every `lt ...` in a block of README and documents, without comments and with `...` as a word."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "\n".join(re.sub(r" \\\n\s+", " ", page.read_text()) for page in pages)
    found = re.findall(r"^(?:    |\$ )(lt .+?)(?:\s+[#>] ?.*)?$", text, re.MULTILINE)
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", documented())
def test_every_command_in_the_documents_parses(line):
    command: Any = typer.main.get_command(app)
    words = [word for word in shlex.split(line)[1:] if word != "..." or '"..."' in line]
    while hasattr(command, "list_commands"):
        command = command.get_command(None, words.pop(0))
    command.make_context(line, words)


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}, which is not there"


def test_every_make_target_named_in_documents_exists():
    targets = set(re.findall(r"^([a-z][a-z0-9.-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]:
        named = set(re.findall(r"`make ([a-z][a-z0-9.-]*[a-z0-9])`", (ROOT / page).read_text()))
        assert named <= targets, f"{page} names {named - targets}"
