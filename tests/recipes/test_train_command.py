"""`lt train` as a person uses it, in a process of its own."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from lt.cli import app
from lt.datagen.shards import open_shards
from lt.recipes.training.checkpoints import Record

LT = [sys.executable, str(Path(__file__).parent / "run_toy.py")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def lt(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run([*LT, *words], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("person")


@pytest.fixture
def here(folder, monkeypatch, capsys):
    """The same command inside this process: words in; code, stdout and stderr out."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["lt", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_with_nothing_said_it_trains_the_tiny_preset_on_the_built_in_world(folder, here):
    ended = lt(folder, "train", "toy", "--json")
    assert ended.returncode == 0, ended.stderr
    first, *_, last = ended.stderr.splitlines()
    assert first == "toy: preset tiny (no GPU here); device cpu; data the built-in world (no --data); run runs/toy-tiny"
    assert last.startswith("Done: 30 steps, ") and "accuracy" in last
    result = json.loads(ended.stdout)
    assert result["status"] == "done" and result["checkpoint"].endswith("checkpoints/step-00000030")
    code, shown, told = here("train", "toy")
    assert code == 0 and shown == ""
    assert told.splitlines()[-1].startswith("Nothing to do: runs/toy-tiny has all its 30 steps")


def test_a_dry_run_as_json_and_for_people(here):
    code, shown, told = here("train", "toy", "--dry-run", "--json")
    assert code == 0 and json.loads(shown)["sizes"] == [{"name": "net", "parameters": 2836, "trained": 2836}]
    assert "  net: 2,836 parameters" in told and "s each, measured)" in told


@pytest.mark.parametrize("pattern", ["shard-{000000..000001}.tar", "shard-{000000,000001}.tar"])
def test_data_may_be_a_pattern_of_shards(folder, here, shards, pattern):
    """Two of the five shards, with forty samples each."""
    out = f"pattern-{len(pattern)}"
    words = ("--data", f"{shards}/{pattern}", "--set", f"data.validation={shards}", "--steps", "2", "--out", out)
    code, shown, told = here("train", "toy", *words, "--json")
    assert code == 0, told
    both = open_shards(str(shards / "shard-{000000..000001}.tar"))
    assert Record.load(folder / json.loads(shown)["checkpoint"]).data == both.digest() and len(both) < 100


def test_show_prints_every_setting_on_a_line_of_its_own(here):
    _, shown, _ = here("train", "toy", "--show", "--set", "train.lr=3e-4", "--seed", "5", "--steps", "9")
    lines = {line.split()[0]: line.split(None, 1)[1] for line in shown.splitlines()}
    assert lines["train.lr"].split(None, 2)[:2] == ["0.0003", "--set"] and "Base learning rate" in lines["train.lr"]
    assert lines["train.seed"].startswith("5 ") and lines["train.steps"].startswith("9 ")
    assert lines["model.width"].endswith("Channels of the hidden layer.")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "toyy"], 2, "No system 'toyy' to train.\n  Did you mean toy?"),
        (
            ["train", "toy", "--set", "train.bacth=3"],
            2,
            "setting 'train.bacth' (from --set).\n  Did you mean train.batch?",
        ),
        (["train", "toy", "--data", "nowhere"], 1, "No shards (*.tar) in nowhere."),
        (["train", "toy", "--out", "other", "--resume"], 1, "There is no checkpoint in other/checkpoints."),
        (["train", "toy", "--seed", "18446744073709551616"], 2, "Invalid value for '--seed'"),
        (["train", "toy", "--out", "nowhere", "--export", "there"], 1, "There is no run in nowhere."),
        (["train", "toy", "--export", "/dev/null"], 1, "/dev/null is a file."),
        (["sample", "bogus"], 2, "There is no `lt sample bogus`.\n  Known: filip, wukong"),
        (["eval", "retrievel"], 2, "There is no `lt eval retrievel`.\n  Did you mean retrieval?"),
    ],
)
def test_mistakes_are_explained(here, words, code, message):
    ended, _, told = here(*words)
    assert ended == code and message in told


def test_help_ends_in_an_example_and_needs_no_torch(here):
    code, shown, _ = here("train", "--help")
    assert code == 0 and "Example: lt train filip" in shown
    code = "import sys; from lt.cli import app; assert 'torch' not in sys.modules and 'lt.recipes' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_progress_on_a_terminal_shows_rate_and_time_left(folder):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*LT, "train", "toy", "--out", "shown"], cwd=folder, env=ENVIRONMENT, stderr=slave, stdout=subprocess.DEVNULL
    )
    os.close(slave)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    assert process.wait() == 0
    assert b"samples/s" in shown and b"left" in shown and b"30/30" in shown


def _read(master: int) -> bytes:
    try:
        return os.read(master, 65536)
    except OSError:  # the other end has gone
        return b""
