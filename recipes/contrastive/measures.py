"""What the studies of FILIP and Wukong measure on a trained run: retrieval, localisation, pads, prompts, word order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from lt.datagen.engine.stage import batched
from lt.datagen.shards import Sample, open_shards
from lt.models.nn.contrastive import Features, image_similarity, text_similarity
from lt.recipes.claims import Measured, Measures
from lt.recipes.contrastive.objective import ContrastiveEncoder, ContrastiveObjective
from lt.recipes.evaluate import zero_shot
from lt.recipes.evaluate.bootstrap import resampled
from lt.recipes.evaluate.features import BATCH, Encoder
from lt.recipes.evaluate.localisation import found, on_thing
from lt.recipes.evaluate.retrieval import recalls
from lt.recipes.system import Note
from lt.recipes.training.loader import Examples
from lt.recipes.training.logging import read_log
from lt.recipes.training.objective import Batch
from lt.recipes.training.order import Order
from lt.recipes.training.shards import ShardSet
from lt.recipes.worlds import scenes

TRAIN, TEST, SIZE = 12000, 500, 64


@dataclass(frozen=True)
class Tested:
    """Features of a test set: of pictures and texts as the model compares them, and the batches they came from."""

    images: Features
    texts: Features
    numbers: torch.Tensor
    batches: list[Batch]


def data(note: Note) -> tuple[dict[str, str], str]:
    """Scenes to train on, and scenes whose combinations training never shows."""
    train, test = scenes("train", TRAIN, SIZE, note), scenes("test", TEST, SIZE, note)
    return {"data.train": f"[{train}]", "data.validation": str(test)}, str(test)


def usual(encoder: ContrastiveEncoder, run: Path, test: str) -> Measures:
    """What both studies measure of a run: retrieval, localisation, the time of a step, prompts."""
    tested = run_through(encoder.objective, test)
    found = {**retrieval(tested), **localisation(encoder.objective, tested), **step_seconds(run)}
    return {**found, **prompts(encoder, test)}


@torch.no_grad()
def run_through(objective: ContrastiveObjective, test: str) -> Tested:
    """All usable samples of a test folder, first wordings, no augmentation."""
    shards = ShardSet([test])
    examples = Examples(shards, Order(shards.sizes, window=0), objective.example(), replace=False)
    batches = [examples.fetch(range(first, min(first + BATCH, len(shards)))) for first in range(0, len(shards), BATCH)]
    parts = [objective.encode(batch["image"], batch["tokens"], batch["mask"]) for batch in batches]
    masks = [part[2] for part in parts if part[2] is not None]
    texts = Features(torch.cat([part[1] for part in parts]), torch.cat(masks) if masks else None)
    numbers = torch.cat([batch["text"] for batch in batches])
    return Tested(Features(torch.cat([part[0] for part in parts])), texts, numbers, batches)


def retrieval(tested: Tested) -> Measures:
    """`r1`, the mean of R@1 over both directions, and `image_r1`, `text_r1`, in percent."""
    ranks = recalls(tested.images, tested.texts, tested.numbers)
    first = np.stack([100.0 * (ranks.image_ranks == 0), 100.0 * (ranks.text_ranks == 0)], 1)
    columns = np.concatenate([first.mean(1, keepdims=True), first], 1)
    intervals = resampled(columns, np.ones_like(columns))
    names = ("r1", "image_r1", "text_r1")
    return {name: Measured(i.value, i.error) for name, i in zip(names, intervals, strict=True)}


@torch.no_grad()
def localisation(objective: ContrastiveObjective, tested: Tested) -> Measures:
    """`found` and its `chance`; `pads_won`, percent of the patches on things whose best place in the text is padding."""
    rows, chance, won, patches_on = [], [], 0, 0
    for batch in tested.batches:
        patches, words = objective.dense(batch)
        result = found(patches, words, batch["names"], batch["cells"])
        per_picture = torch.zeros(len(patches), 2)
        per_picture.index_add_(0, result.rows, torch.stack([result.hits, torch.ones_like(result.hits)], 1))
        rows.append(per_picture.numpy())
        chance.append(result.chance)
        on = on_thing(batch["cells"]).any(1)
        best = (patches @ words.transpose(1, 2)).argmax(2)
        pads = ~batch["mask"].gather(1, best)
        won, patches_on = won + int((pads & on).sum()), patches_on + int(on.sum())
    hits = np.concatenate(rows)
    interval = resampled(100 * hits[:, :1], hits[:, 1:])[0]
    return {
        "found": Measured(interval.value, interval.error),
        "chance": Measured(100 * float(torch.cat(chance).mean())),
        "pads_won": Measured(100 * won / max(1, patches_on)),
    }


@torch.no_grad()
def prompts(encoder: Encoder, test: str) -> Measures:
    """Zero-shot top-1 on test scenes with one kind of thing, in percent: by several prompts and by the bare name.

    `ensemble`: FILIP's mean of similarities; `ensemble_tokens`: the mean of the prompts' token vectors, place by place, which the
    paper calls meaningless; `ensemble_votes`: Wukong's rule; `bare`: one prompt, the name alone.
    """
    found = [(s, label) for s in open_shards(test) if (label := zero_shot.label_of(s, encoder.language))]
    known, truth = zero_shot.known_classes([label for _, label in found], None)
    pictures = [encoder.prepared(sample.picture) for sample, _ in found]
    images = Features(torch.cat([encoder.images(part).tokens for part in batched(pictures, BATCH)]))
    templates = zero_shot.read_prompts(encoder.prompts)
    scored = {
        "ensemble": zero_shot.scores(encoder, images, known.names, templates, "mean"),
        "ensemble_votes": zero_shot.scores(encoder, images, known.names, templates, "votes"),
        "ensemble_tokens": _by_mean_tokens(encoder, images, known.names, templates),
        "bare": zero_shot.scores(encoder, images, known.names, ["{}"], "mean"),
    }
    top1 = {name: zero_shot.accuracies(values, truth)["top1"] for name, values in scored.items()}
    return {name: Measured(interval.value, interval.error) for name, interval in top1.items()}


def _by_mean_tokens(encoder: Encoder, images: Features, names: list[str], templates: list[str]) -> torch.Tensor:
    """[pictures, classes] from one text a class whose token vectors are the means over its prompts, place by place."""
    texts = encoder.texts([template.replace("{}", name) for name in names for template in templates])
    tokens = texts.tokens.view(len(names), len(templates), *texts.tokens.shape[1:])
    mask = torch.ones(tokens.shape[:3], dtype=torch.bool)
    if texts.mask is not None:
        mask = texts.mask.view(len(names), len(templates), -1)
    mean = F.normalize((tokens * mask[..., None]).sum(1), dim=-1)
    return image_similarity(images, Features(mean, mask.any(1) if texts.mask is not None else None))


@torch.no_grad()
def word_order(encoder: Encoder, test: str) -> Measures:
    """`order`: percent of scenes of two related things whose true caption fits better than the one with the things exchanged."""
    better = []
    for sample, true, exchanged in _exchangeable(test, encoder.language):
        image = encoder.images([encoder.prepared(sample.picture)])
        fit = text_similarity(image, encoder.texts([true, exchanged]))[0]
        better.append(50.0 * float((fit[0] > fit[1]).float() + (fit[0] >= fit[1]).float()))
    interval = resampled(np.array(better)[:, None], np.ones((len(better), 1)))[0]
    return {"order": Measured(interval.value, interval.error)}


def _exchangeable(test: str, language: str) -> Iterator[tuple[Sample, str, str]]:
    """Scenes of two single things of which a relation is said, their caption, and the caption with the two exchanged."""
    for sample in open_shards(test):
        layers = sample.meta["layers"]
        caption = sample.meta["captions"][language][0]
        said = [layer["caption"][language] for layer in layers]
        if len(layers) == 2 and len(set(said)) == 2 and all(caption.count(phrase) == 1 for phrase in said):
            exchanged = caption.replace(said[0], "\0").replace(said[1], said[0]).replace("\0", said[1])
            yield sample, caption, exchanged


def step_seconds(run: Path) -> Measures:
    """`step_seconds`: the median time that a training step computed."""
    lines = [line["compute_s"] for line in read_log(run, "train") if "compute_s" in line]
    return {"step_seconds": Measured(float(np.median(lines)))} if lines else {}
