"""The systems. A new one is a folder in `recipes/`, a file in `models/` and one line here."""

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lt.datagen.shards.errors import UsageError
from lt.recipes.config import Card, Settings, nearest, read_card
from lt.recipes.system import Note, System, Verb, imported

if TYPE_CHECKING:
    from lt.recipes.training.objective import Objective
    from lt.recipes.training.rounds import Rounds

SYSTEMS: dict[str, str] = {
    "filip": "lt.recipes.filip",
    "wukong": "lt.recipes.wukong",
    "vae": "lt.recipes.vae",
    "pangu": "lt.recipes.pangu",
    "judge": "lt.recipes.judge",
    "worlds": "lt.recipes.world_verbs",
}
"""Name to the module that holds its `SYSTEM`."""


def system_of(name: str) -> System:
    """What the command line knows of a system."""
    return importlib.import_module(SYSTEMS[name]).SYSTEM


def systems_with(part: str) -> dict[str, System]:
    """The systems that have a `recipe`, a `study`, `sample` ..., by name."""
    return {name: system for name in SYSTEMS if getattr(system := system_of(name), part)}


def verbs(verb: str) -> dict[str, Verb]:
    """What systems do under `sample`, `edit`, `eval` or `datagen`, by the name that follows on the command line."""
    found: dict[str, Verb] = {}
    for name, system in systems_with(verb).items():
        own = getattr(system, verb)
        found |= {name: own} if isinstance(own, Verb) else own
    return found


@dataclass(frozen=True)
class UsualRun:
    """What `lt train SYSTEM --preset PRESET` makes, in the folder `out` where it does."""

    system: str
    preset: str

    @property
    def out(self) -> Path:
        return Path("runs") / f"{self.system}-{self.preset}"

    @property
    def card(self) -> Card:
        return read_card(find_recipe(self.system).folder / f"{self.preset}.yaml")


def run_named(where: str | Path) -> UsualRun | None:
    """The run that has this folder when nothing else is said; None where no card of any system makes it."""
    runs = [UsualRun(system, Path(where).name.removeprefix(f"{system}-")) for system in systems_with("recipe")]
    return next((run for run in runs if run.out == Path(where) and run.preset in find_recipe(run.system).presets), None)


@dataclass(frozen=True)
class Recipe:
    """Everything the loop needs to know of a system. Its cards lie in `folder`: `tiny.yaml`, `paper.yaml` ..."""

    name: str
    settings: type[Settings]
    objective: Callable[[Any], "Objective"]
    """Settings to a fresh objective. Random weights come from torch's generator, which the loop seeds."""
    world: Callable[[Any, Note], tuple[list[str], str]]
    """Make (or find) the built-in data when the user names none: folders of training shards, folder of validation shards."""
    folder: Path
    prepare: Callable[..., tuple[list[str], str]] = lambda settings, train, validation, note: (train, validation)
    """Turn the training shards, and the validation shards ("" for none), the user's or the world's, into those that the loop
    reads: caches of what frozen encoders say of them. Called with settings, both, and who takes notes."""
    completes: Callable[[Any], Sequence[str]] = lambda settings: ()
    """Presets whose runs make the system whole once this one is trained, in the order to train them."""
    inherited: Callable[[Any], Mapping[str, Any]] = lambda settings: {}
    """What must be as in the model that these settings build on, by dotted key; it goes over the card, and `--set` over it."""
    outline: Callable[[Any], "Objective | None"] = lambda settings: None
    """What `--dry-run` counts where pretrained weights that the settings name are not there: the trained modules by their shapes
    alone, on the meta device. None where all is there, and the run itself can be measured."""
    least_batch: int = 1
    """Samples that a step needs for its loss to teach anything: two where samples are contrasted with each other."""
    must_validate: bool = False
    """Validation measures what its models cannot be used without."""
    rounds: "Rounds | None" = None
    """Where a run consists of rounds that make shards and train on them, see `training/rounds.py`."""

    @property
    def presets(self) -> list[str]:
        """Names of the shipped cards; `tiny` comes first."""
        return sorted((path.stem for path in self.folder.glob("*.yaml")), key=lambda name: (name != "tiny", name))


def find_recipe(name: str) -> Recipe:
    """The recipe of a system. Raises UsageError naming the nearest name."""
    known = systems_with("recipe")
    if name not in known:
        raise unknown(name, "train", known)
    return imported(known[name].recipe)


def unknown(name: str, verb: str, known: Iterable[str]) -> UsageError:
    """What to raise where a name follows a verb that does not know it."""
    return UsageError(f"No system {name!r} to {verb}." if name else "Which system?", nearest(name, known))
