"""Settings: pydantic models with one line of documentation a field; a YAML *card* a preset; `--set` on top.

    class FilipSettings(Settings):
        model: ModelSettings = ModelSettings()        # a system adds its own sections

    settings = resolve(FilipSettings, card, ["train.lr=3e-4"]).settings

A card holds only what differs from the defaults, or from the card that it is `like`, and begins with three comment lines:
command, expected time, expected result; `ships as` says under which name the run comes with lt.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from lt.datagen.shards.errors import LtError, UsageError

CARD_HEADER = ("command", "expected time", "expected result")


def free(default: Any, **limits: Any) -> Any:
    """A field that may differ when a run is resumed: it changes how a run goes, not what it computes."""
    return Field(default, json_schema_extra={"free": True}, **limits)


class Section(BaseModel):
    """A group of settings. Unknown keys are refused, values cannot be changed, docstrings are the documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) and value else value or []


Share = Annotated[float, Field(ge=0, lt=1)]


class DataSettings(Section):
    """Which shards, and in which order."""

    train: Annotated[list[str], BeforeValidator(_as_list)] = free([])
    """Training shards: folders, tars, brace patterns or URLs; empty = the system's built-in world."""
    validation: str = free("")
    """Validation shards, read in order without augmentation; empty = the built-in world's, or none beside your own data."""
    validation_samples: int = Field(default=1024, ge=1)
    """At most so many validation samples are used, from the first on."""
    window: int = Field(default=8192, ge=1)
    """Shards are permuted, then samples inside windows of so many: larger mixes better and reads less in order."""
    decode: Literal["scaled", "whole"] = "scaled"
    """How pictures are decoded for training. `scaled`: a JPEG at the smallest of its own scales (1/2, 1/4, 1/8) that the model's
    size allows; `whole`: always in full, as validation does."""
    workers: int = free(2, ge=0)
    """Loader processes per rank; 0 = read inside the training process."""
    prefetch: int = free(2, ge=1)
    """Micro-batches that each worker prepares in advance."""
    cache_gb: float = free(50.0, ge=0)
    """Remote shards are copied whole into the cache folder, at most so many gigabytes; 0 = read them in ranges instead."""


class TrainSettings(Section):
    """Optimization."""

    steps: int = Field(default=1000, ge=1)
    """Optimizer steps in all."""
    epochs: float = Field(default=0.0, ge=0)
    """Passes over the data: above 0 it takes the place of `steps`."""
    batch: int = Field(default=128, ge=1)
    """Samples per optimizer step, over all ranks and accumulation: resuming on other hardware keeps it."""
    micro: int = free(0, ge=0)
    """Samples per forward pass on one rank; smaller ones accumulate gradients; 0 = the rank's whole share."""
    optimizer: Literal["adamw", "lamb"] = "adamw"
    """`adamw`, or `lamb` (arXiv 1904.00962) for the papers' large batches."""
    lr: float = Field(default=1e-3, gt=0)
    """Base learning rate; see `lr_scaling`."""
    lr_scaling: Literal["none", "sqrt"] = "none"
    """`sqrt`: the peak rate is lr * sqrt(batch / 512), as in FILIP."""
    warmup: int = Field(default=100, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the rate does after the warm-up: fall to `lr_end` along a half cosine, or stay."""
    lr_end: float = Field(default=0.0, ge=0, le=1)
    """Where the cosine ends, as a share of the peak rate."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay; vectors and scalars are spared unless the system says otherwise."""
    betas: tuple[Share, Share] = (0.9, 0.98)
    """Decay of the running means of gradient and squared gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the squared gradient's mean."""
    clip: float = Field(default=1.0, ge=0)
    """Largest norm of the whole gradient; 0 = do not clip."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the moving average of the weights, which then is validated and exported; 0 = keep none."""
    ema_kimg: float = Field(default=0.0, ge=0)
    """Instead of `ema`: the average's half-life in thousands of samples seen, as in StyleGAN2; 0 = `ema` says."""
    ema_rampup: float = Field(default=0.05, ge=0)
    """With `ema_kimg`: the half-life is at most this share of the samples seen so far; 0 = it is the same from the start."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """`bf16`: forward passes under autocast, weights and optimizer stay fp32."""
    device: Literal["auto", "cpu"] = free("auto")
    """`auto`: the accelerator that is there, else the CPU; `cpu`: always the CPU."""
    compile: bool = False
    """torch.compile the modules (CUDA only)."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """With several ranks: copies of the weights (`ddp`) or shards of them (`fsdp`, for models that do not fit)."""
    init: str = ""
    """Start from the weights of this run or checkpoint (fine-tuning, resolution boost), or for pangu from a diffusers folder's
    U-Net; step and optimizer start anew."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seeds weights, order, augmentation and everything drawn in a step."""
    spike: float = free(20.0, ge=0)
    """Stop when the loss lies so many robust deviations above its recent median; 0 = only on NaN and infinity."""
    skip: list[int] = free([])
    """Steps whose batch is passed over without learning, as the message of a stopped run proposes."""


class PlayerSettings(Section):
    """How another player than the one of `train` learns, such as a discriminator. What is null is as in `train`."""

    lr: float | None = Field(default=None, gt=0)
    """Base learning rate."""
    warmup: int | None = Field(default=None, ge=0)
    """Steps of linear warm-up."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled weight decay."""
    betas: tuple[Share, Share] | None = None
    """Decay of the running means of gradient and squared gradient."""
    clip: float | None = Field(default=None, ge=0)
    """Largest norm of the player's gradient; 0 = do not clip."""

    def over(self, train: TrainSettings) -> TrainSettings:
        """The training's settings as they are for this player."""
        return train.model_copy(update=self.model_dump(exclude_none=True))


class LogSettings(Section):
    """What is written, and how often (in steps)."""

    every: int = free(10, ge=1)
    """A line in log.jsonl and TensorBoard."""
    validate_every: int = free(200, ge=1)
    """Validate and save."""
    save_every: int = free(200, ge=1)
    """Save a checkpoint."""
    keep: int = free(2, ge=1)
    """Checkpoints that stay, from the newest back; the best one stays as well."""
    tensorboard: bool = free(True)
    """Also write TensorBoard files."""


class Settings(Section):
    """The settings of a run. A system's settings inherit from this and add sections."""

    data: DataSettings = DataSettings()
    train: TrainSettings = TrainSettings()
    log: LogSettings = LogSettings()


Kind = TypeVar("Kind", bound=BaseModel)


@dataclass(frozen=True)
class Card:
    """A preset: what differs from the defaults, and what to expect. `text` is the file as it is."""

    name: str
    text: str
    values: dict[str, Any]

    @property
    def header(self) -> dict[str, str]:
        """The leading comment lines `# command: lt train ...` as a dict."""
        lines = [line[1:].strip() for line in self.text.splitlines() if line.startswith("#")]
        return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


@dataclass(frozen=True)
class Resolved(Generic[Kind]):
    """Settings, and for every dotted key that differs from its default who set it (a card's name, `base` or `--set`)."""

    settings: Kind
    card: Card | None = None
    origin: dict[str, str] = field(default_factory=dict)


def read_card(path: Path) -> Card:
    """Read a YAML card, on top of the one beside it that it is `like`.

    Raises:
        LtError: it cannot be read or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise LtError(f"Cannot read the card {path}: {getattr(error, 'strerror', None) or error}.") from None
    except yaml.YAMLError as error:
        raise LtError(f"The card {path} is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(values, dict):
        raise LtError(f"The card {path} holds a {type(values).__name__}, want a mapping of settings.")
    if other := values.pop("like", None):
        values = _merged(read_card(path.with_name(f"{other}.yaml")).values, values)
    return Card(path.stem, text, values)


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merged(values[key], over[key]) for key in over if isinstance(values.get(key), dict)}
    return {**values, **over, **both}


def resolve(
    kind: type[Kind], card: Card | None = None, overrides: Sequence[str] = (), base: Mapping[str, Any] | None = None
) -> Resolved[Kind]:
    """Defaults, then the card, then what a base brings along (by dotted key), then `key=value` overrides, checked.

    Raises:
        UsageError: an unknown key (naming the nearest known one) or a value that does not fit.
    """
    known = fields_of(kind)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if card:
        for key, value in _leaves(card.values, known):
            values[key], origin[key] = value, f"card {card.name}"
    for key, value in (base or {}).items():
        values[key], origin[key] = value, "base"
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise UsageError(f"--set {text}: want KEY=VALUE.", "Example: --set train.lr=3e-4")
        info = known.get(key.strip())
        values[key.strip()], origin[key.strip()] = _parsed(text, value, info.annotation if info else None), "--set"
    for key in values:
        if key not in known:
            raise UsageError(f"Unknown setting {key!r} (from {origin[key]}).", nearest(key, known))
    try:
        return Resolved(kind.model_validate(_nest(values)), card, origin)
    except ValidationError as error:
        fault = f"Setting {first_fault(error, origin)}."
        raise UsageError(fault, "`lt train NAME --show` prints every setting.") from None


def fields_of(kind: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by dotted key, in the order of the source."""
    found: dict[str, FieldInfo] = {}
    for name, info in kind.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            found |= fields_of(info.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = info
    return found


def flat(settings: BaseModel) -> dict[str, Any]:
    """Every setting's json-able value by dotted key."""
    values = settings.model_dump(mode="json")
    return dict(_leaves(values, fields_of(type(settings))))


def is_free(info: FieldInfo) -> bool:
    """Whether a resumed run may have another value."""
    return bool(isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("free"))


def differences(kind: type[BaseModel], before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings (flat) that forbid to go on: `train.lr: 0.001 there, 0.0003 here`. One that was unknown then had its default."""
    known = fields_of(kind)
    found = [f"{key}: unknown here" for key in before if key not in known]
    for key, info in known.items():
        old = before.get(key, to_jsonable_python(info.get_default(call_default_factory=True)))
        if old != now[key] and not is_free(info):
            found.append(f"{key}: {old} there, {now[key]} here")
    return found


def show(resolved: Resolved) -> list[tuple[str, Any, str, str]]:
    """Rows of (key, value, who set it, documentation) for `lt train NAME --show`."""
    values = flat(resolved.settings)
    return [
        (key, values[key], resolved.origin.get(key, "default"), " ".join((info.description or "").split()))
        for key, info in fields_of(type(resolved.settings)).items()
    ]


def nearest(name: str, known: Iterable[str]) -> str:
    """`Did you mean train.lr?`, or the list of what is known."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not found:  # a key without its section
        found = [key for key in known if key.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]][:1]
    if found:
        return f"Did you mean {found[0]}?"
    return f"Known: {', '.join(known)}." if known else ""


def _leaves(values: Mapping[str, Any], known: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys and values; a mapping is descended into unless it is itself a setting's value."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in known:
            yield from _leaves(value, known, f"{key}.")
        else:
            yield key, value


def _parsed(text: str, value: str, kind: Any) -> Any:
    """A value in YAML. Where the setting is text, or a list of texts, `2024` is text, and what is no YAML stands for itself."""
    if kind in (str, list[str]):
        found = None
        with suppress(yaml.YAMLError):
            found = yaml.load(value, yaml.BaseLoader)  # which makes texts only
        fits = isinstance(found, str) or (kind is not str and isinstance(found, list) and not Path(value).exists())
        return found if fits else value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {text}: the value is not valid YAML.", "Quote it, or close its brackets.") from None


def _nest(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def first_fault(error: ValidationError, told: Mapping[str, str] = {}) -> str:
    """The first thing that is wrong: `train.lr = -1 (from --set): Input should be greater than 0`.

    Args:
        told: who said what, by key: value and origin are named for these.
    """
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    said = next((who for known, who in told.items() if f"{key}.".startswith(f"{known}.")), "")
    shown = f" = {first['input']!r} (from {said})" if said else ""
    return f"{key}{shown}: {first['msg'].removeprefix('Value error, ')}"
