"""PanGu-Draw's painters: trained generators with their control branches, or any diffusers pipeline in their place.

painter = open_painter(locate_runs(["runs/pangu-tiny", "runs/pangu-tiny-texture", "runs/pangu-tiny-pose"]))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of
from lt.models.nn.control import HINT
from lt.models.nn.device import device, dtype_for
from lt.models.nn.diffusion import Denoiser
from lt.models.nn.sampling import make_scheduler
from lt.models.pangu import TimeDecoupled
from lt.recipes.diffusion.unets import INDEX, is_pipeline
from lt.recipes.draw.painters import GUIDANCE, Conditions, Painter, PainterFiles, knows_all, locate_pipeline
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.pictures import Size
from lt.recipes.registry import run_named
from lt.recipes.shipped import located, present
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import RECORD, Record
from lt.recipes.words import unknown_words

_TINY_GUIDANCE = {"tiny": 3.0, "tiny-whole": 3.0}
"""Of U-Nets so small that the paper's washes limbs away (docs/benchmarks.md)."""


@dataclass(frozen=True)
class RunFiles(PainterFiles):
    """Checkpoints of `lt train pangu` that draw together: generators and their branches."""

    def again(self) -> "RunFiles":
        return locate_runs(self.folders)

    def open(self) -> Painter:
        restored = [restore(Path(folder)) for folder in self.folders]
        generators = _generators([one for one in restored if one.branch is None] or restored[:1])
        branches = [one for one in restored if one.branch is not None]
        _check_fit(restored, generators, branches)
        # the one that learned whole pictures knows their sizes
        some = max(generators, key=lambda one: one.denoiser.timesteps.stop)
        models = [_with_branches(one, branches) for one in generators]
        where = device()
        dtype = dtype_for(where)
        model = (TimeDecoupled(*models) if len(models) > 1 else models[0]).to(where, dtype).eval()
        some.space.to(where)  # in full precision: other runs share it

        def conditions(prompts: Sequence[str], size: Size, hints: Mapping[str, Tensor]) -> Conditions:
            given = {HINT + name: hint for name, hint in hints.items()} | some.size_condition(*size, len(prompts))
            texts = some.caption_condition(list(prompts)), some.caption_condition([""] * len(prompts))
            full, empty = (
                {
                    name: value.to(where, dtype if value.is_floating_point() else None)
                    for name, value in (text | given).items()
                }
                for text in texts
            )
            return full, empty

        return Painter(
            name=_named(self, restored),
            model=model,
            space=some.space,
            scheduler=make_scheduler("euler", model.schedule, model.prediction_type),
            side=some.settings.model.high,
            guidance=_TINY_GUIDANCE.get(some.settings.model.unet, GUIDANCE),
            channels=some.space.channels,
            autoencoder=some.located.digest,
            controls=tuple(sorted({one.settings.model.control for one in branches})),
            unknown=partial(unknown_words, some.tokenizer.words) if some.encoder is not None else knows_all,
            unread=some.unread,
            conditions=conditions,
        )


def locate_painter(where: str, asked: Sequence[str] = ()) -> PainterFiles:
    """A painter by its name: a diffusers pipeline, see `locate_pipeline`, or our runs joined by `+`.

    Raises:
        LtError: there is neither.
    """
    folder = where.partition(":")[0]
    if is_pipeline(folder):
        return locate_pipeline(where, asked)
    if Path(folder).is_dir() and not (checkpoints.chosen(Path(folder)) / RECORD).is_file():
        raise LtError(
            f"{folder} is neither a diffusers pipeline (it has no {INDEX}) nor a run of `lt train` (it has no {RECORD}).",
            "Name the folder that holds one of these files, or a model on the hub.",
        )
    return locate_runs(where.split("+"))


def locate_runs(where: Sequence[str]) -> RunFiles:
    """Runs or checkpoints of `lt train pangu` that draw together. Raises LtError if one is missing or of another system."""
    folders, digests = [], []
    for run in where:
        folder = located(run)
        if not folder.is_dir():
            hint = "Name a run of `lt train pangu`, or a diffusers folder."
            if need := run_named(f"runs/{folder.name}"):
                hint = f"Train it first: {need.card.header['command']}"
            raise LtError(f"{run} is not there.", hint)
        checkpoint = checkpoints.chosen(folder)
        if not (checkpoint / RECORD).is_file():
            raise LtError(
                f"{run} is neither a run with a checkpoint nor a diffusers folder: no {RECORD}, no {INDEX}.",
                "Name a run of `lt train pangu` that has saved one, or a folder that diffusers wrote.",
            )
        record = Record.load(checkpoint)
        if record.system != "pangu":
            raise LtError(f"{run} is a checkpoint of {record.system}, not of pangu.", "Name a run of `lt train pangu`.")
        folders.append(str(checkpoint.absolute()))
        digests.append({name: sha for name, sha in record.files.items() if name != "optimizer.safetensors"})
    return RunFiles(tuple(folders), digest_of(digests))


def _check_fit(
    restored: Sequence[PanguObjective], generators: Sequence[PanguObjective], branches: Sequence[PanguObjective]
) -> None:
    words = [() if one.encoder is None else one.tokenizer.words for one in restored]
    if len({(one.located.digest, one.texts, its) for one, its in zip(restored, words, strict=True)}) > 1:
        raise LtError(
            "The checkpoints were trained with different autoencoders, text encoders or words: they cannot draw together."
        )
    kinds = {one.settings.model.generator for one in generators}
    for branch in branches:
        if branch.settings.model.generator not in kinds:
            raise LtError(
                f"The {_title(branch)} generator has nothing to steer among: {', '.join(sorted(kinds))}.",
                f"Name the {branch.settings.model.generator} generator that it was trained for.",
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


def _named(files: RunFiles, restored: Sequence[PanguObjective]) -> str:
    titles = ", ".join(_title(one) for one in restored)
    shipped = {str(folder) for folder in present().values()}
    return f"the miniature that comes with lt ({titles})" if set(files.folders) <= shipped else titles


def _title(one: PanguObjective) -> str:
    model = one.settings.model
    if one.settings.lora.rank:
        return f"{model.generator} with an adapter"
    return f"{model.control} branch of {model.generator}" if model.control else model.generator
