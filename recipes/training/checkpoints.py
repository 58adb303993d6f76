"""Checkpoints: safetensors and json in a folder that is either whole or not there. Nothing is ever pickled.

runs/filip-tiny/checkpoints/
  step-00000400/
    checkpoint.json          system, settings, card, digest of the data, versions, metrics, sha256 of every file
    model.safetensors        the objective's modules
    ema.safetensors          their moving average, where one is kept
    optimizer.safetensors    the optimizer's state, `<parameter>/<entry>`
    words.txt                the list of words that texts are numbered by, where there is one

No random state is stored because there is none: every step seeds its generators from (seed, step, rank).
"""

import importlib.metadata
import os
import platform
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import TEMP_MARK, digest_of, digest_of_file, write_error, write_json
from lt.recipes.config import Card, Settings, differences, first_fault, flat, resolve
from lt.recipes.shipped import SCHEME, located
from lt.recipes.training.objective import Objective
from lt.recipes.training.parallel import like, whole

Some = TypeVar("Some", bound=Settings)
SCHEMA = 2
RECORD, WORDS = "checkpoint.json", "words.txt"
_NAME = re.compile(r"step-(\d{8,})")
_PACKAGES = ("lt-toolkit", "torch", "accelerate", "safetensors", "numpy", "transformers", "diffusers")


class Record(BaseModel):
    """`checkpoint.json`: what the weights are, how they came to be, and where the run goes on."""

    model_config = ConfigDict(extra="forbid")
    schema_version: int = SCHEMA
    system: str
    preset: str
    step: int
    """Optimizer steps done. Samples consumed: step * train.batch."""
    settings: dict[str, Any]
    """Every setting by dotted key."""
    card: str = ""
    """The card's text as it was."""
    data: str
    """Digest of the training shards."""
    built_on: dict[str, str] = Field(default_factory=dict)
    """Digests of the frozen models that it needs and does not hold, by the setting that names their place."""
    samples: int
    """Training samples in one epoch."""
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    """The last validation's metrics."""
    score: float | None = None
    """The validation's score at this very step; the highest one is the best checkpoint."""
    losses: dict[str, list[float]] = Field(default_factory=dict)
    """The last steps' losses by player ("" for a sole one): what the spike guard compares with."""
    bad: int = 0
    """Bad training samples met so far."""
    files: dict[str, str] = Field(default_factory=dict)
    """sha256 of every other file of the folder."""

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """Read a checkpoint's record. Raises LtError if the folder is no checkpoint, or another lt wrote it."""
        try:
            content = from_json((checkpoint / RECORD).read_bytes())
            if isinstance(content, dict) and (theirs := content.get("schema_version", SCHEMA)) != SCHEMA:
                newer = isinstance(theirs, int) and theirs > SCHEMA
                raise LtError(
                    f"{checkpoint} was written by {'a newer' if newer else 'an older'} lt.",
                    "Update lt-toolkit." if newer else "Train again.",
                )
            return cls.model_validate(content)
        except OSError:
            if not checkpoint.is_dir():
                raise LtError(f"There is no run in {checkpoint}.", "Train it first, or name another.") from None
            if (checkpoint / "log.jsonl").exists():
                raise LtError(f"The run in {checkpoint} has saved no checkpoint yet.", "Train it further.") from None
            raise LtError(
                f"{checkpoint} is no checkpoint: it has no {RECORD}.",
                "Name the folder of a run, or one of its checkpoints/step-NNNNNNNN.",
            ) from None
        except ValueError as error:
            what = first_fault(error) if isinstance(error, ValidationError) else error
            raise LtError(f"{checkpoint / RECORD} is damaged: {what}.", "Remove the folder.") from None


def digest_of_weights(record: Record) -> str:
    """What names the weights of a checkpoint, where another model is built on them."""
    return digest_of([record.system, {stem: record.files.get(f"{stem}.safetensors") for stem in ("model", "ema")}])


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that matter, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def save(folder: Path, record: Record, tensors: Mapping[str, Mapping[str, Tensor]], words: Sequence[str] = ()) -> Path:
    """Write `<folder>/step-NNNNNNNN` under a temporary name and rename it into place.

    Args:
        record: everything but `files`.
        tensors: file stem (`model`, `ema`, `optimizer`) to named tensors on the CPU.
        words: the objective's list of words.

    Raises:
        LtError: the disk is full or may not be written; nothing that looks finished is left.
    """
    final = folder / f"step-{record.step:08d}"
    if final.exists():
        return final
    temporary = folder / f"{final.name}{TEMP_MARK}{uuid.uuid4().hex[:8]}"
    try:
        temporary.mkdir(parents=True)
        write(temporary, record, tensors, words)
        temporary.rename(final)
    except OSError as error:
        raise write_error(final, error) from error
    except SafetensorError as error:
        raise LtError(f"Cannot write {final}: {error}.", "Free some space; the same command continues.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def write(folder: Path, record: Record, tensors: Mapping[str, Mapping[str, Tensor]], words: Sequence[str] = ()) -> None:
    """Write a checkpoint's files into an empty folder, the record last; see `save`."""
    for stem, named in tensors.items():
        save_file(dict(named), folder / f"{stem}.safetensors")
        with (folder / f"{stem}.safetensors").open("rb") as file:
            os.fsync(file.fileno())
    if words:
        (folder / WORDS).write_text("\n".join(words) + "\n", encoding="utf-8")
    files = {path.name: digest_of_file(path) for path in sorted(folder.iterdir())}
    write_json(folder / RECORD, record.model_copy(update={"files": files}).model_dump(mode="json"))


def all_checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first. Unfinished ones have another name."""
    found = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and (path / RECORD).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def latest(folder: Path) -> Path | None:
    """The newest finished checkpoint."""
    return next(iter(reversed(all_checkpoints(folder))), None)


def best(folder: Path) -> Path | None:
    """The checkpoint with the highest score (the newest of equals), or None if none was validated."""
    scores = {path: Record.load(path).score for path in all_checkpoints(folder)}
    scored = {path: score for path, score in reversed(scores.items()) if score is not None}
    return max(scored, key=lambda path: scored[path], default=None)


def chosen(where: Path) -> Path:
    """The checkpoint that a run's folder stands for (its best, else newest one); a checkpoint, or `lt:...`, for itself.

    A run of rounds stands for the training of its last round, see `rounds.py`.
    """
    where = located(where)
    where = max((path.parents[2] for path in where.glob(f"round-*/*/checkpoints/step-*/{RECORD}")), default=where)
    folder = where / "checkpoints"
    return (best(folder) or latest(folder) or where) if folder.is_dir() else where


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    stay = {*all_checkpoints(folder)[-keep:], best(folder)}
    for path in all_checkpoints(folder):
        if path not in stay:
            condemned = path.rename(path.with_name(f"{path.name}{TEMP_MARK}{uuid.uuid4().hex[:8]}"))
            shutil.rmtree(condemned, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed runs left half-written."""
    for path in folder.glob(f"step-*{TEMP_MARK}*"):
        shutil.rmtree(path, ignore_errors=True)


def check(record: Record, system: str, settings: Settings, data: str, where: Path) -> None:
    """Refuse to go on from a checkpoint of another system, of other settings or on other data, naming the difference."""
    if record.system != system:
        raise LtError(f"{where} is a checkpoint of {record.system}, not of {system}.", "Choose another --out.")
    changed = differences(type(settings), record.settings, flat(settings))
    if changed:
        raise LtError(
            f"{where} was trained with other settings: {'; '.join(changed)}.",
            "Train with these into another --out (--set train.init=CHECKPOINT starts from its weights), or take them back.",
        )
    if record.data != data:
        raise LtError(
            f"{where} was trained on other data ({record.samples:,} samples, digest {record.data[:12]}, now {data[:12]}).",
            "Name the same shards, or train into another --out.",
        )


def read_tensors(checkpoint: Path, record: Record, stem: str) -> dict[str, Tensor]:
    """The named tensors of one file. Raises LtError if it is missing or its bytes are not what was written."""
    return load_file(_intact(checkpoint, record, f"{stem}.safetensors"))


def _intact(checkpoint: Path, record: Record, name: str) -> Path:
    path = checkpoint / name
    if name not in record.files:
        raise LtError(f"{checkpoint} has no {name}.")
    if not path.is_file() or digest_of_file(path) != record.files[name]:
        raise LtError(
            f"{path} is damaged: its sha256 is not the recorded one.",
            "Remove this checkpoint's folder; the same command continues from the one before.",
        )
    return path


def weights_of(objective: Objective) -> dict[str, Tensor]:
    """Parameters and stored buffers as `<module>.<name>`; weights that are shared appear once, under their first name."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, module in objective.modules.items():
        for key, tensor in module.state_dict(keep_vars=True).items():
            found.setdefault(id(tensor), (f"{name}.{key}", tensor))
    return dict(found.values())


@torch.no_grad()
def load_weights(objective: Objective, tensors: Mapping[str, Tensor], where: Path, subset: bool = False) -> None:
    """Copy tensors into the objective's modules. `subset` accepts that some are missing (an EMA holds no buffers).

    Raises:
        LtError: names or shapes differ.
    """
    own = weights_of(objective)
    tensors = {name: _shaped(tensor, own[name]) if name in own else tensor for name, tensor in tensors.items()}
    missing = [] if subset else [name for name in own if name not in tensors]
    unknown = [name for name in tensors if name not in own]
    shapes = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    for names, what in ((missing, "lacks"), (unknown, "has, unknown here,"), (shapes, "has in another shape")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise LtError(f"{where} {what} {', '.join(names[:3])}{more}.", "Its model settings differ from these.")
    for name, tensor in tensors.items():
        own[name].copy_(like(tensor, own[name]))


def _shaped(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A scalar of an older checkpoint as the vector of one number that its parameter is now: FSDP shards no scalars."""
    return tensor.reshape(1) if tensor.ndim == 0 and pattern.shape == (1,) else tensor


def optimizer_tensors(optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<entry>` (all ranks must call this)."""
    return {
        f"{name}/{entry}": whole(torch.as_tensor(value))
        for name, weight in weights.items()
        for entry, value in optimizer.state.get(weight, {}).items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, weights: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave for these parameters, in any order; others belong to another optimizer."""
    order = [weight for group in optimizer.param_groups for weight in group["params"]]
    number = {id(weight): index for index, weight in enumerate(order)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("/")
        weight = weights[name]
        if id(weight) in number:
            value = tensor if entry == "step" else _shaped(tensor, weight)
            state.setdefault(number[id(weight)], {})[entry] = like(value, weight) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_model(objective: Objective, checkpoint: Path, record: Record) -> None:
    """Load a checkpoint's weights into an objective that is built on the same frozen models.

    Raises:
        LtError: it is built on others; names or shapes differ.
    """
    for key, then in record.built_on.items():
        if then != (now := objective.built_on.get(key, "none")):
            raise LtError(
                f"{checkpoint} was trained with another {key} than is there now: {record.settings[key]} had the digest "
                f"{then[:12]}, now {now[:12]}.",
                "Put the old one back, or train again.",
            )
    load_weights(objective, read_tensors(checkpoint, record, "model"), checkpoint)


def restore(where: Path, weights: str = "auto") -> tuple[Objective, Record]:
    """A trained objective on the CPU, in eval mode, from a checkpoint or a run's folder (its best, else newest checkpoint).

    Args:
        weights: `ema`, `model`, or `auto` = the moving average where one was kept.

    Raises:
        LtError: it is no whole checkpoint, or a frozen model that it is built on is missing or another one now.
    """
    from lt.recipes import registry

    checkpoint = chosen(where)
    record = Record.load(checkpoint)
    recipe = registry.find_recipe(record.system)
    settings = with_words(settings_of(record, recipe.settings, moved(record, checkpoint)), checkpoint, record)
    try:
        objective = recipe.objective(settings)
    except LtError as error:
        raise LtError(f"{checkpoint} needs what it is built on: {error.message}", error.hint) from None
    load_model(objective, checkpoint, record)
    if weights == "ema" or (weights == "auto" and "ema.safetensors" in record.files):
        load_weights(objective, read_tensors(checkpoint, record, "ema"), checkpoint, subset=True)
    for module in [*objective.modules.values(), *objective.frozen.values()]:
        module.eval()
    return objective, record


def settings_of(record: Record, kind: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """The settings that a checkpoint was trained with, but for these."""
    return resolve(kind, Card(f"of step {record.step}", record.card, record.settings), overrides).settings


def moved(record: Record, checkpoint: Path) -> list[str]:
    """Overrides for what a checkpoint is built on and that is not where it was: runs beside its own, known by their digest."""
    lost = {
        key: digest
        for key, digest in record.built_on.items()
        if isinstance(where := record.settings.get(key), str)
        and not where.startswith(SCHEME)
        and not Path(where).exists()
    }
    beside: dict[str, Path] = {}
    for run in sorted(checkpoint.absolute().parents[:3][-1].iterdir()) if lost else ():
        with suppress(LtError):  # no run, or a damaged one
            beside[digest_of_weights(Record.load(chosen(run)))] = run
    return [f"{key}={beside[digest]}" for key, digest in lost.items() if digest in beside]


def with_words(settings: Some, checkpoint: Path, record: Record) -> Some:
    """Settings whose `text.words` names the list that goes with a checkpoint, where one does.

    Raises:
        LtError: the list is damaged.
    """
    if WORDS not in record.files:
        return settings
    section: Any = getattr(settings, "text")  # noqa: B009 - settings of a system that names a list of words
    text = section.model_copy(update={"words": str(_intact(checkpoint, record, WORDS))})
    return settings.model_copy(update={"text": text})


def export(where: Path, folder: Path) -> None:
    """Write a checkpoint's model in its ecosystem's format (a diffusers or transformers folder).

    Raises:
        LtError: there is no such checkpoint, or the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise LtError(f"{folder} is a file.", "Name a folder, which may be a new one.")
    objective, _ = restore(where)
    try:
        objective.export(folder)
    except OSError as error:
        raise write_error(folder, error) from error


def gathered(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors on the CPU, copied where a safetensors file could not tell them apart (all ranks must call this)."""
    return {name: whole(tensor).clone() for name, tensor in tensors.items()}
