"""Several players in one training: who moves when, how far, what is kept, and that a killed game goes on as if nothing was."""

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy
import toy_players
from torch import nn

from lt.datagen.shards.errors import LtError
from lt.recipes.config import PlayerSettings, TrainSettings
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.ema import Ema, decay
from lt.recipes.training.logging import read_log
from lt.recipes.training.loop import Loop, dry_run
from lt.recipes.training.objective import Objective, Player, Turn
from lt.recipes.training.players import alone, lazily, make_sides, players_of
from lt.recipes.training.run import Run

PROCESSES = multiprocessing.get_context("forkserver")
GAME = ("model.penalty_every=4", "train.ema_kimg=0.1", "train.steps=30", "log.save_every=7")


def states(out: Path, step: int) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint holds, by `<file>/<name>`."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    record = Record.load(folder)
    stems = [name.removesuffix(".safetensors") for name in record.files]
    return {
        f"{stem}/{name}": tensor
        for stem in stems
        for name, tensor in checkpoints.read_tensors(folder, record, stem).items()
    }


def game(shards: Path, out: Path, *overrides: str) -> Loop:
    """A game before its first step."""
    run = Run(toy_players.plan(shards, out, *overrides), lambda _: None)
    run.start(None)
    return Loop(run, lambda _: None)


def test_each_moves_in_its_own_turn_only(shards, tmp_path):
    run = game(shards, tmp_path).run
    batch = run.examples.fetch(range(24))
    before = checkpoints.gathered(run.weights)
    for turn, moving in zip(run.turns, ("generator", "discriminator", "discriminator"), strict=True):
        alone(run.sides, turn.player)
        found = run.sides[turn.player].learn(turn, [batch], 0)
        after = checkpoints.gathered(run.weights)
        moved = {name.split(".")[0] for name in after if not torch.equal(before[name], after[name])}
        assert moved == {moving} and turn.method in found
        assert all(weight.grad is None for weight in run.weights.values())
        before = after


def test_each_has_its_own_rate_betas_and_clip_corrected_for_lazy_steps(shards, tmp_path):
    run = game(shards, tmp_path, "model.penalty_every=4", "train.betas=[0.9,0.99]", "discriminator.clip=0.01").run
    one, two = run.sides["generator"], run.sides["discriminator"]
    assert (one.train.lr, one.train.betas, one.train.clip) == (0.01, (0.9, 0.99), 1.0)
    share = 4 / 5  # one further step in four, Karras et al. 2020, appendix B
    assert (two.train.lr, two.train.betas) == (0.02 * share, (0.0, 0.99**share)) and two.train.clip == 0.01
    assert one.rate(0) == {"generator_lr": 0.01 / 5} and two.rate(0) == {"discriminator_lr": 0.02 * share}
    assert two.optimizer.param_groups[0]["betas"] == two.train.betas
    both = lazily(TrainSettings(lr=1.0), [Turn("g"), Turn("g", "a", 4, lazy=True), Turn("g", "b", 16, lazy=True)])
    assert both.lr == pytest.approx(1 / (1 + 1 / 4 + 1 / 16))
    assert lazily(TrainSettings(lr=1.0), [Turn("g"), Turn("g", "again", every=2)]).lr == 1.0, "no regulariser"
    assert PlayerSettings(warmup=3).over(TrainSettings(lr=0.5, warmup=9)) == TrainSettings(lr=0.5, warmup=3)


def test_a_lazy_regulariser_counts_for_the_steps_it_leaves_out(shards, tmp_path):
    run = game(shards, tmp_path, "model.penalty_every=4").run
    side, batch = run.sides["discriminator"], run.examples.fetch(range(24))
    penalty, _ = run.objective.discriminator_penalty(batch)
    wanted = torch.autograd.grad(4 * penalty, side.weights[:2])
    side.optimizer.step = lambda: None
    side.optimizer.zero_grad = lambda set_to_none: None
    found = side.learn(run.turns[2], [batch], 0)
    assert torch.equal(found["discriminator_penalty"], penalty.detach()), "the log shows it as it is"
    for weight, gradient in zip(side.weights, wanted, strict=False):
        torch.testing.assert_close(weight.grad, gradient)


def test_the_average_by_images_is_the_formula_and_keeps_the_generator(shards, tmp_path):
    train = TrainSettings(batch=32, ema_kimg=10, ema_rampup=0.05)
    assert decay(0, train) == 0.0, "nothing was seen before: the weights themselves"
    assert decay(100, train) == 0.5 ** (32 / (100 * 32 * 0.05))
    assert decay(1_000_000, train) == 0.5 ** (32 / 10_000)
    assert decay(1, train.model_copy(update={"ema_rampup": 0.0})) == 0.5 ** (32 / 10_000)
    assert decay(0, TrainSettings(ema=0.5)) == 0.1 and decay(1000, TrainSettings(ema=0.5)) == 0.5
    weight = nn.Parameter(torch.tensor([1.0]))
    average = Ema({"w": weight})
    with torch.no_grad():
        weight.fill_(3.0)
    average.update(0.75)
    assert average.average["w"].item() == 1.5
    toy_players.run(shards, tmp_path, *GAME, "train.steps=3")
    stored = states(tmp_path, 3)
    assert {name.split("/")[1].split(".")[0] for name in stored if name.startswith("ema/")} == {"generator"}
    assert {name.split("/")[1].split(".")[0] for name in stored if name.startswith("optimizer/")} == {
        "generator",
        "discriminator",
    }


@pytest.fixture(scope="module")
def uninterrupted(shards, tmp_path_factory):
    """Log and state of a game of 30 steps."""
    out = tmp_path_factory.mktemp("game")
    assert toy_players.run(shards, out, *GAME, f"model.trace={out / 'trace'}").status == "done"
    return out


def test_a_game_is_logged_by_player(uninterrupted):
    lines = read_log(uninterrupted, "train")
    assert {
        "generator_loss", "generator_norm", "generator_lr", "generator_spread",
        "discriminator_loss", "discriminator_norm", "discriminator_lr", "discriminator_right",
        "discriminator_penalty", "discriminator_penalty_norm",
    } <= lines[0].keys()  # fmt: skip
    assert "loss" not in lines[0]
    assert len({line["discriminator_penalty"] for line in lines}) == 8, "it is logged as it was when it was last taken"
    taken = (uninterrupted / "trace").read_text().split()[-9:]
    assert taken == ["0", *(str(step) for step in range(0, 30, 4))], "once while it was measured"


@pytest.mark.slow
def test_a_killed_game_goes_on_bit_for_bit(shards, tmp_path, uninterrupted):
    settings = (*GAME, f"model.trace={tmp_path / 'trace'}")
    process = PROCESSES.Process(target=toy_players.run, args=(shards, tmp_path, *settings))
    process.start()
    toy.kill_at(12, tmp_path, process)
    newest = checkpoints.latest(tmp_path / "checkpoints")
    begun = Record.load(newest).step if newest else 0
    (tmp_path / "trace").unlink()
    assert toy_players.run(shards, tmp_path, *settings).status == "done"
    assert (tmp_path / "trace").read_text().split() == [
        str(step) for step in range(30) if step % 4 == 0 and step >= begun
    ]
    one, other = states(uninterrupted, 30), states(tmp_path, 30)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    names = ("generator_loss", "discriminator_loss", "discriminator_norm")
    lines = [read_log(out, "train") for out in (uninterrupted, tmp_path)]
    assert [[line[name] for name in names] for line in lines[0]] == [
        [line[name] for name in names] for line in lines[1]
    ]


@pytest.mark.slow
def test_two_ranks_play_as_one(shards, tmp_path, uninterrupted):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += [str(Path(__file__).parent / "run_toy.py"), "train", "toy_players", "--data", str(shards)]
    settings = (*GAME, f"data.validation={shards}", "train.micro=6")
    command += ["--out", str(tmp_path / "two"), *(part for one in settings for part in ("--set", one))]
    ended = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for name in ("generator_loss", "discriminator_loss", "discriminator_penalty", "discriminator_norm"):
        one, two = ([line[name] for line in read_log(out, "train")] for out in (uninterrupted, tmp_path / "two"))
        assert two == pytest.approx(one, rel=2e-4), name
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-00000030")
    assert toy_players.run(shards, tmp_path / "two", *GAME).status == "done", "one rank continues two"
    one, two = states(uninterrupted, 30), states(tmp_path / "two", 30)
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_only_a_loss_that_falls_may_not_jump_but_none_may_be_no_number(shards, tmp_path):
    with pytest.raises(LtError, match="Stopped at step 42: the discriminator loss is inf"):
        toy_players.run(shards, tmp_path, "train.steps=60", "model.explode_at=40", "log.every=30")
    side = game(shards, tmp_path / "other").run.sides["generator"]
    side.guard.losses.extend([1.0] * 64)
    assert "the generator loss jumped to 9" in side.trouble(
        Turn("generator"), {"generator_loss": 9.0, "generator_norm": 1.0}
    )


def test_what_cannot_be_played_is_said(shards, tmp_path):
    objective = Objective()
    objective.modules = {"a": nn.Linear(1, 1), "b": nn.Linear(1, 1)}
    assert players_of(objective) == (Player("", ("a", "b")),)
    objective.players = (Player("one", ("a",)), Player("two", ("a",)))
    with pytest.raises(ValueError, match="each is one player's"):
        players_of(objective)
    run = game(shards, tmp_path).run
    with pytest.raises(LtError, match="Sharded weights serve one player only"):
        make_sides(run.objective, run.accelerator, TrainSettings(parallel="fsdp"), {})


def test_a_game_is_measured_over_its_turns(shards, tmp_path):
    found = dry_run(toy_players.plan(shards, tmp_path, *GAME), lambda _: None)
    trained = {size.name: size.trained for size in found.sizes}
    assert found.optimizer == 8 * sum(trained.values()) and found.ema == 4 * trained["generator"]
    assert found.activations and found.seconds_per_step
    assert isinstance(found.memory, int) and not (tmp_path / "checkpoints").exists()
