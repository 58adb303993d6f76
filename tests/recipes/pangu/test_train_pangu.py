"""`lt train pangu`: generators and branches train on their part of the time line, export, and refuse what differs."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_runs import BRIEF, SHORT, WORLD, run
from PIL import Image
from test_diffusion_cache import write_clip
from torch.utils.data import default_collate
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.shards import LtError, UsageError, open_shards
from lt.datagen.sources.figures import FiguresSource
from lt.recipes import registry
from lt.recipes.diffusion.cache import cached, picture_stage
from lt.recipes.diffusion.controls import control_picture
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.pangu.settings import ModelSettings
from lt.recipes.training import checkpoints, loop
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.estimate import Estimate
from lt.recipes.training.logging import read_log
from lt.recipes.training.loop import train
from lt.recipes.training.plan import completing, make_plan, missing_first
from lt.recipes.vae import objective as vae_objective
from lt.recipes.worlds import figures


def pictures(run: str) -> np.ndarray:
    return np.asarray(Image.open(Path("runs") / run / "pictures" / "step-00000006-grid.png"))


def test_generators_learn_their_part_at_their_size(here):
    structure, texture = restore(Path("runs/pangu-tiny")), restore(Path("runs/pangu-tiny-texture"))
    assert structure.denoiser.timesteps == range(500, 1000) and structure.settings.model.trained_side == 64
    assert texture.denoiser.timesteps == range(500) and texture.settings.model.trained_side == 48
    losses = [line["loss"] for line in read_log(Path("runs/pangu-tiny"), "train")]
    assert len(losses) == 6 and losses[-1] < losses[0]
    before, after = read_log(Path("runs/pangu-tiny"), "validation")
    assert after["loss"] < before["loss"]
    assert pictures("pangu-tiny").shape == (2 * 64 + 6, 8 * 64 + 18, 3)
    assert pictures("pangu-tiny-texture").shape == (2 * 48 + 6, 8 * 48 + 18, 3)
    assert pictures("pangu-tiny-pose").shape == (3 * 64 + 8, 8 * 64 + 18, 3), "with the skeletons between"


def test_texture_learns_from_windows_of_whole_pictures(here):
    (cache,) = cached([str(figures("test", 8, 64, print))], [picture_stage("runs/vae-tiny", 64, 64, 64)], print)
    settings = make_plan(registry.find_recipe("pangu"), "tiny-texture").settings
    row = PanguObjective(settings).example()
    sample = next(iter(open_shards(cache)))
    whole = sample["latent.npy"]
    assert np.array_equal(row(sample, None)["latent"], whole[:, 2:14, 2:14]), "the middle, where nothing is drawn"
    places = [tuple(place) for place in np.ndindex(5, 5)]
    for seed in range(3):
        window = row(sample, np.random.default_rng(seed))["latent"]
        assert sum(np.array_equal(window, whole[:, y : y + 12, x : x + 12]) for y, x in places) == 1
    assert restore(Path("runs/pangu-tiny-texture")).settings.model.kept == (64, 64)
    with pytest.raises(UsageError, match="windows are for the texture generator"):
        make_plan(registry.find_recipe("pangu"), "tiny", None, ["model.windows=true"])


def test_the_fixed_loss_depends_on_the_weights_alone(here):
    objective = restore(Path("runs/pangu-tiny"))
    (cache,) = cached([str(figures("test", 8, 64, print))], [picture_stage("runs/vae-tiny", 64, 64)], print)
    rows = [objective.example()(sample, None) for sample in open_shards(cache)]

    def loss(groups) -> float:
        batches = [{**default_collate([rows[i] for i in group]), "key": list(group)} for group in groups]
        with torch.no_grad():
            return objective.validate(batches).metrics["loss"]

    assert loss([range(8)]) == pytest.approx(loss([range(3), range(3, 8)]), rel=1e-5)


def test_a_branch_trains_alone_and_names_its_generator(here):
    branch, base = restore(Path("runs/pangu-tiny-pose")), restore(Path("runs/pangu-tiny"))
    for name in ("unet", "text"):
        ours, theirs = branch.frozen[name].state_dict(), base.modules[name].state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name
    zero = [p for n, p in branch.branch.named_parameters() if n.startswith("controlnet_down_blocks")]
    assert all(p.abs().sum() > 0 for p in zero), "zero convolutions have moved"
    record = Record.load(checkpoints.chosen(Path("runs/pangu-tiny-pose")))
    base_record = Record.load(checkpoints.chosen(Path("runs/pangu-tiny")))
    assert record.built_on == {
        "model.autoencoder": base.located.digest,
        "model.base": checkpoints.digest_of_weights(base_record),
    }
    for stem in ("model", "ema", "optimizer"):
        stored = checkpoints.read_tensors(checkpoints.chosen(Path("runs/pangu-tiny-pose")), record, stem)
        assert {name.split(".")[0] for name in stored} == {"branch"}


@pytest.mark.parametrize("control", ["layout", "color"])
def test_branches_of_computed_controls_learn_from_both_worlds(here, control):
    run("pangu", f"tiny-{control}", *BRIEF)
    branch = restore(Path(f"runs/pangu-tiny-{control}"))
    record = Record.load(checkpoints.chosen(Path(f"runs/pangu-tiny-{control}")))
    assert record.samples == 56, "40 figures and 16 scenes"
    zero = [p for name, p in branch.branch.named_parameters() if name.startswith("controlnet_down_blocks")]
    assert all(p.abs().sum() > 0 for p in zero), "zero convolutions have moved"
    shown = np.asarray(Image.open(Path(f"runs/pangu-tiny-{control}") / "pictures" / "step-00000003-grid.png"))
    figure = FiguresSource(8, "test", size=64).sample(0)
    wanted = control_picture(figure, control, (64, 64))
    assert np.array_equal(shown[2 + 66 : 2 + 66 + 64, 2:66], wanted), "the control picture, between true and made"


def test_a_run_continues_where_it_was(here):
    notes: list[str] = []
    out = here / "runs" / "short"
    plan = make_plan(registry.find_recipe("pangu"), "tiny", None, [*WORLD, *SHORT], out)
    assert train(plan, notes.append).status == "done"
    same = Record.load(checkpoints.chosen(out)).files
    assert same == Record.load(checkpoints.chosen(Path("runs/pangu-tiny"))).files, "the same run anew, bit for bit"
    assert not [note for note in notes if "caches" in note], "latents are found again"
    assert "  structure: 56 of 56 pictures at 64 pixels, t from 500 to 999" in notes
    newest = checkpoints.latest(out / "checkpoints")
    assert newest is not None
    newest.rename(out / "gone")
    assert train(plan, notes.append).status == "done"
    assert any("continues from" in note for note in notes)
    assert Record.load(newest).files == same


def test_latents_of_another_autoencoder_are_refused(here):
    (cache,) = cached(["data/figures-train-64px-40"], [picture_stage("runs/vae-tiny", 64, 64)], print)
    sample = next(iter(open_shards(cache)))
    row = restore(Path("runs/pangu-tiny")).example()
    assert row(sample, None)["latent"].shape == (8, 16, 16)
    sample.meta["latent"]["model"] = "00" * 32
    with pytest.raises(LtError, match="was made by another encoder"):
        row(sample, None)


def test_an_exported_generator_opens_with_diffusers_and_draws(here, tmp_path):
    from diffusers import DiffusionPipeline

    checkpoints.export(Path("runs/pangu-tiny"), tmp_path / "structure")
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "structure")
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a person in a red shirt", height=64, width=64, num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (64, 64, 3) and np.isfinite(picture).all()
    ours = restore(Path("runs/pangu-tiny"))
    text = pipe.encode_prompt(["一个穿着红色T恤的人"], "cpu", 1, False)[0]
    tokens = ours.caption_condition(["一个穿着红色T恤的人"])["tokens"]
    with torch.no_grad():
        assert torch.allclose(text, ours.modules["text"](input_ids=tokens).last_hidden_state, atol=1e-5)
    checkpoints.export(Path("runs/pangu-tiny-pose"), tmp_path / "pose")
    steered = DiffusionPipeline.from_pretrained(tmp_path / "pose")
    assert type(steered).__name__ == "StableDiffusionControlNetPipeline"


def test_frozen_encoders_are_read_from_the_cache(here, tmp_path):
    clip = write_clip(tmp_path / "clip")
    small = ("world.scenes=0", "train.steps=3", f"model.text=[{clip}]", "model.text_length=8")
    plan = make_plan(registry.find_recipe("pangu"), "tiny", None, [*WORLD, *SHORT, *small], tmp_path / "run")
    with pytest.raises(LtError, match="32 wide, the U-Net reads 64"):
        train(plan, [].append)
    pair = ("world.scenes=0", "train.steps=3", f"model.text=[{clip},{clip}]", "model.text_length=8")
    plan = make_plan(registry.find_recipe("pangu"), "tiny", None, [*WORLD, *SHORT, *pair], tmp_path / "pair")
    assert train(plan, [].append).status == "done"
    objective = restore(tmp_path / "pair")
    assert isinstance(objective, PanguObjective) and "text" not in objective.modules
    write_clip(clip, seed=1)
    with pytest.raises(LtError, match=r"was trained with another model\.text than is there now"):
        restore(tmp_path / "pair")


def test_wrong_calls_are_named(here):
    with pytest.raises(UsageError, match="control and base go together"):
        make_plan(registry.find_recipe("pangu"), "tiny", None, ["model.control=pose"])
    with pytest.raises(LtError, match=r"There is no autoencoder in runs/vae-tinny"):
        run("pangu", "tiny", "model.autoencoder=runs/vae-tinny")
    with pytest.raises(LtError, match="is a checkpoint of pangu, not an autoencoder"):
        run("pangu", "tiny", "model.autoencoder=runs/pangu-tiny")
    with pytest.raises(LtError, match="is a checkpoint of vae, not of pangu"):
        restore(Path("runs/vae-tiny"))
    wrong = [*WORLD, *SHORT, "model.base=runs/pangu-tiny-texture", "model.generator=structure"]
    plan = make_plan(registry.find_recipe("pangu"), "tiny-pose", None, wrong, here / "runs" / "wrong")
    with pytest.raises(LtError, match="no structure generator at 64 pixels"):
        train(plan, [].append)


def test_what_a_run_builds_on_is_trained_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    plan = make_plan(registry.find_recipe("pangu"), "tiny-pose", None, [*WORLD, "train.batch=4"])
    first = missing_first(plan)
    assert [str(one.out) for one in first] == ["runs/vae-tiny", "runs/pangu-tiny"]
    assert all(one.settings.world.figures == 40 and one.settings.data.workers == 0 for one in first)
    assert [one.settings.train.batch for one in first] == [16, 16], "only the data is handed on"
    longer = missing_first(make_plan(registry.find_recipe("pangu"), "long-pose"))
    assert [str(one.out) for one in longer] == ["runs/vae-long", "runs/pangu-long", "runs/pangu-longer"]
    own = make_plan(registry.find_recipe("pangu"), "tiny-pose", None, ["model.autoencoder=a", "model.base=b"])
    assert missing_first(own) == [] and completing(own) == []
    after = completing(make_plan(registry.find_recipe("pangu"), "tiny", None, WORLD))
    assert [str(one.out) for one in after] == [f"runs/pangu-tiny-{part}" for part in ("texture", "pose", "edge")]
    assert all(one.settings.world.figures == 40 and one.settings.train.steps > 1000 for one in after)
    assert completing(plan) == [], "whoever changes a run's training wants that run alone"
    short = tmp_path / "cards"
    short.mkdir()
    (short / "tiny.yaml").write_text(
        "model: {widths: [8, 16, 16]}\ntrain: {steps: 3, batch: 8}\nlog: {validate_every: 3}\n"
    )
    monkeypatch.setattr(vae_objective, "RECIPE", replace(vae_objective.RECIPE, folder=short))
    settings = [word for setting in [*WORLD, *SHORT] for word in ("--set", setting)]
    result = CliRunner().invoke(app, ["train", "pangu", *settings])
    assert result.exit_code == 0, result.output
    assert "runs/pangu-tiny builds on runs/vae-tiny, which is trained first:" in result.stderr
    assert [str(one.out) for one in missing_first(plan)] == [], "both are finished now"


def test_the_data_policy_is_the_papers():
    stages = {
        name: ModelSettings(generator=name, high=1024, low=512).stage for name in ("structure", "texture", "whole")
    }
    assert (stages["structure"].size, stages["structure"].keep_from) == (1024, 0)
    assert (stages["texture"].size, stages["texture"].keep_from) == (512, 512)
    assert (stages["whole"].size, stages["whole"].keep_from) == (1024, 0)
    assert ModelSettings(generator="whole", drop_small=True).stage.keep_from == 64


def test_a_dry_run_estimates_what_would_be_trained_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        loop, "dry_run", lambda plan, note: Estimate([], 1, 2, 3, 4)
    )  # what it measures is tested elsewhere
    done = CliRunner().invoke(app, ["train", "pangu", "--control", "pose", "--dry-run", "--json"])
    assert done.exit_code == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["run"], shown["memory"]) == ("runs/vae-tiny", 10)
    assert [line.split(",")[0] for line in done.stderr.splitlines() if "builds on runs" in line] == [
        "runs/pangu-tiny-pose builds on runs/vae-tiny",
        "runs/pangu-tiny-pose builds on runs/pangu-tiny",
    ]
    later = [line.split()[0] for line in done.stderr.splitlines() if "can be estimated once" in line]
    assert later == ["runs/pangu-tiny", "runs/pangu-tiny-pose"]
    assert not Path("runs").exists()
