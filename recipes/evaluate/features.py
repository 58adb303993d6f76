"""What compares pictures with texts, and its features of pictures, computed once: cached under LT_HOME by digest.

A system is evaluated by retrieval, zero-shot classification and CLIP score when its objective has a method
`encoder(record) -> Encoder`.

A cache file's name is the digest of weights, model settings, the pictures themselves and how they were prepared: no stale one can
be hit.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, SampleError
from lt.datagen.shards.storage import atomic_file, digest_of, lt_home
from lt.models.nn.contrastive import Features
from lt.recipes.evaluate.readers import Collection, PassedOver
from lt.recipes.system import Note
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

Rule = Literal["mean", "votes"]
_CACHE_VERSION = 2
"""Goes up when pictures are read or prepared otherwise."""
BATCH = 64
_NAMED = 20
"""Unknown words that are named."""


@dataclass
class Encoder:
    """A trained model that brings pictures and texts into one space; each may be one vector or several.

    Args:
        record: of its checkpoint.
        language: of the captions that it was trained with: `en` or `zh`.
        size: side in pixels of the pictures that it looks at.
        resize: how others are brought to it, in words.
        prompts: the list of prompts for zero-shot classification where the user names none, see `zero_shot.read_prompts`.
        rule: how the prompts of a class are put together in the paper, see `zero_shot`.
    """

    record: Record
    language: str
    size: int
    resize: str
    prompts: str
    rule: Rule

    @property
    def digest(self) -> str:
        """Of its weights: those of the moving average where its checkpoint has them."""
        files = self.record.files
        return files.get("ema.safetensors") or files["model.safetensors"]

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """RGB uint8 [h, w, 3] to an array of a fixed shape: what `images` takes."""
        raise NotImplementedError

    def images(self, pictures: Sequence[np.ndarray]) -> Features:
        """Features of prepared pictures, on the CPU."""
        raise NotImplementedError

    def texts(self, texts: Sequence[str]) -> Features:
        """Features of any number of texts, on the CPU."""
        raise NotImplementedError

    def unknown(self, texts: Iterable[str]) -> tuple[float, list[str]]:
        """Which share (0..1) of the texts' words it was never taught, and these words, the most frequent first."""
        return 0.0, []


def load_encoder(where: Path) -> Encoder:
    """From a run's folder (its best checkpoint) or a checkpoint, of any system whose objective has an encoder.

    Raises:
        LtError: it has none, or there is no checkpoint.
    """
    objective, record = checkpoints.restore(where)
    encoder = getattr(objective, "encoder", None)
    if encoder is None:
        raise LtError(f"{where} is a checkpoint of {record.system}, which has no shared space of pictures and texts.")
    return encoder(record)


def unknown_to(encoder: Encoder, texts: Iterable[str], note: Note) -> dict[str, Any]:
    """The share (0..1) of the texts' words that the encoder was never taught, and the most frequent ones; said aloud as well."""
    share, words = encoder.unknown(texts)
    if words:
        more = " ..." if len(words) > _NAMED else ""
        note(f"  {100 * share:.3g} % of the words are unknown to the model: {', '.join(words[:_NAMED])}{more}")
    return {"share": share, "words": words[:_NAMED]}


@dataclass(frozen=True)
class Pictures:
    """Features of those of a collection's first pictures that could be read: `rows` are their numbers among these.

    Captions stand in the same order. `digest` is that of the data that was looked at.
    """

    rows: list[int]
    captions: list[tuple[str, ...]]
    features: Features
    digest: str
    passed_over: PassedOver
    from_cache: bool


def encode_pictures(encoder: Encoder, collection: Collection, limit: int | None = None, cache: bool = True) -> Pictures:
    """Features of the first `limit` pictures, from the cache where they are there.

    Raises:
        LtError: no picture could be used.
    """
    digest = collection.digest(limit)
    model = {name: value for name, value in encoder.record.settings.items() if name.startswith("model.")}
    identity = [_CACHE_VERSION, encoder.digest, model, encoder.size, digest, collection.language, limit]
    path = lt_home() / "features" / f"{digest_of(identity)[:40]}.safetensors"
    stored = _stored(path) if cache and path.is_file() else None
    tokens, rows, bad = stored or _encoded(encoder, collection, limit)
    items = [item.captions for item in islice(collection.items(), limit)]
    passed_over = collection.passed_over | bad
    if tokens is None:
        raise LtError(f"No picture of {collection.name} could be used: {str(passed_over) or 'there is none'}.")
    if cache and not stored:
        told = {"passed_over": json.dumps(asdict(bad))}
        store_tensors(path, {"tokens": tokens, "rows": torch.tensor(rows)}, told)
    return Pictures(rows, [items[row] for row in rows], Features(tokens), digest, passed_over, bool(stored))


def _stored(path: Path) -> tuple[Tensor | None, list[int], PassedOver]:
    with safe_open(path, "pt") as file:
        bad = PassedOver(**json.loads(file.metadata()["passed_over"]))
        return file.get_tensor("tokens"), file.get_tensor("rows").tolist(), bad


def _encoded(
    encoder: Encoder, collection: Collection, limit: int | None
) -> tuple[Tensor | None, list[int], PassedOver]:
    """Tokens of all readable pictures (None where there is none), their numbers, and what could not be read."""
    parts, rows, bad = [], [], PassedOver()
    for batch in batched(enumerate(islice(collection.items(), limit)), BATCH):
        usable = []
        for number, item in batch:
            try:
                usable.append(encoder.prepared(item.picture()))
                rows.append(number)
            except SampleError as error:
                bad.add(error.reason, item.key)
        if usable:
            parts.append(encoder.images(usable).tokens)
    return torch.cat(parts) if parts else None, rows, bad


def store_tensors(path: Path, tensors: Mapping[str, Tensor], told: Mapping[str, str] | None = None) -> None:
    """Write tensors, and what is told of them, as safetensors: whole or not at all."""
    with atomic_file(path) as file:
        file.write(save({name: value.contiguous() for name, value in tensors.items()}, dict(told or {})))
