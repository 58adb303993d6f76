"""Short runs of the diffusion systems, in this process and in the current folder."""

from pathlib import Path

from lt.recipes import registry
from lt.recipes.training.loop import Outcome, train
from lt.recipes.training.plan import RunPlan, make_plan

WORLD = ("world.figures=40", "world.scenes=16", "world.test=8", "data.workers=0", "log.tensorboard=false")
SHORT = ("train.steps=6", "train.batch=8", "train.warmup=2", "log.every=1", "log.validate_every=3", "log.save_every=3")
BRIEF = ("train.steps=3", "log.validate_every=3")
"""Of branches that several test files share: whoever comes first trains them."""


def run(system: str, preset: str, *overrides: str, out: Path | None = None) -> Outcome:
    """Six steps on a small world."""
    plan = make_plan(registry.find_recipe(system), preset, None, [*WORLD, *SHORT, *overrides], out)
    return train(plan, note=lambda _: None)


def built_on(sd: Path, preset: str, *overrides: str) -> RunPlan:
    """Three steps of pangu with what a small Stable Diffusion folder holds, beside the folder."""
    same = (f"model.autoencoder={sd}", f"model.text=[{sd}]", "model.text_length=32", "model.high=32")
    chosen = ("model.unet=sd15", "model.prediction=epsilon", "model.generator=whole", *overrides)
    settings = [*WORLD, *SHORT, "world.scenes=0", "train.steps=3", *same, *chosen]
    return make_plan(registry.find_recipe("pangu"), preset, None, settings, sd.parent / preset)
