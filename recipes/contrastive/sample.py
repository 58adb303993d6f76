"""Word-patch alignment pictures (FILIP, figure 2), and how often a word finds its thing.

result = align(ContrastiveEncoder.load(Path("runs/filip-tiny")), collection, Path("samples/filip"))
"""

from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.datagen.shards import LtError, SampleError
from lt.datagen.shards.codec import encode_image
from lt.datagen.shards.storage import atomic_file, write_json
from lt.models.nn.device import device
from lt.models.nn.tokenizers import find_phrase
from lt.recipes.contrastive.alignment import Aligned, chinese_font, owners, three_in_a_row, titled
from lt.recipes.contrastive.objective import ContrastiveEncoder
from lt.recipes.contrastive.options import AlignOptions
from lt.recipes.contrastive.pairs import cover
from lt.recipes.contrastive.settings import test_scenes
from lt.recipes.evaluate.bootstrap import Interval, resampled
from lt.recipes.evaluate.localisation import found
from lt.recipes.evaluate.readers import Collection, Item, open_collection
from lt.recipes.evaluate.things import MAX_THINGS, things_of
from lt.recipes.shipped import located, or_shipped
from lt.recipes.system import Answer, Note


@dataclass(frozen=True)
class Alignment:
    """`found`: percent of named things whose name's best patch lies on them, None where the data knows no things."""

    pictures: list[str]
    found: Interval | None
    chance: float | None
    things: int
    samples: int

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "found": self.found._asdict() if self.found else None}


def sample(system: str, options: AlignOptions, note: Note) -> Answer:
    """`lt sample filip` and `lt sample wukong`. Raises LtError where there is no model, see also `align`."""
    where = options.checkpoint or Path(or_shipped(f"runs/{system}-tiny"))
    if not located(where).exists():
        raise LtError(f"{where} is not there.", f"Train it first: lt train {system}")
    encoder = ContrastiveEncoder.load(where)
    data = options.data or str(test_scenes(encoder.objective.settings, note))
    note(f"{system}: {where} (step {encoder.record.step:,}) on {device().type}; data {data}")
    collection = open_collection(data, options.pictures, encoder.language)
    out = options.out or Path("samples") / system
    result = align(encoder, collection, out, options.prompt, options.label, options.count, options.limit, note)
    if result.found:
        note(
            f"Words find their things: {result.found.value:.1f} % ({result.found.low:.1f} to {result.found.high:.1f}; "
            f"chance {result.chance:.1f} %) of {result.things:,} things in {result.samples:,} pictures."
        )
    return Answer(result.as_json(), result.pictures)


filip, wukong = partial(sample, "filip"), partial(sample, "wukong")


def align(
    encoder: ContrastiveEncoder,
    collection: Collection,
    out: Path,
    prompt: str | None = None,
    label: str | None = None,
    count: int = 6,
    limit: int = 500,
    note: Note = print,
) -> Alignment:
    """Draw the first `count` samples into `out` and score the first `limit`.

    Args:
        prompt: this text for every picture; otherwise each sample's first caption.
        label: words of the prompt to highlight; otherwise the names of the things that a sample with layers shows.

    Raises:
        LtError: the model has no grid of patches, no sample could be used, or nothing can be written.
    """
    if not encoder.objective.grid:
        raise LtError(f"The image tower of {encoder.record.system} has no square grid of patches to draw on.")
    if encoder.objective.model.config.head != "tokens":
        note(
            "  this model was not trained token by token: what follows are its projections applied to every patch and word"
        )
    if encoder.language == "zh" and not chinese_font():
        note("  no font with Chinese characters on this machine: legends show boxes; alignment.json holds the words")
    drawn, records, hits, chances, things = [], [], [], [], 0
    samples = 0
    for item in islice(collection.items(), limit):
        try:
            row = _row(encoder, item, prompt, label)
        except SampleError:
            continue
        samples += 1
        patches, words = _dense(encoder, row)
        result = found(patches, words, row["names"][None], row["cells"][None])
        if len(result.hits):
            hits.append([float(result.hits.sum()), float(result.chance.sum())])
            things += len(result.hits)
            chances.append(len(result.hits))
        if len(drawn) < count:
            aligned = Aligned.of(row["image"], encoder.objective.tokenizer.pieces(row["text"]), patches[0], words[0])
            picture = titled(aligned.drawn(owners(row["names"])), f"{item.key}: {row['text']}")
            drawn.append(picture)
            records.append(
                {"key": item.key, "text": row["text"], "words": aligned.words, "best": aligned.best.tolist()}
            )
            _write(out / f"{item.key.replace('/', '_')}.png", picture)
    if not drawn:
        raise LtError(f"No sample of {collection.name} could be used.")
    _write(out / "alignment.png", three_in_a_row(drawn))
    interval, chance = _score(hits, chances)
    result = Alignment([str(out / "alignment.png")], interval, chance, things, samples)
    model = {"system": encoder.record.system, "step": encoder.record.step, "digest": encoder.digest}
    data = {"name": collection.name, "digest": collection.digest}
    write_json(out / "alignment.json", {**result.as_json(), "model": model, "data": data, "samples_drawn": records})
    return result


def _score(hits: list[list[float]], things: list[int]) -> tuple[Interval | None, float | None]:
    if not hits:
        return None, None
    bottom = np.repeat(np.array(things, float)[:, None], 2, 1)
    interval, chance = resampled(100 * np.array(hits), bottom)
    return interval, chance.value


def _row(encoder: ContrastiveEncoder, item: Item, prompt: str | None, label: str | None) -> dict[str, Any]:
    objective = encoder.objective
    text = prompt or item.captions[0]
    ids, _ = objective.tokenizer([text])
    names = torch.zeros(MAX_THINGS, ids.shape[1], dtype=torch.bool)
    cells = torch.zeros(MAX_THINGS, objective.grid**2)
    image = torch.from_numpy(encoder.prepared(item.picture()))
    if label:
        names[0, find_phrase(objective.tokenizer, text, label)] = True
    elif item.sample is not None:
        for number, thing in enumerate(things_of(item.sample, encoder.language, text, objective.tokenizer)):
            names[number, thing.places] = True
            cells[number] = torch.from_numpy(cover(thing.mask, objective.size, objective.grid).ravel())
    return {"image": image, "tokens": ids, "text": text, "names": names, "cells": cells}


@torch.no_grad()
def _dense(encoder: ContrastiveEncoder, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = {"image": row["image"][None].to(device()), "tokens": row["tokens"].to(device())}
    patches, words = encoder.objective.dense(batch)
    return patches.cpu(), words.cpu()


def _write(path: Path, picture: np.ndarray) -> None:
    with atomic_file(path) as file:
        file.write(encode_image(picture, "png"))
