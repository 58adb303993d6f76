"""Fidelity to what was asked for: edges found again in the picture; key points, and what captions say, by the world's judge; and
likeness to the prompt, the CLIP score, by any contrastive checkpoint of lt."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, Sample, SampleError, captions_of
from lt.datagen.sources.figure_traits import IN_EVERY_WORDING, described
from lt.models.nn.contrastive import image_similarity, text_similarity
from lt.models.perception.registry import load
from lt.recipes.evaluate.bootstrap import Interval, resampled
from lt.recipes.evaluate.features import Encoder
from lt.recipes.evaluate.images.pictures import BATCH, PictureSet
from lt.recipes.judge.judge import Judge, true_points
from lt.recipes.judge.objective import NEAR, points_found

TOLERANCE = 1.0
"""Pixels between edges that count as the same, at the size of the drawn pictures."""


def edge_scores(drawn: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Precision (share of the drawn edges that lie within `tolerance` pixels of a wanted one) and recall (the other way round).

    Pixels are matched many to one: the simple form of the boundary measure of Martin, Fowlkes and Malik 2004.

    Args:
        drawn, wanted: [h, w], an edge where not 0.

    Returns:
        0..1 each; nan where there are no edges to ask about.
    """
    drawn, wanted = drawn > 0, wanted > 0
    return _near(drawn, wanted, tolerance), _near(wanted, drawn, tolerance)


def _near(asked: np.ndarray, edges: np.ndarray, tolerance: float) -> float:
    import cv2

    if not asked.any():
        return float("nan")
    if not edges.any():
        return 0.0
    distance = cv2.distanceTransform(np.where(edges, 0, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[asked] <= tolerance + 1e-3).mean())


def edge_metrics(scores: Sequence[tuple[float, float]]) -> dict[str, Interval]:
    """`edge_f`, `edge_precision` and `edge_recall` in percent: means over pictures with bootstrap intervals.

    F is the harmonic mean of a picture's precision and recall: 0 where only one of the two pictures has edges. What cannot
    be asked (see `edge_scores`) does not count.

    Raises:
        ValueError: no scores.
    """
    both = np.array(scores, float).reshape(-1, 2)
    precision, recall = np.nan_to_num(both).T
    f = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    asked = np.concatenate([~np.isnan(both).all(1, keepdims=True), ~np.isnan(both)], axis=1)
    found = resampled(100 * np.stack([f, precision, recall], 1), asked)
    return dict(zip(("edge_f", "edge_precision", "edge_recall"), found, strict=True))


@dataclass(frozen=True)
class Control:
    """How well pictures follow what was asked for.

    Args:
        ask: a drawn sample and the two sets to what was asked for. Raises SampleError where that is not known.
        measure: drawn samples with what was asked for (at least one), and the judge (which edges do not need), to metrics.
        unknown, hint: what to say where it is known of no picture, and what to do.
    """

    ask: Callable[[Sample, PictureSet, PictureSet], Any]
    measure: Callable[[Iterable[tuple[Sample, Any]], Judge | None], dict[str, Interval]]
    unknown: str
    hint: str

    def check(self, drawn: PictureSet, reference: PictureSet) -> None:
        """Raises LtError where it is not known of any picture what was asked for."""
        bad = Counter[str]()
        if next(self._asked(drawn, reference, bad), None) is None:
            listed = ", ".join(f"{count:,} {reason}" for reason, count in bad.items()) or "there are none"
            raise LtError(f"{self.unknown} of any picture of {drawn.where} ({listed}).", self.hint)

    def fidelity(
        self, drawn: PictureSet, reference: PictureSet, judge: Judge | None
    ) -> tuple[dict[str, Interval], Counter[str]]:
        """Metrics, and what was passed over. Raises LtError as `check` does."""
        self.check(drawn, reference)
        bad = Counter[str]()
        return self.measure(self._asked(drawn, reference, bad), judge), bad

    def _asked(self, drawn: PictureSet, reference: PictureSet, bad: Counter[str]) -> Iterator[tuple[Sample, Any]]:
        return drawn.asked(lambda sample: self.ask(sample, drawn, reference), bad)


def _edge_fidelity(asked: Iterable[tuple[Sample, np.ndarray]], judge: Judge | None) -> dict[str, Interval]:
    detector = load("edges", "opencv")
    return edge_metrics([edge_scores(detector.edges([sample.picture])[0], wanted) for sample, wanted in asked])


def _edge_map(sample: Sample, drawn: PictureSet, reference: PictureSet) -> np.ndarray:
    """The edges that were asked for, [h, w]. Raises SampleError `no-edge`, `edge-of-another-size`, or what decoding says."""
    if "edge.png" not in sample:
        raise SampleError("no-edge", "there is no edge.png")
    wanted = sample["edge.png"]
    if wanted.shape[:2] != sample.picture.shape[:2]:
        raise SampleError("edge-of-another-size", f"{wanted.shape[1]}x{wanted.shape[0]}")
    return wanted if wanted.ndim == 2 else wanted[..., :3].max(-1)


def _pose_fidelity(
    asked: Iterable[tuple[Sample, tuple[np.ndarray, np.ndarray]]], judge: Judge | None
) -> dict[str, Interval]:
    """`pck`."""
    assert judge
    found, points = [], []
    for group in batched(asked, BATCH):
        found.append(judge.key_points([sample.picture for sample, _ in group]))
        points += [known for _, known in group]
    true, visible = map(np.stack, zip(*points, strict=True))
    return {"pck": pck(np.concatenate(found), true, visible, NEAR)}


def _points(sample: Sample, drawn: PictureSet, reference: PictureSet) -> tuple[np.ndarray, np.ndarray]:
    return true_points(_source(sample, drawn, reference), drawn.own_size[0])


def _caption_fidelity(asked: Iterable[tuple[Sample, Sample]], judge: Judge | None) -> dict[str, Interval]:
    """`said`: percent of the attributes named in the caption that the judge sees, and `said_top_colour` ... of each."""
    assert judge
    pairs = list(asked)
    found = text_accuracy(judge, [sample.picture for sample, _ in pairs], [source for _, source in pairs])
    return {"said" if name == "all" else f"said_{name}": value for name, value in found.items()}


def _figure(sample: Sample, drawn: PictureSet, reference: PictureSet) -> Sample:
    """The figure whose caption it was drawn from: what captions say is known of figures of the built-in world alone."""
    source = _source(sample, drawn, reference)
    try:
        described(source)
    except (KeyError, TypeError) as error:
        raise SampleError("no-figure", f"json.figure is of another shape: {error}") from None
    return source


def text_accuracy(judge: Judge, pictures: Sequence[np.ndarray], samples: Sequence[Sample]) -> dict[str, Interval]:
    """Percent of the attributes that the captions name which the judge sees in the pictures: `all`, and each attribute.

    Args:
        pictures: RGB uint8, one a sample.
        samples: the figures whose captions the pictures were drawn from (the samples that `json.prompt_of` names).

    Returns:
        Bootstrap intervals over pictures. What a picture cannot show (see `described`) does not count; hair, which most
        wordings leave out, never does.

    Raises:
        SampleError: a sample is no figure of the built-in world.
        ValueError: no pictures, or not one a sample.
    """
    seen = judge.attributes(pictures)
    told = [described(sample) for sample in samples]
    counted = np.array([[name in one for name in IN_EVERY_WORDING] for one in told], float)
    right = np.array(
        [[seen[name][row] == one.get(name) for name in IN_EVERY_WORDING] for row, one in enumerate(told)], float
    )
    tops = np.concatenate([right.sum(1, keepdims=True), right], axis=1)
    bottoms = np.concatenate([counted.sum(1, keepdims=True), counted], axis=1)
    return dict(zip(("all", *IN_EVERY_WORDING), resampled(100 * tops, bottoms), strict=True))


def pck(found: np.ndarray, true: np.ndarray, visible: np.ndarray, threshold: float = NEAR) -> Interval:
    """Percent of the visible key points found within `threshold` times the figure's size; bootstrap interval over pictures.

    Args:
        found, true: [n, 17, 2], in one unit.
        visible: bool [n, 17].
        threshold: share of the longer side of the box round the visible key points.

    Raises:
        ValueError: no pictures.
    """
    hits = points_found(found, true, visible, threshold)
    return resampled(100.0 * hits.sum(1), np.asarray(visible, bool).sum(1))[0]


def _source(sample: Sample, drawn: PictureSet, reference: PictureSet) -> Sample:
    """The sample that holds exact key points and attributes: itself, or the one of the reference that its `json.prompt_of` names.

    Raises:
        SampleError: `no-source` if the reference does not have it.
    """
    meta = sample.meta if "json" in sample else {}
    if meta.get("keypoints"):
        return sample
    key = meta.get("prompt_of")
    if not isinstance(key, str) or key not in reference.shards:
        raise SampleError("no-source", f"prompt_of is {key!r}")
    return reference.shards[key]


CONTROLS = {
    "edge": Control(
        _edge_map,
        _edge_fidelity,
        "There is no edge map of the right size",
        "Draw with one (lt sample pangu --controls edge), or leave edge out of --controls.",
    ),
    "pose": Control(
        _points,
        _pose_fidelity,
        "No exact key points are known",
        "Name as --reference the shards that they were drawn from (json.prompt_of), or leave pose out of --controls.",
    ),
    "caption": Control(
        _figure,
        _caption_fidelity,
        "What the caption says is not known",
        "Name as --reference the figures that they were drawn from (json.prompt_of), or leave caption out of --controls.",
    ),
}


def prompted(drawn: PictureSet, encoder: Encoder, bad: Counter[str]) -> Iterator[tuple[Sample, str]]:
    """Pictures with their prompts in the encoder's language. Raises LtError where none has one."""
    asked = drawn.asked(lambda sample: captions_of(sample, encoder.language)[0], bad)
    first = next(asked, None)
    if first is None:
        raise LtError(
            f"No picture of {drawn.where} has a prompt in {encoder.language!r}, the language of --clip.",
            "Name a checkpoint of the prompts' language, or leave --clip out.",
        )
    return chain([first], asked)


def clip_score(drawn: PictureSet, encoder: Encoder) -> tuple[Interval, list[str], Counter[str]]:
    """100 max(similarity, 0) of each picture and its prompt, averaged; the prompts; and what was passed over.

    Similarity is the cosine; with a token-wise head the mean of both directions, each a mean of cosines.

    Source:
        Hessel et al. 2021, "CLIPScore", arXiv 2104.08718, equation 1, with 100 in the place of 2.5.

    Raises:
        LtError: no sample has a prompt in the encoder's language.
    """
    scores, prompts, bad = [], [], Counter[str]()
    for group in batched(prompted(drawn, encoder, bad), BATCH):
        images = encoder.images([encoder.prepared(sample.picture) for sample, _ in group])
        texts = encoder.texts([prompt for _, prompt in group])
        prompts += [prompt for _, prompt in group]
        both = (image_similarity(images, texts) + text_similarity(images, texts)) / 2
        scores.append(100 * torch.diagonal(both).clamp(min=0).double().numpy())
    values = np.concatenate(scores)
    return resampled(values, np.ones(len(values)))[0], prompts, bad
