"""`lt eval images`: from drawn pictures and a reference to metrics with intervals, and the protocol that they depend on."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, UsageError
from lt.recipes.config import nearest
from lt.recipes.evaluate import bootstrap
from lt.recipes.evaluate.bootstrap import Interval
from lt.recipes.evaluate.features import Encoder, unknown_to
from lt.recipes.evaluate.images import distances
from lt.recipes.evaluate.images.controls import CONTROLS, TOLERANCE, clip_score, prompted
from lt.recipes.evaluate.images.distances import frechet_distance, kernel_distance, precision_recall, with_interval
from lt.recipes.evaluate.images.inception import Inception
from lt.recipes.evaluate.images.pictures import Extractor, PictureSet, extract
from lt.recipes.evaluate.report import Evaluation
from lt.recipes.evaluate.things import is_list_of_objects
from lt.recipes.judge.judge import Judge
from lt.recipes.judge.objective import NEAR
from lt.recipes.system import Note

_FEWEST = 2 * distances.GROUPS
_Z_95 = 1.96


def checked_controls(listed: str) -> list[str]:
    """`edge,pose` as a list. Raises UsageError naming the nearest control."""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    for name in names:
        if name not in CONTROLS:
            raise UsageError(f"Fidelity to {name!r} cannot be measured.", nearest(name, CONTROLS))
    return names


def evaluate_images(
    drawn: PictureSet,
    reference: PictureSet,
    extractor: str = "world",
    clip: Encoder | None = None,
    controls: Sequence[str] = (),
    cache: bool = True,
    note: Note = print,
) -> Evaluation:
    """Everything that can be said of the drawn pictures. What can be refused is refused before the judge is trained.

    Args:
        drawn: pictures of one size.
        reference: true pictures, brought to the size of the drawn ones; key points of the samples that were drawn from.
        extractor: `world`, or a file of Inception's weights.
        clip: what judges pictures against prompts; None = leave it out.
        controls: of `CONTROLS`.

    Raises:
        LtError: too few pictures, pictures of several sizes, nothing to measure a control with, no such weights ...
    """
    _check_counts(drawn.count, reference.count)
    for name in controls:
        CONTROLS[name].check(drawn, reference)
    if clip:
        prompted(drawn, clip, Counter())
    inception = None if extractor == "world" else Inception.load(Path(extractor))
    judge = Judge.load(note) if inception is None or {"pose", "caption"} & set(controls) else None
    look = inception or judge
    assert look
    unknown: dict[str, Any] = {}
    own, other = extract(drawn, look, cache), extract(reference, look, cache)
    metrics, left_out = _distances(own.features, other.features, look)
    passed_over = {"drawn": own.passed_over, "reference": other.passed_over}
    if clip:
        metrics["clip_score"], prompts, passed_over["clip"] = clip_score(drawn, clip)
        unknown = {"unknown_words": unknown_to(clip, prompts, note)}
    for name in (name for name in CONTROLS if name in controls):
        found, passed_over[name] = CONTROLS[name].fidelity(drawn, reference, judge)
        metrics |= found
    left_out |= {name: "no picture has anything to count" for name, i in metrics.items() if not isfinite(i.value)}
    for name, why in left_out.items():
        note(f"  {name} is left out: {why}.")
    width, height = drawn.own_size
    protocol = {
        "pictures": len(own.features),
        "reference": {"digest": reference.digest, "pictures": len(other.features)},
        "prompts": _prompts(drawn, controls),
        "size": f"{width}x{height}",
        "resize": f"reference to {width}x{height} (bicubic, antialiased, centre crop), then {look.resize}",
        "extractor": {"name": look.name, "digest": look.digest, "features": own.features.shape[1]},
        "kernel_block": distances.BLOCK,
        "neighbours": distances.NEIGHBOURS,
        "intervals": f"distances: jackknife, {distances.GROUPS} groups; others: bootstrap, {bootstrap.DRAWS} draws",
        "clip": _clip_protocol(clip) if clip else None,
        "controls": _control_protocol(controls, judge),
    }
    data = {"name": drawn.where, "digest": drawn.digest, "reference": reference.where, **unknown}
    bad = {f"{where} {reason}": count for where, counts in passed_over.items() for reason, count in counts.items()}
    metrics = {name: interval for name, interval in metrics.items() if name not in left_out}
    return Evaluation("images", metrics, protocol, data, _drawn_by(drawn), bad, left_out)


def _check_counts(drawn: int, reference: int) -> None:
    if min(drawn, reference) < _FEWEST:
        raise LtError(
            f"{drawn:,} drawn and {reference:,} reference pictures: too few to compare their distributions.",
            f"Draw at least {_FEWEST} (lt sample pangu --count), better some thousands.",
        )


def _distances(own: np.ndarray, other: np.ndarray, extractor: Extractor) -> tuple[dict[str, Interval], dict[str, str]]:
    """Distances and precision, recall; the Fréchet distance only where there are more pictures than numbers a feature.

    Returns:
        metrics, and why others were left out.
    """
    fewest, width = min(len(own), len(other)), own.shape[1]
    _check_counts(len(own), len(other))
    frechet, kernel = extractor.distances
    metrics: dict[str, Interval] = {}
    left_out: dict[str, str] = {}
    if fewest - -(-fewest // distances.GROUPS) > width:  # what the jackknife leaves at least
        metrics[frechet] = with_interval(frechet_distance, own, other)
    else:
        more = f"{-(-width * distances.GROUPS // (distances.GROUPS - 1)):,}"
        left_out[frechet] = (
            f"{fewest:,} pictures are too few for features of {width:,} numbers; it takes more than {more} of each set"
        )
    metrics[kernel] = with_interval(kernel_distance, own, other)
    metrics["precision"], metrics["recall"] = precision_recall(own, other)
    return metrics, left_out


def _prompts(drawn: PictureSet, controls: Sequence[str]) -> str:
    """Digest of what was asked for: the prompts, and the control pictures whose fidelity is measured."""
    digest = sha256()
    for sample in drawn.samples():
        asked = [name for name in ("txt", *(f"{control}.png" for control in controls)) if name in sample]
        for name in asked:
            digest.update(sha256(sample.encoded(name)).digest())
    return digest.hexdigest()


def _clip_protocol(clip: Encoder) -> dict[str, Any]:
    record = clip.record
    return {"system": record.system, "preset": record.preset, "digest": clip.digest, "language": clip.language}


def _control_protocol(controls: Sequence[str], judge: Judge | None) -> dict[str, Any]:
    digest = judge.digest if judge else ""
    known = {
        "edge": {"detector": "opencv canny 100 200", "tolerance": TOLERANCE},
        "pose": {"judge": digest, "threshold": NEAR, "points": "seen"},
        "caption": {"judge": digest},
    }
    return {name: told for name, told in known.items() if name in controls}


def _drawn_by(drawn: PictureSet) -> dict[str, Any]:
    """The last step of the first sample's lineage that had a model."""
    meta = next(iter(drawn.samples())).readable("json")
    lineage = meta.get("lineage") if isinstance(meta, dict) else None
    made = [step for step in lineage if step.get("model")] if is_list_of_objects(lineage) else []
    return {"stage": made[-1].get("stage"), "digest": made[-1]["model"]} if made else {}


@dataclass(frozen=True)
class Before:
    """What an earlier `lt eval images --json` printed."""

    file: Path
    protocol: dict[str, Any]
    metrics: dict[str, Interval]

    @classmethod
    def read(cls, file: Path) -> "Before":
        """Raises LtError where the file is no evaluation of pictures."""
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            return cls(file, dict(told["protocol"]), {k: Interval(**v) for k, v in told["metrics"].items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise LtError(f"Cannot read {file}: {error}.", "Want what `lt eval images --json` printed.") from None


def compare(now: Evaluation, before: Before) -> dict[str, Interval]:
    """What is higher (+) or lower (-) now than before, as differences with 95 % intervals.

    The two are taken as independent: drawings of the same prompts are not quite, which makes the intervals too wide.

    Raises:
        LtError: the protocols differ; the fields that do are named.
    """
    differs = _differences(_flat(before.protocol), _flat(json.loads(json.dumps(now.protocol))))
    if differs:
        raise LtError(
            f"The metrics of {before.file} cannot be compared with these: {'; '.join(differs)}.", "Measure both alike."
        )
    both = [name for name in now.metrics if name in before.metrics]
    return {name: _difference(now.metrics[name], before.metrics[name]) for name in both}


def _difference(now: Interval, before: Interval) -> Interval:
    value, error = now.value - before.value, float(np.hypot(now.error, before.error))
    return Interval(value, value - _Z_95 * error, value + _Z_95 * error, error)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = [*now, *(key for key in before if key not in now)]
    return [f"{k} is {before.get(k)} there, {now.get(k)} here" for k in keys if before.get(k) != now.get(k)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
