"""Adapters: small, beside a model that stays as it is, drawn with, and opened by diffusers."""

import shutil
from pathlib import Path

import diffusion_runs
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusion_runs import SHORT, WORLD, built_on
from safetensors.torch import load_file
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.shards import LtError, UsageError, open_shards
from lt.recipes import registry
from lt.recipes.config import flat
from lt.recipes.draw.painters import open_painter
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.pangu.painters import locate_runs
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.loop import train
from lt.recipes.training.plan import make_plan

RANK = 2


def plan(sd: Path, *overrides: str):
    return built_on(sd, "tiny", f"lora.rank={RANK}", f"lora.base={sd}", "log.save_every=2", *overrides)


def output(unet, width: int = 32, channels: int = 4) -> torch.Tensor:
    """What a U-Net says to fixed numbers."""
    torch.manual_seed(0)
    z, text = torch.randn(2, channels, 16, 16), torch.randn(2, 5, width)
    with torch.no_grad():
        return unet(z, torch.tensor([10, 900]), encoder_hidden_states=text, return_dict=False)[0]


def test_an_adapter_starts_as_its_base_and_is_all_that_learns(sd, tiny_sd):
    fresh = PanguObjective(plan(sd).settings)  # pyright: ignore[reportArgumentType]
    assert torch.equal(output(fresh.unet), output(tiny_sd.unet)), "an untrained adapter changes nothing"
    assert train(plan(sd), [].append).status == "done"
    newest = sd.parent / "tiny" / "checkpoints" / "step-00000003"
    stored = load_file(newest / "model.safetensors")
    assert {name.split(".")[0] for name in stored} == {"lora"} and len(stored) == 2 * 4 * 2 * 4, (
        "q k v out, twice a block"
    )
    assert all(min(tensor.shape) == RANK for tensor in stored.values())
    assert all(tensor.abs().sum() > 0 for tensor in stored.values()), "all have learned"
    trained = restore(sd.parent / "tiny")
    theirs = tiny_sd.unet.state_dict()
    kept = {name.replace(".base_layer", ""): value for name, value in trained.unet.state_dict().items()}
    assert {name for name in kept if "lora" not in name} == theirs.keys()
    assert all(torch.equal(kept[name], theirs[name]) for name in theirs), "the base is as it was"
    assert not torch.allclose(output(trained.unet), output(tiny_sd.unet), atol=1e-4)
    same = Record.load(newest).files
    newest.rename(sd.parent / "gone")
    notes: list[str] = []
    assert train(plan(sd), notes.append).status == "done" and any("continues from" in note for note in notes)
    assert Record.load(newest).files == same, "a run goes on as if it had never stopped"


def test_an_exported_adapter_is_opened_by_diffusers_and_draws_here(sd, tiny_sd, tmp_path):
    out = train(plan(sd, f"lora.alpha={2 * RANK}"), [].append).out
    checkpoints.export(out, tmp_path / "lora")
    assert [path.name for path in (tmp_path / "lora").iterdir()] == ["pytorch_lora_weights.safetensors"]
    ours = output(restore(out).unet)
    tiny_sd.load_lora_weights(tmp_path / "lora")
    torch.testing.assert_close(output(tiny_sd.unet), ours, rtol=0, atol=1e-5)
    command = ["sample", "pangu", "--prompt", "a cat", "--count", "2", "--steps", "2", "--checkpoint", str(out)]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "drawn")])
    assert result.exit_code == 0, result.output
    assert [sample.picture.shape for sample in open_shards(tmp_path / "drawn")] == [(32, 32, 3)] * 2
    unet = UNet2DConditionModel.from_pretrained(sd / "unet")
    unet.conv_in.weight.data[0] += 1
    unet.save_pretrained(sd / "unet")
    with pytest.raises(LtError, match=r"was trained with another lora\.base than is there now"):
        restore(out)


def test_an_adapter_of_a_run_draws_with_the_other_generator(here):
    own = ("lora.rank=2", "lora.base=runs/pangu-tiny", "train.steps=2", "log.validate_every=2")
    out = diffusion_runs.run("pangu", "tiny", *own, out=here / "runs" / "adapter").out
    adapter, base = restore(out), restore(Path("runs/pangu-tiny"))
    assert Record.load(checkpoints.chosen(out)).built_on["lora.base"] == checkpoints.digest_of_weights(
        Record.load(checkpoints.chosen(Path("runs/pangu-tiny")))
    )
    theirs = base.unet.state_dict()
    kept = {name.replace(".base_layer", ""): value for name, value in adapter.unet.state_dict().items()}
    assert all(torch.equal(kept[name], theirs[name]) for name in theirs)
    painters = [open_painter(locate_runs([one, "runs/pangu-tiny-texture"])) for one in (str(out), "runs/pangu-tiny")]
    z, condition = torch.ones(1, 8, 16, 16), painters[0].conditions(["a person"], (64, 64), {})[0]
    with torch.no_grad():
        noisy, clean = ([one.model(z, torch.tensor(t), condition) for one in painters] for t in (900, 100))
    assert not torch.equal(*noisy) and torch.equal(*clean), "the texture generator has no adapter"


def test_what_must_be_as_in_the_base_is_taken_from_it(here, sd):
    def chosen(preset: str, *overrides: str):
        return make_plan(registry.find_recipe("pangu"), preset, None, overrides).resolved

    def taken(resolved) -> dict:
        return {key: flat(resolved.settings)[key] for key, who in resolved.origin.items() if who == "base"}

    ours = chosen("tiny", "lora.rank=2", "lora.base=lt:pangu-tiny", "model.low=48")
    assert taken(ours)["model.t_struct"] == 300 and taken(ours)["model.autoencoder"] == "lt:vae-tiny"
    assert (ours.settings.model.low, ours.origin["model.low"]) == (48, "--set")
    branch = taken(chosen("tiny-pose", "model.base=runs/pangu-tiny-texture"))
    assert branch["model.generator"] == "texture" and "model.windows" not in branch
    unknown = taken(chosen("tiny", "lora.rank=2", "lora.base=runs/pangu-long-texture"))
    assert (unknown["model.generator"], unknown["model.t_struct"]) == ("texture", 300), "as its card says"
    assert taken(chosen("tiny", "lora.rank=2", "lora.base=nowhere")) == {}
    pipeline = {"autoencoder": str(sd), "text": [str(sd)], "unet": "sd15", "prediction": "epsilon"}
    own = {f"model.{name}": value for name, value in {**pipeline, "generator": "whole"}.items()}
    assert taken(chosen("tiny", "lora.rank=2", f"lora.base={sd}")) == own


def test_rank_and_base_are_enough_and_the_base_may_move(here, tmp_path):
    out = here / "runs" / "an adapter"
    base = tmp_path / "a base"
    shutil.copytree("runs/pangu-tiny-texture", base)

    def go_on() -> list[str]:
        notes: list[str] = []
        own = [*WORLD, *SHORT, "train.steps=2", "log.save_every=1", "lora.rank=2", f"lora.base={base}"]
        assert train(make_plan(registry.find_recipe("pangu"), "tiny", None, own, out), notes.append).status == "done"
        return notes

    go_on()
    shutil.rmtree(out / "checkpoints" / "step-00000002")
    base = base.rename(tmp_path / "elsewhere")
    assert any("continues from" in note for note in go_on())
    assert restore(out).settings.model.generator == "texture"


def test_what_does_not_fit_is_named(sd, here):
    with pytest.raises(UsageError, match="rank and base go together"):
        plan(sd, "lora.base=''")
    with pytest.raises(UsageError, match="a control branch has no adapter"):
        plan(sd, "model.control=pose", f"model.base={sd}")
    for wrong, message in {
        "lora.targets=[to_z]": "The U-Net has no layers for an adapter",
        "model.generator=structure": "learns over the whole time line",
        "model.autoencoder=runs/vae-tiny": "needs its autoencoder and its text encoder",
        f"train.init={sd}": "lora.base=.* puts it beside that model",
    }.items():
        with pytest.raises(LtError, match=message):
            train(plan(sd, wrong), [].append)
    run = ("lora.rank=2", "model.t_struct=400")
    with pytest.raises(LtError, match="no texture generator at 48 pixels"):
        diffusion_runs.run("pangu", "tiny", *run, "lora.base=runs/pangu-tiny-texture", out=here / "runs" / "wrong")
    with pytest.raises(LtError, match="predicts v_prediction, these settings train epsilon"):
        diffusion_runs.run(
            "pangu", "tiny", *run, "lora.base=runs/pangu-tiny", "model.prediction=epsilon", out=here / "runs" / "wrong"
        )


def test_a_base_that_moved_with_its_branch_is_found_by_its_digest(here, tmp_path, monkeypatch):
    names = ("vae-tiny", "pangu-tiny", "pangu-tiny-pose")
    for name in names:
        shutil.copytree(f"runs/{name}", tmp_path / "elsewhere" / name)
    monkeypatch.chdir(tmp_path)
    branch = restore(Path("elsewhere/pangu-tiny-pose"))
    assert Path(branch.settings.model.base) == tmp_path / "elsewhere" / "pangu-tiny"
    shutil.rmtree("elsewhere/pangu-tiny")
    with pytest.raises(LtError, match="There is no run in runs/pangu-tiny"):
        restore(Path("elsewhere/pangu-tiny-pose"))
