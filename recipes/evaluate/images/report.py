"""`lt eval images`: from drawn pictures and a reference to metrics with intervals, and the protocol that they depend on."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, UsageError
from lt.recipes.config import nearest
from lt.recipes.evaluate import bootstrap
from lt.recipes.evaluate.bootstrap import Interval
from lt.recipes.evaluate.features import Encoder
from lt.recipes.evaluate.images import distances
from lt.recipes.evaluate.images.controls import CONTROLS, TOLERANCE, clip_score
from lt.recipes.evaluate.images.distances import frechet_distance, kernel_distance, precision_recall, with_interval
from lt.recipes.evaluate.images.inception import Inception
from lt.recipes.evaluate.images.pictures import Extractor, PictureSet, extract
from lt.recipes.evaluate.report import Evaluation
from lt.recipes.judge.judge import Judge
from lt.recipes.judge.objective import NEAR
from lt.recipes.system import Note

_FEWEST = 2 * distances.GROUPS
_Z_95 = 1.96


def load_extractor(name: str, note: Note) -> Extractor:
    """`world`, or a file of Inception's weights. Raises LtError if it cannot be read."""
    return Judge.load(note) if name == "world" else Inception.load(Path(name))


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
    extractor: Extractor,
    clip: Encoder | None = None,
    controls: Sequence[str] = (),
    cache: bool = True,
    note: Note = print,
) -> Evaluation:
    """Everything that can be said of the drawn pictures.

    Args:
        drawn: pictures of one size.
        reference: true pictures, brought to the size of the drawn ones; key points of the samples that were drawn from.
        clip: what judges pictures against prompts; None = leave it out.
        controls: of `CONTROLS`.

    Raises:
        LtError: too few pictures, pictures of several sizes, nothing to measure a control with ...
    """
    wants_judge = isinstance(extractor, Judge) or {"pose", "caption"} & set(controls)
    judge = (extractor if isinstance(extractor, Judge) else Judge.load(note)) if wants_judge else None
    own, other = extract(drawn, extractor, cache), extract(reference, extractor, cache)
    metrics = _distances(own.features, other.features, extractor, note)
    passed_over = {"drawn": own.passed_over, "reference": other.passed_over}
    if clip:
        metrics["clip_score"], passed_over["clip"] = clip_score(drawn, clip)
    for name in (name for name in CONTROLS if name in controls):
        found, passed_over[name] = CONTROLS[name](drawn, reference, judge)
        metrics |= found
    width, height = drawn.own_size
    protocol = {
        "pictures": len(own.features),
        "reference": {"digest": reference.digest, "pictures": len(other.features)},
        "prompts": _prompts(drawn, controls),
        "size": f"{width}x{height}",
        "resize": f"reference to {width}x{height} (bicubic, antialiased, centre crop), then {extractor.resize}",
        "extractor": {"name": extractor.name, "digest": extractor.digest, "features": own.features.shape[1]},
        "kernel_block": distances.BLOCK,
        "neighbours": distances.NEIGHBOURS,
        "intervals": f"distances: jackknife, {distances.GROUPS} groups; others: bootstrap, {bootstrap.DRAWS} draws",
        "clip": _clip_protocol(clip) if clip else None,
        "controls": _control_protocol(controls, judge),
    }
    data = {"name": drawn.where, "digest": drawn.digest, "reference": reference.where}
    bad = {f"{where} {reason}": count for where, counts in passed_over.items() for reason, count in counts.items()}
    return Evaluation("images", metrics, protocol, data, _drawn_by(drawn), bad)


def _distances(own: np.ndarray, other: np.ndarray, extractor: Extractor, note: Note) -> dict[str, Interval]:
    """Distances and precision, recall; the Fréchet distance only where there are more pictures than numbers a feature."""
    fewest, width = min(len(own), len(other)), own.shape[1]
    if fewest < _FEWEST:
        raise LtError(
            f"{len(own):,} drawn and {len(other):,} reference pictures: too few to compare their distributions.",
            f"Draw at least {_FEWEST} (lt sample pangu --count), better some thousands.",
        )
    frechet, kernel = extractor.distances
    metrics: dict[str, Interval] = {}
    if fewest - -(-fewest // distances.GROUPS) > width:  # what the jackknife leaves at least
        metrics[frechet] = with_interval(frechet_distance, own, other)
    else:
        note(
            f"  {frechet} is left out: {fewest:,} pictures are too few for features of {width:,} numbers; it takes more than "
            f"{-(-width * distances.GROUPS // (distances.GROUPS - 1)):,} of each set."
        )
    metrics[kernel] = with_interval(kernel_distance, own, other)
    metrics["precision"], metrics["recall"] = precision_recall(own, other)
    return metrics


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
    first = next(iter(drawn.samples()))
    lineage = first.meta.get("lineage") if "json" in first else None
    made = [step for step in lineage or [] if step.get("model")]
    return {"stage": made[-1].get("stage"), "digest": made[-1]["model"]} if made else {}


def compare(now: Evaluation, other: Path) -> dict[str, Interval]:
    """What is higher (+) or lower (-) now than in another evaluation's json, as differences with 95 % intervals.

    The two are taken as independent: drawings of the same prompts are not quite, which makes the intervals too wide.

    Raises:
        LtError: the file is no evaluation of pictures, or its protocol differs; the fields that differ are named.
    """
    try:
        before = json.loads(other.read_text(encoding="utf-8"))
        protocol, metrics = before["protocol"], {k: Interval(**v) for k, v in before["metrics"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LtError(f"Cannot read {other}: {error}.", "Want what `lt eval images --json` printed.") from None
    differs = _differences(_flat(protocol), _flat(json.loads(json.dumps(now.protocol))))
    if differs:
        raise LtError(
            f"The metrics of {other} cannot be compared with these: {'; '.join(differs)}.", "Measure both alike."
        )
    return {name: _difference(now.metrics[name], metrics[name]) for name in now.metrics if name in metrics}


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
