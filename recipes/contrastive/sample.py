"""Word-patch alignment pictures (FILIP, figure 2), and how often a word finds its thing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lt.datagen.shards import LtError, SampleError, UsageError
from lt.datagen.shards.codec import encode_image
from lt.datagen.shards.storage import atomic_file, write_json
from lt.models.nn.device import device
from lt.models.nn.tokenizers import find_phrase
from lt.recipes.contrastive.alignment import Aligned, owners, three_in_a_row, titled
from lt.recipes.contrastive.objective import ContrastiveEncoder
from lt.recipes.contrastive.options import AlignOptions
from lt.recipes.contrastive.settings import test_scenes
from lt.recipes.diffusion.lettering import chinese_font
from lt.recipes.evaluate.bootstrap import Interval, resampled
from lt.recipes.evaluate.features import unknown_to
from lt.recipes.evaluate.localisation import Found, found
from lt.recipes.evaluate.readers import Collection, Item, PassedOver, open_collection
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
    collection = open_collection(data, options.pictures, None if options.prompt else encoder.language)
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
        UsageError: the label does not stand in the prompt.
    """
    if not encoder.objective.grid:
        raise LtError(f"The image tower of {encoder.record.system} has no square grid of patches to draw on.")
    if prompt and label and not find_phrase(encoder.objective.tokenizer, prompt, label):
        raise UsageError(f"{label!r} does not stand in the prompt {prompt!r}.", "--label names words of --prompt.")
    if encoder.objective.model.config.head != "tokens":
        note(
            "  this model was not trained token by token: what follows are its projections applied to every patch and word"
        )
    if encoder.language == "zh" and not chinese_font():
        note("  no font with Chinese characters on this machine: legends show boxes; alignment.json holds the words")
    drawn, records, parts, texts, bad = [], [], [], [], PassedOver()
    for item in islice(collection.items(), limit):
        try:
            row = _row(encoder, item, prompt, label)
        except SampleError as error:
            bad.add(error.reason, item.key)
            continue
        texts.append(row["text"])
        patches, words = _dense(encoder, row)
        parts.append(found(patches, words, row["names"], row["cells"]))
        if len(drawn) < count:
            pieces = encoder.objective.tokenizer.pieces(row["text"])
            aligned = Aligned.of(row["image"][0], pieces, patches[0], words[0])
            drawn.append(titled(aligned.drawn(owners(row["names"][0])), f"{item.key}: {row['text']}"))
            records.append({"key": item.key, "text": row["text"], "words": pieces, "best": aligned.best.tolist()})
            _write(out / f"{item.key.replace('/', '_')}.png", drawn[-1])
    passed_over = collection.passed_over | bad
    if not drawn:
        raise LtError(f"No sample of {collection.name} could be used: {str(passed_over) or 'there is none'}.")
    if passed_over.counts:
        note(f"  passed over: {passed_over}")
    unknown_to(encoder, [prompt] if prompt else texts, note)
    _write(out / "alignment.png", three_in_a_row(drawn))
    things = sum(len(part.hits) for part in parts)
    result = Alignment([str(out / "alignment.png")], *_score(parts), things, len(parts))
    model = {"system": encoder.record.system, "step": encoder.record.step, "digest": encoder.digest}
    data = {"name": collection.name, "digest": collection.digest(limit)}
    write_json(out / "alignment.json", {**result.as_json(), "model": model, "data": data, "samples_drawn": records})
    return result


def _score(parts: Sequence[Found]) -> tuple[Interval | None, float | None]:
    sums = [[float(part.hits.sum()), float(part.chance.sum()), len(part.hits)] for part in parts if len(part.hits)]
    if not sums:
        return None, None
    columns = np.array(sums)
    interval, chance = resampled(100 * columns[:, :2], columns[:, [2, 2]])
    return interval, chance.value


def _row(encoder: ContrastiveEncoder, item: Item, prompt: str | None, label: str | None) -> dict[str, Any]:
    """A batch of one picture; its text beside."""
    tokenizer, text = encoder.objective.tokenizer, prompt or item.captions[0]
    things = encoder.example.things(None if label else item.sample, text)
    if label:
        things["names"][0, find_phrase(tokenizer, text, label)] = True
    arrays = {"image": encoder.prepared(item.picture()), **things}
    tensors = {name: torch.from_numpy(value)[None] for name, value in arrays.items()}
    return {**tensors, "tokens": tokenizer([text])[0], "text": text}


@torch.no_grad()
def _dense(encoder: ContrastiveEncoder, row: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    patches, words = encoder.objective.dense({name: row[name].to(device()) for name in ("image", "tokens")})
    return patches.cpu(), words.cpu()


def _write(path: Path, picture: np.ndarray) -> None:
    with atomic_file(path) as file:
        file.write(encode_image(picture, "png"))
