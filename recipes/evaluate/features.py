"""A trained encoder, and its features of pictures and texts, computed once: cached under LT_HOME by digest.

A cache file's name is the digest of the weights, the data and how pictures were prepared: a stale one cannot be hit.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from lt.datagen.shards import LtError, SampleError
from lt.datagen.shards.storage import TEMP_MARK, digest_of, lt_home
from lt.models.nn.contrastive import Features
from lt.models.nn.device import device as own_device
from lt.recipes.contrastive.objective import ContrastiveObjective, normalised
from lt.recipes.evaluate.readers import Collection
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

_CACHE_VERSION = 1
BATCH = 64


@dataclass(frozen=True)
class Encoder:
    """A contrastive model from a checkpoint, ready to encode. `digest` is that of its weights."""

    objective: ContrastiveObjective
    record: Record
    digest: str
    device: torch.device

    @classmethod
    def load(cls, where: Path) -> "Encoder":
        """From a run's folder (its best checkpoint) or a checkpoint. Raises LtError if it is of another kind."""
        objective, record = checkpoints.restore(where)
        if not isinstance(objective, ContrastiveObjective):
            raise LtError(
                f"{where} is a checkpoint of {record.system}, which has no shared space of pictures and texts."
            )
        device = own_device()
        objective.model.to(device)
        digest = record.files.get("ema.safetensors") or record.files["model.safetensors"]
        return cls(objective, record, digest, device)

    @property
    def language(self) -> str:
        return self.objective.settings.text.language

    @cached_property
    def _example(self):
        return self.objective.example()

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """RGB uint8 [h, w, 3] to what the model takes, uint8 [3, s, s]."""
        return self._example.picture(pixels)

    @torch.no_grad()
    def images(self, pictures: Sequence[np.ndarray]) -> Features:
        """Features of prepared pictures, on the CPU."""
        batch = torch.from_numpy(np.stack(pictures)).to(self.device)
        return Features(self.objective.model.encode_image(normalised(batch)).tokens.float().cpu())

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Features:
        """Features of texts, on the CPU."""
        parts = [self._texts(texts[first : first + BATCH]) for first in range(0, len(texts), BATCH)]
        masks = [part.mask for part in parts if part.mask is not None]
        return Features(torch.cat([part.tokens for part in parts]), torch.cat(masks) if masks else None)

    def _texts(self, texts: Sequence[str]) -> Features:
        ids, mask = self.objective.tokenizer(texts)
        if self.objective.head.count_pads:
            mask = torch.ones_like(mask)
        features = self.objective.model.encode_text(ids.to(self.device), mask.to(self.device))
        return Features(features.tokens.float().cpu(), None if features.mask is None else features.mask.cpu())


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
    identity = [_CACHE_VERSION, encoder.digest, collection.digest, limit, encoder.objective.size, encoder.language]
    path = lt_home() / "features" / f"{digest_of(identity)[:40]}.safetensors"
    stored = load_file(path)["tokens"] if cache and path.is_file() else None
    keys, captions, parts, bad = [], [], [], {}
    for batch in _batches(islice(collection.items, limit), BATCH):
        usable = []
        for item in batch:
            try:
                usable.append(b"" if stored is not None else encoder.prepared(item.picture()))
            except SampleError as error:
                bad[error.reason] = bad.get(error.reason, 0) + 1
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
        _store(path, tokens)
    return Pictures(keys, captions, Features(tokens), {**collection.passed_over, **bad}, False)


def _batches(items: Iterable, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _store(path: Path, tokens: torch.Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + TEMP_MARK)
    save_file({"tokens": tokens.contiguous()}, temporary)
    temporary.replace(path)
