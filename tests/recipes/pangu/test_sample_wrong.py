"""What is wrong in a call of `lt sample pangu` is named, with exit code 1 or 2; what interrupts a run leaves it whole."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from diffusion_sampling import PROMPT, TINY, drawn, fails, sample

from lt.cli import app
from lt.datagen.shards import open_shards
from lt.datagen.shards.storage import TEMP_MARK

BOTH = "+".join(TINY)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--prompt", " "], 2, "The prompt is empty.\n  Say what to draw"),
        (["--prompt", PROMPT, "--controls", "pos"], 2, "Unknown control 'pos'.\n  Known: pose, edge, layout, color."),
        (["--prompt", PROMPT, "--controls", "pose"], 2, "no control picture for pose.\n  Name it: --pose FILE"),
        (["--prompt", PROMPT, "--pose", "{wide}"], 1, "is 64x32, the pictures are to be 64x64: another aspect"),
        (["--prompt", PROMPT, "--pose", "none.png"], 1, "Cannot read the pose picture none.png: No such file"),
        (["--prompt", PROMPT, "--pose-of", "prompts.txt"], 1, "Cannot read the pose picture prompts.txt: "),
        (["--prompt", PROMPT, "--pose", "{pose}", "--pose-of", "{pose}"], 2, "two control pictures for pose"),
        (["--pose", "{pose}"], 2, "A control picture needs a prompt"),
        (["--prompt", PROMPT, "--size", "66x64"], 2, "must be multiples of 4.\n  Try 64x64"),
        (["--prompt", PROMPT, "--size", "64"], 2, "--size 64: want WIDTHxHEIGHT"),
        (["--prompt", PROMPT, "--checkpoint", "runs/vae-tiny"], 1, "is a checkpoint of vae, not of pangu"),
        (["--prompt", PROMPT, "--checkpoint", "runs/none"], 1, "runs/none is not there"),
        (["--prompt", PROMPT, "--checkpoint", TINY[0]], 1, "cannot draw alone"),
        (["--prompt", PROMPT, "--coop", "runs/pangu-tiny"], 2, "want MODEL=WEIGHT"),
        (["--prompt", PROMPT, "--coop", f"{BOTH}=1.5"], 2, "Coop weights are"),
        (["--prompt", PROMPT, "--style", "=2"], 2, "--style =2: want TEXT=SCALE"),
        (["--prompt", PROMPT, "--style", "oil=much"], 2, "--style oil=much: want TEXT=SCALE"),
        (["--prompt", PROMPT, "--low", f"{BOTH}@32x16"], 2, "--low begins at 32x16, the pictures are to be 64x64"),
        (["--prompt", PROMPT, "--low", f"{BOTH}@128x128"], 2, "want the same aspect, no larger"),
        (["--prompt", PROMPT, "--low", f"{BOTH}@30x30"], 2, "30x30 cannot be drawn by structure, texture"),
        (["--prompt", PROMPT, "--low", f"{BOTH}@small"], 2, "--low MODEL@ small: want WIDTHxHEIGHT"),
        (["--prompt", PROMPT, "--low", f"{BOTH}@32x32", "--steps", "1"], 2, "leaves no step to one side of t = 500"),
        (["--prompt", PROMPT, "--data", "data"], 2, "either prompts or --data"),
        (["--prompts", "none.txt"], 1, "Cannot read the prompts none.txt: No such file"),
        (["--base", "runs", "--checkpoint", "runs"], 2, "either --base or --checkpoint"),
        (["--prompt", PROMPT, "--count", "0"], 2, "'--count'"),
    ],
)
def test_wrong_calls_are_named(here, tmp_path, controls, monkeypatch, capsys, words, code, message):
    (here / "prompts.txt").write_text("no picture", encoding="utf-8")
    given = [word.format(**controls) for word in words]
    ended, said = fails(monkeypatch, capsys, *given, "--out", str(tmp_path / "out"))
    assert ended == code and message in said, said
    assert "Traceback" not in said and not (tmp_path / "out").exists()


@pytest.mark.parametrize("control", ["pose", "edge", "layout", "color"])
def test_a_missing_branch_says_how_to_train_it(here, tmp_path, controls, monkeypatch, capsys, control):
    (tmp_path / "runs").mkdir()
    for run in ("vae-tiny", "pangu-tiny", "pangu-tiny-texture"):
        (tmp_path / "runs" / run).symlink_to(here / "runs" / run)
    monkeypatch.chdir(tmp_path)
    code, said = fails(monkeypatch, capsys, "--prompt", PROMPT, f"--{control}", str(controls["pose"]))
    assert code == 1 and f"pangu-tiny-{control} is not there" in said
    assert f"Train it first: lt train pangu --control {control}" in said
    both = [word for run in TINY for word in ("--checkpoint", run)]
    code, said = fails(monkeypatch, capsys, "--prompt", PROMPT, *both, f"--{control}", str(controls["pose"]))
    assert code == 2 and f"No control branch '{control}' here.\n  Train one: lt train pangu --control {control}" in said


def test_a_long_prompt_is_cut_aloud(here, tmp_path):
    prompt = (f"{PROMPT} " * 50)[:2000]
    said = sample("--prompt", prompt, "--style", "a man=2", "--out", str(tmp_path / "out"))
    assert "are not read: the text encoder has no places for them" in said and "'a man a child" in said
    assert open_shards(str(tmp_path / "out"))[f"pangu-0-{0:06d}"]["txt"] == prompt


def test_languages_may_be_mixed_in_a_prompt(here, tmp_path):
    mixed = "a child 穿着红色T恤 and blue trousers"
    sample("--prompt", mixed, "--prompt", "a child and blue trousers", "--out", str(tmp_path / "out"))
    first, second = open_shards(str(tmp_path / "out"))
    assert first.meta["captions"] == {"zh": mixed} and second.meta["captions"] == {"en": "a child and blue trousers"}
    assert not np.array_equal(first.picture, second.picture)


def test_another_count_in_the_same_folder_is_refused_by_name(here, tmp_path, monkeypatch, capsys):
    words = ("--prompt", PROMPT, "--out", str(tmp_path / "out"))
    sample(*words, "--count", "2")
    code, said = fails(monkeypatch, capsys, *words, "--count", "3")
    assert code == 1 and "was made with other settings" in said and "count" in said
    assert len(drawn(tmp_path / "out")) == 2


def test_a_full_disk_stops_the_run_and_room_lets_it_go_on(here, tmp_path, monkeypatch, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        words = ("--prompt", PROMPT, "--count", "40", "--out", str(disk / "out"))
        code, said = fails(monkeypatch, capsys, *words)
        assert code == 1 and "No space left" in said and "Free some space" in said and "Traceback" not in said
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        assert "40 samples in 2 shards" in sample(*words)
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_continues(here, tmp_path, kind):
    out = tmp_path / "out"
    words = ("--prompt", PROMPT, "--count", "256", "--out", str(out))
    run = get_context("fork").Process(
        target=whole_command, args=(words, tmp_path / "said")
    )  # spares the start of python
    run.start()
    try:
        while not list(out.glob("shard-*.json")):
            assert run.is_alive(), (tmp_path / "said").read_text()
            time.sleep(0.01)
        os.kill(run.pid, kind)
        run.join(60)
    finally:
        run.kill()
    said = (tmp_path / "said").read_text()
    assert run.exitcode == (1 if kind == signal.SIGINT else -signal.SIGKILL), said
    if kind == signal.SIGINT:
        assert "the same command again continues" in said and "Traceback" not in said
    again = sample(*words)
    assert "256 samples in 8 shards" in again and "of 8 tasks were done before" in again
    assert not list(out.glob(f"*{TEMP_MARK}*"))
    pictures = drawn(out)
    sample("--prompt", PROMPT, "--seed", "255", "--out", str(tmp_path / "last"))
    assert pictures.keys() == set(range(256))
    assert np.abs(pictures[255] - drawn(tmp_path / "last")[255]).max() <= 1


def whole_command(words: tuple[str, ...], said: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell runs in the background
    sys.argv = ["lt", "sample", "pangu", "--steps", "2", *words]
    with said.open("w", buffering=1) as file, contextlib.redirect_stderr(file):
        app.main()
