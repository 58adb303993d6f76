"""What a run will do, decided before anything heavy happens: preset, settings, data, folder; and why each was chosen."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lt.datagen.shards.errors import LtError, UsageError
from lt.recipes.config import Resolved, Settings, fields_of, flat, nearest, read_card, resolve
from lt.recipes.registry import Recipe, UsualRun, find_recipe, run_named
from lt.recipes.system import Note
from lt.recipes.training import checkpoints
from lt.recipes.training.shards import ShardSet

_SHARED = ("data.", "world.", "log.")
"""Settings that are handed on to the runs that belong to a run."""


@dataclass(frozen=True)
class RunPlan:
    """One run of one system. `why` says how the preset came to be chosen."""

    recipe: Recipe
    preset: str
    why: str
    resolved: Resolved[Settings]
    out: Path

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    @property
    def card_text(self) -> str:
        return self.resolved.card.text if self.resolved.card else ""


@dataclass(frozen=True)
class Data:
    """The shards of a run, and where they lie; `validation` is None where there is nothing to validate on."""

    train: ShardSet
    validation: ShardSet | None
    where: str


def make_plan(
    recipe: Recipe,
    preset: str | None = None,
    card: Path | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
) -> RunPlan:
    """Choose preset and settings. Without a word from the user: `tiny`; `paper` where there are an accelerator and own data.

    Raises:
        UsageError: an unknown preset or setting, a value that does not fit, a batch too small for the loss.
        LtError: the card, or the record of the model that the settings build on, cannot be read.
    """
    if card is not None:
        if preset is not None:
            raise UsageError("Give either --preset or --card.", "A card is a preset of your own.")
        chosen, why = read_card(card), f"the card {card}"
    else:
        names_data = any(text.startswith("data.train=") for text in overrides)
        name, why = (preset, "as asked") if preset else _default_preset(recipe, names_data)
        if name not in recipe.presets:
            raise UsageError(f"{recipe.name} has no preset {name!r}.", nearest(name, recipe.presets))
        chosen = read_card(recipe.folder / f"{name}.yaml")
    resolved = resolve(recipe.settings, chosen, overrides)
    if base := recipe.inherited(resolved.settings):
        resolved = resolve(recipe.settings, chosen, overrides, base)
    if (batch := resolved.settings.train.batch) < recipe.least_batch:
        raise UsageError(
            f"A batch of {batch} teaches {recipe.name} nothing: its loss contrasts the samples of a batch with each other.",
            f"--set train.batch={recipe.least_batch} is the least, hundreds are usual.",
        )
    return RunPlan(recipe, chosen.name, why, resolved, out or UsualRun(recipe.name, chosen.name).out)


def _default_preset(recipe: Recipe, names_data: bool) -> tuple[str, str]:
    if not torch.accelerator.is_available():
        return "tiny", "no GPU here"
    if names_data and "paper" in recipe.presets:
        return "paper", "a GPU and your data"
    return "tiny", "no data named"


def missing_first(plan: RunPlan) -> list[RunPlan]:
    """The runs that this one builds on and that are not finished, in the order to train them, on the same data.

    Raises:
        LtError: one of them, or this one, could not be used once it is trained.
    """
    check_usable(plan)
    found: dict[Path, RunPlan] = {}
    for first in needs_of(plan):
        if not is_finished(first):
            found |= {one.out: one for one in [*missing_first(first), first]}
    return list(found.values())


def needs_of(plan: RunPlan) -> list[RunPlan]:
    """The runs that the settings name as an autoencoder, the generator of a branch, what to start from ..., on the same data."""
    named = [value for value in flat(plan.settings).values() if isinstance(value, str)]
    needs = [need for need in map(run_named, named) if need and need.out != plan.out]
    return [_along_with(plan, need) for need in needs]


def completing(plan: RunPlan) -> list[RunPlan]:
    """The runs that make a system whole (the other generator, control branches), in the order to train them, on the same data.

    None where the user chose more than data and log: who changes this run's training or folder wants this run.
    """
    chosen = [key for key in _named(plan) if not key.startswith(_SHARED)]
    own = plan.recipe.name
    if chosen or plan.out != UsualRun(own, "tiny").out:
        return []
    return [_along_with(plan, UsualRun(own, preset)) for preset in plan.recipe.completes(plan.settings)]


def _named(plan: RunPlan) -> list[str]:
    return [key for key, who in plan.resolved.origin.items() if who == "--set"]


def _along_with(plan: RunPlan, run: UsualRun) -> RunPlan:
    """A run that belongs to another one, with what was said there of data and log, as far as it has such settings."""
    recipe, values = find_recipe(run.system), flat(plan.settings)
    keys = [key for key in _named(plan) if key.startswith(_SHARED) and key in fields_of(recipe.settings)]
    return make_plan(recipe, run.preset, None, [f"{key}={json.dumps(values[key])}" for key in keys])


def check_usable(plan: RunPlan) -> None:
    """Raises LtError where what is trained needs validation data, and there are none beside the user's own."""
    data = plan.settings.data
    if plan.recipe.must_validate and data.train and not data.validation:
        raise LtError(
            f"{plan.out} would be of no use: {plan.recipe.name} measures what its users need in validation, "
            f"and there are no validation data beside {', '.join(data.train)}.",
            "Name some: --set data.validation=DIR.",
        )


def is_finished(plan: RunPlan) -> bool:
    """Whether a run has made all its steps, and all its rounds where it has any."""
    if plan.recipe.rounds:
        return plan.recipe.rounds.are_done(plan.out, plan.settings)
    newest = checkpoints.latest(plan.out / "checkpoints")
    if newest is None:
        return False
    record = checkpoints.Record.load(newest)
    return record.step >= record.settings["train.steps"]


def open_data(plan: RunPlan, note: Note) -> Data:
    """Open the shards that the settings name, or make the system's built-in world."""
    named, validation = plan.settings.data.train, plan.settings.data.validation
    if not named:
        named, built_in = plan.recipe.world(plan.settings, note)
        validation = validation or built_in
    where = ", ".join(named)
    named, validation = plan.recipe.prepare(plan.settings, named, validation, note)
    cache = plan.settings.data.cache_gb
    train = ShardSet(named, cache)
    return Data(train, ShardSet([validation], cache) if validation else None, where)


def with_length(plan: RunPlan, samples: int) -> RunPlan:
    """The plan with `epochs` turned into steps."""
    train = plan.settings.train
    if not train.epochs:
        return plan
    steps = math.ceil(train.epochs * samples / train.batch)
    settings = plan.settings.model_copy(update={"train": train.model_copy(update={"steps": steps})})
    return replace(plan, resolved=replace(plan.resolved, settings=settings))


def check_enough(batch: int, samples: int) -> None:
    """Raises LtError if one batch would hold a sample twice."""
    if samples < batch:
        raise LtError(
            f"{samples:,} samples are fewer than one batch of {batch:,}.",
            f"Name more data, or smaller batches: --set train.batch={2 ** int(math.log2(max(1, samples)))}.",
        )
