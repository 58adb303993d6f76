"""What the loop owns: schedule, accumulation, averages, logs, guard, and how a run ends."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
import toy
from torch import nn

from lt.datagen.shards.errors import LtError
from lt.recipes.config import TrainSettings
from lt.recipes.training import checkpoints
from lt.recipes.training.ema import Ema
from lt.recipes.training.guard import Interruption, SpikeGuard
from lt.recipes.training.logging import read_log
from lt.recipes.training.loop import Loop, dry_run, train
from lt.recipes.training.objective import Objective
from lt.recipes.training.optim import Lamb, make_optimizer, rate, set_rate
from lt.recipes.training.run import Run


def test_the_rate_is_a_function_of_the_step():
    cosine = TrainSettings(steps=110, warmup=10, lr=0.5, lr_end=0.1)
    assert [rate(step, cosine) for step in (0, 4, 9, 10)] == pytest.approx([0.05, 0.25, 0.5, 0.5])
    assert rate(60, cosine) == pytest.approx((0.5 + 0.05) / 2)
    assert rate(110, cosine) == pytest.approx(0.05)
    assert rate(60, cosine.model_copy(update={"schedule": "constant"})) == 0.5
    # FILIP-base: base rate 2e-3 at batch 40,960 is the peak 0.018 that the paper states
    assert rate(3000, TrainSettings(lr=2e-3, batch=40960, lr_scaling="sqrt", warmup=3000)) == pytest.approx(
        0.0179, 1e-2
    )


def test_groups_have_their_own_factor_and_vectors_do_not_decay():
    objective = Objective()
    objective.modules = {"a": nn.Linear(2, 3), "b": nn.LayerNorm(3)}
    settings = TrainSettings(warmup=0, lr=0.5, schedule="constant")
    groups = objective.parameter_groups(0.2)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.2), (3, 0.0)]
    groups[1]["lr_scale"] = 0.1
    optimizer = make_optimizer(groups, settings, torch.device("cpu"))
    assert set_rate(optimizer, 0, settings) == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, pytest.approx(0.05)]


def test_lamb_is_the_algorithm_as_filip_used_it():
    """Against the formulas written out for one weight, two steps."""
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = Lamb([weight], lr=0.1, betas=(0.9, 0.99), eps=1e-4, weight_decay=0.01)
    w, m, v = torch.tensor([3.0, 4.0]), torch.zeros(2), torch.zeros(2)
    for gradient in (torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.25])):
        weight.grad = gradient.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.99 * v + 0.01 * gradient**2
        update = m / (v.sqrt() + 1e-4) + 0.01 * w
        w = w - 0.1 * min(w.norm().item(), 10.0) / update.norm() * update
        assert torch.allclose(weight, w, atol=1e-6)
    long = nn.Parameter(torch.full((4,), 100.0))
    long.grad = torch.ones(4)
    Lamb([long], lr=0.1).step()
    assert (100 - long.detach()).norm() == pytest.approx(0.1 * 10.0, rel=1e-4), (
        "the weights count with length 10 at most"
    )
    zero = nn.Parameter(torch.zeros(4))
    zero.grad = torch.ones(4)
    Lamb([zero], lr=0.1).step()
    assert torch.isfinite(zero).all() and (zero < 0).all()


def test_the_average_follows_and_swapping_is_exact():
    weight = nn.Parameter(torch.tensor([1.0, 0.1]))
    ema = Ema({"w": weight})
    with torch.no_grad():
        weight.add_(1.0)
    ema.update(0.1)
    assert torch.allclose(ema.average["w"], torch.tensor([1.9, 1.0]))
    ema.update(0.5)
    assert torch.allclose(ema.average["w"], torch.tensor([1.95, 1.05]))
    before, average = weight.detach().clone(), ema.average["w"].clone()
    with ema.swapped():
        assert torch.equal(weight, average)
    assert torch.equal(weight, before) and torch.equal(ema.average["w"], average)


def test_accumulation_is_the_large_batch(shards, tmp_path):
    whole = toy.run(shards, tmp_path / "whole", "model.dropout=0")
    parts = toy.run(shards, tmp_path / "parts", "model.dropout=0", "train.micro=6")
    one, other = toy.losses(tmp_path / "whole"), toy.losses(tmp_path / "parts")
    assert one[1] == pytest.approx(other[1], rel=1e-6) and one[30] == pytest.approx(other[30], rel=1e-3)
    assert whole.metrics["accuracy"] == pytest.approx(parts.metrics["accuracy"], abs=0.02)


def test_bf16_trains_and_keeps_fp32_weights(shards, tmp_path):
    toy.run(shards, tmp_path, "train.precision=bf16", "train.steps=8")
    newest = checkpoints.latest(tmp_path / "checkpoints")
    tensors = checkpoints.read_tensors(newest, checkpoints.Record.load(newest), "model")
    assert {tensor.dtype for name, tensor in tensors.items() if name != "net.seen"} == {torch.float32}
    toy.run(shards, tmp_path / "fp32", "train.steps=8")
    bf16, fp32 = toy.losses(tmp_path)[1], toy.losses(tmp_path / "fp32")[1]
    assert bf16 != fp32 and bf16 == pytest.approx(fp32, rel=0.02)


def test_the_log_tells_what_was_asked_for(shards, tmp_path):
    outcome = toy.run(shards, tmp_path, "log.every=10", "log.tensorboard=true")
    assert outcome.status == "done" and outcome.metrics["accuracy"] > 0.6
    lines = read_log(tmp_path, "train")
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert {"loss", "lr", "norm", "accuracy", "bad", "data_s", "compute_s", "samples_per_s"} <= lines[0].keys()
    assert [line["step"] for line in read_log(tmp_path, "validation")] == [20, 30]
    start = read_log(tmp_path, "start")[0]
    assert start["settings"]["train.batch"] == 24 and start["ranks"] == 1 and len(start["data"]) == 64
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "step-00000020-grid.png",
        "step-00000030-grid.png",
    ]
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_bad_samples_are_counted_named_and_remembered(tmp_path):
    toy.write_shards(tmp_path / "data", 60, bad=(5, 6))
    toy.run(tmp_path / "data", tmp_path / "run", "train.steps=10")
    bad = read_log(tmp_path / "run", "bad")
    assert {line["key"] for line in bad} == {"toy-00005", "toy-00006"} and len(bad) == 8, "240 samples are 4 epochs"
    assert read_log(tmp_path / "run", "train")[-1]["bad"] == 8
    assert checkpoints.Record.load(checkpoints.latest(tmp_path / "run" / "checkpoints")).bad == 8


def test_nan_stops_with_the_last_good_checkpoint_and_the_keys_and_can_be_passed_over(shards, tmp_path):
    trace = tmp_path / "keys"
    settings = ("log.save_every=5", "model.explode_at=13", f"model.trace={trace}")
    with pytest.raises(LtError) as caught:
        toy.run(shards, tmp_path, *settings)
    keys = trace.read_text().splitlines()[12].split()
    assert caught.value.message.startswith(
        f"Stopped at step 12: the loss is inf. The batch: {', '.join(keys[:4])} ... (24 in "
    )
    assert "Last good checkpoint: " in caught.value.hint and "step-00000010." in caught.value.hint
    assert "--set train.skip=[12]" in caught.value.hint
    assert json.loads((tmp_path / "trouble-step-00000012.json").read_text())["keys"] == keys
    assert checkpoints.latest(tmp_path / "checkpoints").name == "step-00000010"
    trace.unlink()
    resumed = ("log.save_every=5", "model.explode_at=13", f"model.trace={trace}", "train.skip=[12, 13]")
    with pytest.raises(LtError, match="Stopped at step 14"):  # `seen` counts batches, not steps: it explodes two later
        toy.run(shards, tmp_path, *resumed)
    assert len(trace.read_text().splitlines()) == 3, "steps 10, 11 and 14 were learned from"
    assert [line["step"] for line in read_log(tmp_path, "skip")] == [13, 14]


def test_a_spike_is_measured_in_robust_deviations():
    guard = SpikeGuard(10.0)
    assert not guard.trouble(1e6, 1.0), "too little is known"
    guard = SpikeGuard(10.0, [2.0 + 0.1 * math.sin(n) for n in range(100)])
    assert not guard.trouble(2.5, 1.0)
    assert "jumped to 9, " in guard.trouble(9.0, 1.0)
    assert 9.0 not in guard.losses and not SpikeGuard(0.0, guard.losses).trouble(9.0, 1.0)
    assert guard.trouble(float("nan"), 1.0) == "the loss is nan"
    assert "norm is inf" in guard.trouble(2.0, float("inf"))
    assert not SpikeGuard(10.0, [0.0] * 64).trouble(0.0, 0.0)


def test_the_first_ctrl_c_asks_and_the_second_ends():
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.asked == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_saves_and_says_how_far_it_came(shards, tmp_path):
    def interrupt(progress):
        assert progress.steps == 30 and progress.samples_per_second > 0
        if progress.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    outcome = train(toy.plan(shards, tmp_path), note=lambda _: None, watch=interrupt)
    assert (outcome.status, outcome.step) == ("stopped", 8)
    assert outcome.checkpoint.name == "step-00000008"


def test_figures_may_be_read_a_step_late_as_on_a_gpu(shards, tmp_path):
    settings = ("log.every=7", "train.spike=0")
    toy.run(shards, tmp_path / "prompt", *settings)
    run = Run(toy.plan(shards, tmp_path / "late", *settings), lambda _: None)
    run.start(None)
    loop = Loop(run, lambda now: os.kill(os.getpid(), signal.SIGINT) if now.step == 12 else None)
    loop.lag = 1
    stopped = loop.go()
    assert (stopped.status, stopped.step) == ("stopped", 14), "asked after 12, known with the metrics of 13"
    assert len(run.sides[""].guard.losses) == 14, "none is left unjudged"
    assert toy.run(shards, tmp_path / "late", *settings).status == "done"
    assert toy.losses(tmp_path / "late") == toy.losses(tmp_path / "prompt")
    assert toy.digests(tmp_path / "late") == toy.digests(tmp_path / "prompt")


def test_starting_from_other_weights_is_a_new_run(shards, tmp_path):
    toy.run(shards, tmp_path / "first", "train.steps=20")
    start = checkpoints.latest(tmp_path / "first" / "checkpoints")
    outcome = toy.run(shards, tmp_path / "second", f"train.init={start}", "train.steps=6", "train.lr=1e-4")
    assert outcome.step == 6
    assert toy.losses(tmp_path / "second")[1] < toy.losses(tmp_path / "first")[1]


def test_what_cannot_be_is_refused(shards, tmp_path):
    with pytest.raises(LtError, match=r"There is no checkpoint in .* Leave out --resume"):
        train(toy.plan(shards, tmp_path), note=lambda _: None, resume=True)
    with pytest.raises(LtError, match=r"200 samples are fewer than one batch of 256. .*train.batch=128"):
        toy.run(shards, tmp_path, "train.batch=256")
    toy.run(shards, tmp_path, "train.steps=5")
    with pytest.raises(LtError, match=r"train.steps: 5 there, 6 here"):
        toy.run(shards, tmp_path, "train.steps=6")


def test_foreign_shards_whose_samples_were_replaced_are_other_data(tmp_path):
    """Names, keys, sizes and times stay; only what the fields hold is another."""
    toy.write_shards(tmp_path / "ours", 80)
    (tmp_path / "in").mkdir()
    for tar in (tmp_path / "ours").glob("*.tar"):
        shutil.copy(tar, tmp_path / "in" / tar.name)
    toy.run(tmp_path / "in", tmp_path / "out", "train.steps=5")
    assert toy.run(tmp_path / "in", tmp_path / "out", "train.steps=5").status == "nothing to do"
    for tar in (tmp_path / "in").glob("*.tar"):
        times = tar.stat()
        tar.write_bytes(tar.read_bytes().replace(b'"colour":0', b'"colour":1'))
        os.utime(tar, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(LtError, match="other data"):
        toy.run(tmp_path / "in", tmp_path / "out", "train.steps=5")


def test_epochs_become_steps(shards, tmp_path):
    outcome = toy.run(shards, tmp_path, "train.epochs=0.5")
    assert outcome.steps == math.ceil(0.5 * 200 / 24)
    assert toy.run(shards, tmp_path, "train.epochs=0.5").status == "nothing to do"


def test_a_dry_run_counts_measures_and_writes_nothing(shards, tmp_path):
    notes = []
    found = dry_run(toy.plan(shards, tmp_path / "run", "train.ema=0.9"), notes.append)
    parameters = 3 * 9 * 16 + 16 + 16 * 9 * 16 + 16 + 16 * 4 + 4
    assert [(size.name, size.parameters, size.trained) for size in found.sizes] == [("net", parameters, parameters)]
    assert (found.gradients, found.optimizer, found.ema) == (4 * parameters, 8 * parameters, 4 * parameters)
    assert found.weights == 4 * parameters + 8
    # kept for the backward pass: at least the two hidden maps of 16 channels, and not ten times that
    maps = 24 * 2 * 16 * 16 * 16 * 4
    assert maps < found.activations < 10 * maps
    assert 0 < found.seconds_per_step < 60
    assert notes[0].startswith("toy: preset tiny (as asked); device cpu; data ") and str(tmp_path / "run") in notes[0]
    assert not (tmp_path / "run").exists()


def test_measuring_changes_nothing(shards, tmp_path):
    """The buffer that counts batches, for one, is as it was; so a run that was measured equals one that was not."""
    run = Run(toy.plan(shards, tmp_path), lambda _: None)
    run.build()
    before = checkpoints.gathered(checkpoints.weights_of(run.objective))
    run.estimate()
    after = checkpoints.gathered(checkpoints.weights_of(run.objective))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in run.objective.modules["net"].parameters())
