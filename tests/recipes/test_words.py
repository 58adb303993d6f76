"""Lists of words may grow: a trained model keeps the one that it was trained with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lt.datagen.shards import LtError
from lt.models.nn.captions import TOKENS
from lt.recipes import words
from lt.recipes.registry import find_recipe
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.loop import train
from lt.recipes.training.plan import make_plan
from lt.recipes.words import word_list

TEXTS = ["a red fox to the left of two koalas", "一个穿红色长袖衬衫的人", "a word that nobody knows: garment"]


@pytest.fixture
def grow(tmp_path, monkeypatch):
    """Appends a word to every list that comes with lt."""

    def append() -> None:
        lists = shutil.copytree(words.FOLDER, tmp_path / "words")
        for file in lists.glob("*.txt"):
            file.write_text(file.read_text(encoding="utf-8") + "garment\n", encoding="utf-8")
        monkeypatch.setattr(words, "FOLDER", lists)

    return append


@torch.no_grad()
def _said(where: str) -> list[torch.Tensor]:
    """What a trained model makes of the texts."""
    objective: Any = checkpoints.restore(Path(where))[0]
    if hasattr(objective, "caption_condition"):
        tokens = objective.caption_condition(TEXTS)[TOKENS]
        return [tokens, objective.encoder(tokens)[0]]
    tokens = objective.tokenizer(TEXTS)
    return [tokens.ids, objective.model.encode_text(*tokens).tokens]


@pytest.mark.parametrize("name", ["lt:filip-tiny", "lt:wukong-tiny", "lt:pangu-tiny", "lt:pangu-tiny-pose"])
def test_shipped_weights_say_the_same_when_the_list_has_grown(name, grow):
    before = _said(name)
    grow()
    assert all(torch.equal(*pair) for pair in zip(before, _said(name), strict=True))


def test_a_run_goes_on_with_the_words_that_it_began_with(tmp_path, monkeypatch, grow):
    monkeypatch.chdir(tmp_path)
    small = [*("world.train=8", "world.test=4", "train.batch=4", "train.warmup=0", "data.workers=0")]
    small += ["train.steps=2", "log.save_every=1", "log.keep=9", "log.tensorboard=false", "log.validate_every=9"]

    def go_on() -> dict[str, torch.Tensor]:
        plan = make_plan(find_recipe("filip"), "tiny", overrides=small, out=tmp_path / "run")
        assert train(plan, note=lambda line: None).status == "done"
        last = tmp_path / "run" / "checkpoints" / "step-00000002"
        return checkpoints.read_tensors(last, Record.load(last), "model")

    whole = go_on()
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    before = word_list("scenes-en")
    grow()
    assert word_list("scenes-en") == (*before, "garment")
    again = go_on()
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    last = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert (last / "words.txt").read_text(encoding="utf-8").split() == list(before)
    (last / "words.txt").write_text("garment\n", encoding="utf-8")
    with pytest.raises(LtError, match=r"words.txt is damaged"):
        checkpoints.restore(last)


def test_a_list_is_one_of_lt_s_or_a_file(tmp_path):
    (tmp_path / "own.txt").write_text("a\ncat\n猫\n", encoding="utf-8-sig")  # as Windows writes it
    assert word_list(str(tmp_path / "own.txt")) == ("a", "cat", "猫")
    with pytest.raises(LtError, match=r"No list of words 'scenes-fr'") as unknown:
        word_list("scenes-fr")
    assert "scenes-" in unknown.value.hint
    (tmp_path / "own.txt").write_text("a\na\n", encoding="utf-8")
    with pytest.raises(LtError, match="repeats itself"):
        word_list(str(tmp_path / "own.txt"))
