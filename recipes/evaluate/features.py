"""What compares pictures with texts, and its features of pictures, computed once: cached under LT_HOME by digest.

A system is evaluated by retrieval, zero-shot classification and CLIP score when its objective has a method
`encoder(record) -> Encoder`.

A cache file's name is the digest of the weights, the data and how pictures were prepared: a stale one cannot be hit.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file, save

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, SampleError
from lt.datagen.shards.storage import atomic_file, digest_of, lt_home
from lt.models.nn.contrastive import Features
from lt.recipes.evaluate.readers import Collection
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

Rule = Literal["mean", "votes"]
_CACHE_VERSION = 1
BATCH = 64


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


@dataclass(frozen=True)
class Pictures:
    """Features of a collection's pictures, with their keys and captions in the same order; unusable ones are counted."""

    keys: list[str]
    captions: list[list[str]]
    features: Features
    passed_over: dict[str, int]
    from_cache: bool


def encode_pictures(encoder: Encoder, collection: Collection, limit: int | None = None, cache: bool = True) -> Pictures:
    """Features of the first `limit` pictures, from the cache where they are there.

    Raises:
        LtError: no picture could be used.
    """
    identity = [_CACHE_VERSION, encoder.digest, collection.digest, limit, encoder.size, encoder.language]
    path = lt_home() / "features" / f"{digest_of(identity)[:40]}.safetensors"
    stored = load_file(path)["tokens"] if cache and path.is_file() else None
    keys, captions, parts, bad = [], [], [], Counter()
    for batch in batched(islice(collection.items(), limit), BATCH):
        usable = []
        for item in batch:
            try:
                usable.append(b"" if stored is not None else encoder.prepared(item.picture()))
            except SampleError as error:
                bad[error.reason] += 1
                continue
            keys.append(item.key)
            captions.append(list(item.captions))
        if usable and stored is None:
            parts.append(encoder.images(usable).tokens)
    if stored is not None and len(stored) == len(keys):
        return Pictures(keys, captions, Features(stored), {**collection.passed_over}, True)
    if stored is not None:  # the cache holds fewer: some pictures could not be decoded, which only decoding tells
        return encode_pictures(encoder, collection, limit, cache=False)
    if not parts:
        raise LtError(f"No picture of {collection.name} could be used ({bad or 'it is empty'}).")
    tokens = torch.cat(parts)
    if cache:
        store_tensors(path, {"tokens": tokens})
    return Pictures(keys, captions, Features(tokens), {**collection.passed_over, **bad}, False)


def store_tensors(path: Path, tensors: Mapping[str, torch.Tensor], told: Mapping[str, str] | None = None) -> None:
    """Write tensors, and what is told of them, as safetensors: whole or not at all."""
    with atomic_file(path) as file:
        file.write(save({name: value.contiguous() for name, value in tensors.items()}, dict(told or {})))
