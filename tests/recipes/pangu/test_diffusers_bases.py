"""Generators that start from a Stable Diffusion folder's U-Net, and control branches that steer it."""

from dataclasses import replace

import pytest
import torch
from diffusion_runs import built_on
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.shards import LtError, open_shards
from lt.recipes.diffusion.settings import UNETS
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.training.loop import train


def test_a_generator_starts_from_a_stable_diffusion_folder(sd, tiny_sd):
    lines: list[str] = []
    outcome = train(built_on(sd, "tiny", f"train.init={sd}", "train.lr=1e-9"), lines.append)
    assert outcome.status == "done" and f"  starts from the weights of {sd}" in lines
    mine, theirs = restore(outcome.out).unet.state_dict(), tiny_sd.unet.state_dict()
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6, msg=name)
    assert any(not torch.equal(value, theirs[name]) for name, value in mine.items()), "and goes on learning"


def test_a_branch_steers_a_stable_diffusion_folder_and_draws(sd, tiny_sd):
    outcome = train(built_on(sd, "tiny-pose", f"model.base={sd}"), [].append)
    branch = restore(outcome.out)
    for name, value in branch.unet.state_dict().items():
        assert torch.equal(value, tiny_sd.unet.state_dict()[name]), name
    out = sd.parent / "drawn"
    command = ["sample", "pangu", "--controls", "pose", "--count", "2", "--steps", "2", "--checkpoint"]
    result = CliRunner().invoke(app, [*command, str(outcome.out), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert [sample.picture.shape for sample in open_shards(str(out))] == [(32, 32, 3)] * 2


def test_what_does_not_fit_is_said(sd):
    for wrong, message in {
        "model.prediction=v_prediction": "predicts epsilon, these settings train v_prediction",
        "model.unet=sd21": "32 wide, the U-Net reads 1024",
    }.items():
        with pytest.raises(LtError, match=message):
            train(built_on(sd, "tiny", f"train.init={sd}", wrong), [].append)
    with pytest.raises(LtError, match="learns over the whole time line"):
        train(built_on(sd, "tiny-pose", f"model.base={sd}", "model.generator=structure"), [].append)


@pytest.mark.parametrize(
    ("change", "differs"), [({"heads": (4, 4)}, "attention_head_dim"), ({"channels": (32, 40)}, "shapes")]
)
def test_another_unet_is_refused_also_where_its_weights_would_fit(sd, monkeypatch, change, differs):
    monkeypatch.setitem(UNETS, "sd15", replace(UNETS["sd15"], **change))
    settings = built_on(sd, "tiny").settings
    with pytest.raises(LtError, match=f"{differs} differ"):
        PanguObjective(settings).adopt(sd)  # pyright: ignore[reportArgumentType]
