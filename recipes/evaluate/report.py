"""`lt eval retrieval` and `lt eval zero-shot`: from a checkpoint and data to metrics with intervals and digests."""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.datagen.shards import LtError, UsageError
from lt.models.nn.contrastive import Features
from lt.models.nn.device import device
from lt.recipes.evaluate import zero_shot
from lt.recipes.evaluate.bootstrap import DRAWS, Interval
from lt.recipes.evaluate.features import Encoder, Pictures, Rule, encode_pictures, unknown_to
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
    left_out: dict[str, str] = field(default_factory=dict)
    """Metrics that could not be computed, and why."""
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
    prompted = [prompt.replace("{}", text) for text in texts]
    found = recalls(pictures.features, encoder.texts(prompted), numbers, owner)
    protocol = {"pictures": len(pictures.rows), "captions": len(texts), "prompt": prompt}
    unknown = unknown_to(encoder, prompted, note)
    return _evaluation("retrieval", found.intervals(), protocol, encoder, collection, pictures, unknown)


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
        LtError: no sample has a label, one is not among the classes, or labels are numbers and no classes are named.
    """
    prompts, rule = prompts or encoder.prompts, rule or encoder.rule
    templates = zero_shot.read_prompts(prompts)
    labels = _labels(collection, encoder.language, limit)
    known = zero_shot.read_classes(classes) if classes else None
    known, numbers = zero_shot.known_classes(list(labels.values()), known)
    pictures = encode_pictures(encoder, collection, limit, cache)
    number_of = dict(zip(labels, numbers.tolist(), strict=True))
    labelled = [place for place, row in enumerate(pictures.rows) if row in number_of]
    if not labelled:
        raise LtError(f"None of the labelled pictures of {collection.name} can be read: {pictures.passed_over}.")
    truth = np.array([number_of[pictures.rows[place]] for place in labelled])
    if alike := [name for name, count in Counter(known.names).items() if count > 1]:
        note(f"  {len(alike)} names stand for several classes, such as {alike[0]}: these tie, which counts as wrong")
    against = f"{len(known.names):,} classes x {len(templates)} prompts ({prompts})"
    _announce(encoder, collection, pictures, against, note)
    scored = zero_shot.scores(encoder, Features(pictures.features.tokens[labelled]), known.names, templates, rule)
    protocol = {
        "pictures": len(labelled),
        "classes": len(known.names),
        "prompts": templates,
        "rule": rule,
        "chance": 100 / len(known.names),
    }
    unknown = unknown_to(encoder, [*(prompt.replace("{}", " ") for prompt in templates), *known.names], note)
    metrics, left_out = zero_shot.accuracies(scored, truth), len(pictures.rows) - len(labelled)
    found = _evaluation("zero-shot", metrics, protocol, encoder, collection, pictures, unknown)
    return replace(found, passed_over={**found.passed_over, **({"not-one-label": left_out} if left_out else {})})


def _labels(collection: Collection, language: str, limit: int | None) -> dict[int, tuple[str, str]]:
    """(label, name) of those of the first `limit` pictures that have one, by their number. Raises LtError where none has."""
    found = {}
    for number, item in enumerate(islice(collection.items(), limit)):
        if item.sample is not None and (label := zero_shot.label_of(item.sample, language)):
            found[number] = label
    if not found:
        raise LtError(
            f"No sample of {collection.name} has exactly one label.",
            "Labels are read from a `cls` field, from json.label, or from layers of one category.",
        )
    return found


def _announce(encoder: Encoder, collection: Collection, pictures: Pictures, against: str, note: Note) -> None:
    record = encoder.record
    cached = " (features from the cache)" if pictures.from_cache else ""
    note(
        f"{record.system} ({record.preset}, step {record.step:,}) on {device().type}; {collection.name}: "
        f"{len(pictures.rows):,} pictures{cached}, {against}"
    )
    if pictures.passed_over.counts:
        note(f"  passed over: {pictures.passed_over}")


def _evaluation(
    task: str,
    metrics: dict[str, Interval],
    protocol: dict[str, Any],
    encoder: Encoder,
    collection: Collection,
    pictures: Pictures,
    unknown: dict[str, Any],
) -> Evaluation:
    record = encoder.record
    model = {"system": record.system, "preset": record.preset, "step": record.step, "digest": encoder.digest}
    data = {"name": collection.name, "digest": pictures.digest, "unknown_words": unknown}
    usual = {"size": encoder.size, "resize": encoder.resize, "language": encoder.language, "bootstrap": DRAWS}
    return Evaluation(
        task, metrics, {**usual, **protocol}, data, {**model, "data": record.data}, pictures.passed_over.counts
    )
