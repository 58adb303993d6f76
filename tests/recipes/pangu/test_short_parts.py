"""Generators whose part of the time line is so short that no step of a validation's ladder falls into it."""

import pytest
import torch

from lt.recipes.pangu.objective import PanguObjective
from lt.recipes.registry import find_recipe
from lt.recipes.training.plan import make_plan


@pytest.mark.parametrize(
    ("generator", "t_struct"), [("structure", 952), ("structure", 999), ("texture", 1), ("texture", 60)]
)
def test_validation_draws_with_every_part(generator, t_struct):
    torch.manual_seed(0)
    wanted = [f"model.t_struct={t_struct}", f"model.generator={generator}", "model.autoencoder=lt:vae-tiny"]
    objective = PanguObjective(make_plan(find_recipe("pangu"), "tiny", None, wanted).settings)
    latents = torch.randn(2, objective.space.channels, 16, 16)
    pixels = objective.drawn(latents, objective.caption_condition(["a child", "a man"]), [1, 2])
    assert pixels.shape == (2, 3, 64, 64) and pixels.isfinite().all()
    again = objective.drawn(latents, objective.caption_condition(["a child", "a man"]), [1, 2])
    assert torch.equal(pixels, again)
