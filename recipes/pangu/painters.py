"""What draws: trained generators and branches of ours, or any diffusers pipeline, behind one small interface.

painter = load(find_runs(["runs/pangu-tiny", "runs/pangu-tiny-texture", "runs/pangu-tiny-pose"]))
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.autoencoder import LatentSpace
from lt.models.nn.control import HINT
from lt.models.nn.diffusion import Denoiser
from lt.models.nn.sampling import make_scheduler
from lt.models.pangu import TimeDecoupled
from lt.recipes.diffusion.quiet import without_bars
from lt.recipes.diffusion.unets import INDEX, is_pipeline
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.shipped import located as named
from lt.recipes.shipped import present
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

PAPER_GUIDANCE = 6.0
GUIDANCE = {"tiny": 3.0, "tiny-whole": 3.0}
"""Of U-Nets so small that the paper's washes limbs away (docs/benchmarks.md)."""
Conditions = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Located:
    """A painter by where it lies: checkpoints of `lt train pangu`, or one diffusers folder (`kind`); and what it is.

    `controls` names a diffusers folder's ControlNets, in their order.
    """

    kind: str
    folders: tuple[str, ...]
    digest: str
    controls: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Painter:
    """A denoiser with its latent space, its scheduler, and what turns prompts into conditions.

    Attributes:
        side: of the square in pixels that it draws when nothing is said.
        guidance: how closely it follows prompts when nothing is said.
        channels: of its latents.
        controls: names of its branches.
        unread: how many tokens of a prompt it leaves unread, because its text encoder has no places for them.
        conditions: (prompts, (width, height), hints [b, 3, height, width] in 0..1 by branch) to the condition and its empty
            counterpart.
    """

    name: str
    model: Denoiser
    space: LatentSpace
    scheduler: Any
    side: int
    guidance: float
    channels: int
    controls: tuple[str, ...]
    unread: Callable[[str], int]
    conditions: Callable[[Sequence[str], tuple[int, int], Mapping[str, Tensor]], Conditions]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of a picture's latent."""
        return self.channels, height // self.space.factor, width // self.space.factor


def find(where: str, asked: Sequence[str] = ()) -> Located:
    """A painter by its name: a diffusers folder, with its ControlNets' names after a colon (`DIR:pose,edge`), or our runs joined
    by `+`.

    Args:
        asked: names for the ControlNets where the name gives none.
    """
    folder, _, names = where.partition(":")
    if is_pipeline(Path(folder)):
        return find_pipeline(folder, names.split(",") if names else asked)
    return find_runs(where.split("+"))


def find_pipeline(where: str, controls: Sequence[str] = ()) -> Located:
    """A diffusers pipeline's folder; `controls` names its ControlNets where it has any. Raises LtError if it is none."""
    folder = Path(where)
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LtError(f"{where} is no diffusers pipeline: no {INDEX} can be read there.") from None
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    named = [[str(path.relative_to(folder)), digest_of_file(path)] for path in files]
    names = tuple(controls) if "controlnet" in index else ()
    return Located("diffusers", (str(folder.absolute()),), digest_of(named), names)


def find_runs(where: Sequence[str]) -> Located:
    """Runs or checkpoints of `lt train pangu` that draw together. Raises LtError if one is missing or of another system."""
    folders, digests = [], []
    for run in where:
        folder = named(run)
        if not folder.is_dir():
            raise LtError(f"{run} is not there.", _how_to_train(folder.name))
        checkpoint = checkpoints.chosen(folder)
        record = Record.load(checkpoint)
        if record.system != "pangu":
            raise LtError(f"{run} is a checkpoint of {record.system}, not of pangu.", "Name a run of `lt train pangu`.")
        folders.append(str(checkpoint.absolute()))
        digests.append({name: sha for name, sha in record.files.items() if name != "optimizer.safetensors"})
    return Located("runs", tuple(folders), digest_of(digests))


def _how_to_train(name: str) -> str:
    if name == "pangu-tiny":
        return "Train it first: lt train pangu"
    if name.startswith("pangu-tiny-"):
        return f"Train it first: lt train pangu --preset {name.removeprefix('pangu-')}"
    return "Name a run of `lt train pangu`, or a diffusers folder."


@lru_cache(maxsize=8)
def load(located: Located) -> Painter:
    """The painter, on the accelerator where there is one.

    Raises:
        LtError: the files changed since they were found; a generator is missing or there twice; generators or branches that
            do not belong together; a pipeline of an unknown kind.
    """
    if located.kind == "diffusers":
        again = find_pipeline(located.folders[0], located.controls)
        painter = _from_pipeline
    else:
        again, painter = find_runs(located.folders), _from_runs
    if again.digest != located.digest:
        raise LtError(f"{', '.join(located.folders)} changed while it was in use.", "Start again.")
    return painter(located)


def _from_runs(located: Located) -> Painter:
    restored = [restore(Path(folder)) for folder in located.folders]
    generators = _generators([one for one in restored if one.branch is None] or restored[:1])
    # the one that learned whole pictures knows their sizes
    some = max(generators, key=lambda one: one.denoiser.timesteps.stop)
    if len({(one.located.digest, one.texts) for one in restored}) > 1:
        raise LtError(
            "The checkpoints were trained with different autoencoders or text encoders: they cannot draw together."
        )
    branches = [one for one in restored if one.branch is not None]
    kinds = {one.settings.model.generator for one in generators}
    for branch in branches:
        if branch.settings.model.generator not in kinds:
            raise LtError(
                f"The {_title(branch)} generator has nothing to steer among: {', '.join(sorted(kinds))}.",
                f"Name the {branch.settings.model.generator} generator that it was trained for.",
            )
    models = [_with_branches(one, branches) for one in generators]
    controls = tuple(sorted({one.settings.model.control for one in branches}))
    model = (TimeDecoupled(*models) if len(models) > 1 else models[0]).to(_device()).eval()
    some.space.to(_device())

    def conditions(prompts: Sequence[str], size: tuple[int, int], hints: Mapping[str, Tensor]) -> Conditions:
        given = {HINT + name: hint.to(_device()) for name, hint in hints.items()}
        given |= some.size_condition(*size, len(prompts))
        return (
            some.caption_condition(list(prompts)) | given,
            some.caption_condition([""] * len(prompts)) | given,
        )

    return Painter(
        name=_named(located, restored),
        model=model,
        space=some.space,
        scheduler=make_scheduler("euler", model.schedule, model.prediction_type),
        side=some.settings.model.high,
        guidance=GUIDANCE.get(some.settings.model.unet, PAPER_GUIDANCE),
        channels=some.space.channels,
        controls=controls,
        unread=some.unread,
        conditions=conditions,
    )


def _generators(found: list[PanguObjective]) -> list[PanguObjective]:
    """`whole` alone, or structure and texture."""
    kinds = sorted(one.settings.model.generator for one in found)
    if kinds in (["whole"], ["structure", "texture"]):
        return found
    missing = {"structure": "lt train pangu", "texture": "lt train pangu --preset tiny-texture"}
    absent = [kind for kind in missing if kind not in kinds]
    if len(kinds) == 1 and absent:
        raise LtError(
            f"The {kinds[0]} generator cannot draw alone: it knows only its part of the time line.",
            f"Name a {absent[0]} generator as well (--checkpoint may be repeated). Train one: {missing[absent[0]]}",
        )
    raise LtError(
        f"Generators that do not fit together: {', '.join(kinds)}.", "Want one structure and one texture, or one whole."
    )


def _with_branches(generator: PanguObjective, branches: Sequence[PanguObjective]) -> Denoiser:
    """The generator's denoiser with the branches that were trained for it."""
    kind = generator.settings.model.generator
    own = {}
    for branch in branches:
        if branch.settings.model.generator != kind:
            continue
        if not _same_weights(branch, generator):
            raise LtError(
                f"The {branch.settings.model.control} branch was trained for another {kind} generator than this one.",
                "Train the branch again, or name the generator it was trained for.",
            )
        own[branch.settings.model.control] = branch.branch
    mine = generator.denoiser
    return Denoiser(
        generator.network(own), mine.schedule, prediction_type=mine.prediction_type, timesteps=mine.timesteps
    )


def _same_weights(one: PanguObjective, other: PanguObjective) -> bool:
    theirs = other.unet.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.unet.state_dict().items() if name in theirs)


def _named(located: Located, restored: Sequence[PanguObjective]) -> str:
    titles = ", ".join(_title(one) for one in restored)
    shipped = {str(folder) for folder in present().values()}
    return f"the miniature that comes with lt ({titles})" if set(located.folders) <= shipped else titles


def _title(one: PanguObjective) -> str:
    model = one.settings.model
    return f"{model.control} branch of {model.generator}" if model.control else model.generator


def _from_pipeline(located: Located) -> Painter:
    from diffusers import DiffusionPipeline

    from lt.models.nn.pipelines import denoiser_from, prompt_conditions, space_from

    without_bars()
    folder = located.folders[0]
    pipe: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True)
    pipe.to(_device())
    try:
        model = denoiser_from(pipe, located.controls)
    except ValueError as error:
        raise LtError(f"Cannot draw with {folder}: {error}.") from None
    network = getattr(pipe, "unet", None) or pipe.transformer
    space = space_from(pipe)

    def conditions(prompts: Sequence[str], size: tuple[int, int], hints: Mapping[str, Tensor]) -> Conditions:
        return prompt_conditions(pipe, prompts, size, hints=hints)

    return Painter(
        name=f"{type(pipe).__name__} in {folder}",
        model=model.eval(),
        space=space,
        scheduler=pipe.scheduler,
        side=network.config.sample_size * space.factor,
        guidance=PAPER_GUIDANCE,
        channels=space.channels,
        controls=located.controls,
        unread=lambda prompt: 0,  # diffusers says itself what its tokenizer cuts off
        conditions=conditions,
    )


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
