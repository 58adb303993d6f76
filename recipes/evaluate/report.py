"""`lt eval retrieval` and `lt eval zero-shot`: from a checkpoint and data to metrics with intervals and digests."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.datagen.shards import LtError, UsageError
from lt.models.nn.contrastive import Features
from lt.models.nn.device import device
from lt.recipes.evaluate import zero_shot
from lt.recipes.evaluate.bootstrap import DRAWS, Interval
from lt.recipes.evaluate.features import Encoder, Pictures, Rule, encode_pictures
from lt.recipes.evaluate.readers import Collection
from lt.recipes.evaluate.retrieval import recalls, text_number
from lt.recipes.system import Note
from lt.recipes.training.checkpoints import versions


@dataclass(frozen=True)
class Evaluation:
    """Metrics in percent with 95 % intervals, and everything that they depend on."""

    task: str
    metrics: dict[str, Interval]
    protocol: dict[str, Any]
    """What was compared and how: numbers that differ here cannot be compared."""
    data: dict[str, Any]
    model: dict[str, Any]
    passed_over: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    def as_json(self) -> dict[str, Any]:
        metrics = {name: interval._asdict() for name, interval in self.metrics.items()}
        return {**asdict(replace(self, metrics={})), "metrics": metrics}


def evaluate_retrieval(
    encoder: Encoder,
    collection: Collection,
    limit: int | None = None,
    captions: int | None = None,
    prompt: str = "{}",
    cache: bool = True,
    note: Note = print,
) -> Evaluation:
    """Retrieval among the first `limit` pictures with at most `captions` captions each, which `prompt` takes for its `{}`.

    Raises:
        UsageError: the prompt has no place, or several, for the caption.
    """
    if prompt.count("{}") != 1:
        raise UsageError(f"The prompt {prompt!r} must hold {{}} once, where the caption goes.")
    pictures = encode_pictures(encoder, collection, limit, cache)
    texts = [text for said in pictures.captions for text in said[:captions]]
    owner = torch.tensor([row for row, said in enumerate(pictures.captions) for _ in said[:captions]])
    numbers = torch.tensor([text_number(text) for text in texts])
    _announce(encoder, collection, pictures, f"{len(texts):,} captions", note)
    prompted = encoder.texts([prompt.replace("{}", text) for text in texts])
    found = recalls(pictures.features, prompted, numbers, owner)
    protocol = {"pictures": len(pictures.keys), "captions": len(texts), "prompt": prompt}
    return _evaluation("retrieval", found.intervals(), protocol, encoder, collection, pictures)


def evaluate_zero_shot(
    encoder: Encoder,
    collection: Collection,
    classes: Path | None = None,
    prompts: str | None = None,
    rule: Rule | None = None,
    limit: int | None = None,
    cache: bool = True,
    note: Note = print,
) -> Evaluation:
    """Zero-shot classification of the samples that have one label; the others are counted and left out.

    Raises:
        LtError: no sample has a label, or one is not among the classes.
    """
    prompts, rule = prompts or encoder.prompts, rule or encoder.rule
    templates = zero_shot.read_prompts(prompts)
    pictures = encode_pictures(encoder, collection, limit, cache)
    row_of = {key: row for row, key in enumerate(pictures.keys)}
    found = [(row_of[i.key], i.sample) for i in collection.items() if i.key in row_of and i.sample is not None]
    labels = {row: label for row, sample in found if (label := zero_shot.label_of(sample, encoder.language))}
    rows = np.array(list(labels), dtype=np.int64)
    if not labels:
        raise LtError(
            f"No sample of {collection.name} has exactly one label.",
            "Labels are read from a `cls` field, from json.label, or from layers of one category.",
        )
    known, truth = zero_shot.known_classes(list(labels.values()), zero_shot.read_classes(classes) if classes else None)
    _announce(
        encoder, collection, pictures, f"{len(known.names):,} classes x {len(templates)} prompts ({prompts})", note
    )
    scored = zero_shot.scores(encoder, Features(pictures.features.tokens[rows]), known.names, templates, rule)
    protocol = {
        "pictures": len(rows),
        "classes": len(known.names),
        "prompts": templates,
        "rule": rule,
        "chance": 100 / len(known.names),
    }
    found = _evaluation("zero-shot", zero_shot.accuracies(scored, truth), protocol, encoder, collection, pictures)
    left_out = len(pictures.keys) - len(rows)
    return replace(found, passed_over={**found.passed_over, **({"not-one-label": left_out} if left_out else {})})


def _announce(encoder: Encoder, collection: Collection, pictures: Pictures, against: str, note: Note) -> None:
    record = encoder.record
    cached = " (features from the cache)" if pictures.from_cache else ""
    note(
        f"{record.system} ({record.preset}, step {record.step:,}) on {device().type}; {collection.name}: "
        f"{len(pictures.keys):,} pictures{cached}, {against}"
    )
    if pictures.passed_over:
        note("  passed over: " + ", ".join(f"{n:,} {reason}" for reason, n in pictures.passed_over.items()))


def _evaluation(
    task: str,
    metrics: dict[str, Interval],
    protocol: dict[str, Any],
    encoder: Encoder,
    collection: Collection,
    pictures: Pictures,
) -> Evaluation:
    record = encoder.record
    model = {"system": record.system, "preset": record.preset, "step": record.step, "digest": encoder.digest}
    data = {"name": collection.name, "digest": collection.digest}
    usual = {"size": encoder.size, "resize": encoder.resize, "language": encoder.language, "bootstrap": DRAWS}
    return Evaluation(task, metrics, {**usual, **protocol}, data, {**model, "data": record.data}, pictures.passed_over)
