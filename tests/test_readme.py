"""The README's commands run, in order, and print what the README shows; its links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from lt.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
LT = Path(sys.executable).with_name("lt")


def console() -> list[tuple[str, list[str]]]:
    """(command, lines of shown output) of every `$ lt ...` in the README."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
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


@pytest.mark.slow
def test_commands_print_what_the_readme_shows(tmp_path):
    env = {**os.environ, "LT_HOME": str(tmp_path / "home"), "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    commands = console()
    assert len(commands) >= 3
    for command, shown in commands:
        name, *arguments = command.split()
        assert name == "lt"
        done = subprocess.run([LT, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed = [masked(line) for line in (done.stderr + done.stdout).splitlines()]
        for line in shown:
            assert masked(line) in printed, f"{command}: the README shows\n  {line}\nbut it printed\n" + "\n".join(
                printed
            )


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
