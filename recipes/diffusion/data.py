"""Shards to their caches, and cached samples to rows: the latent, a caption as token numbers or features."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, Sample, captions_of
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.models.nn.tokenizers import WordTokenizer
from lt.recipes.diffusion.cache import bucket_of, cached, latent_field, picture_stage, text_stage
from lt.recipes.diffusion.settings import DiffusionSettings
from lt.recipes.diffusion.worlds import pattern_of
from lt.recipes.system import Note

SEED = "seed"
"""A number that depends on the sample's key alone: its noise in validation."""


@dataclass(frozen=True)
class Row:
    """A sample of the cache to `latent` float32 [c, h, w], `seed` int64, `caption`, and

    * `tokens` int64 [l], or with frozen encoders `text` float32 [l, d] (from `embed.npy`);
    * where the U-Net reads them, `pooled` float32 [p] (from `pooled.npy`) and `ids` float32 [1], the bucket's number.

    In training the wording is drawn, over both languages; in validation it depends on the key alone.

    Args:
        autoencoder, texts: digests of what must have made the cached tensors; `texts` is "" without frozen encoders.
        tokenizer: of captions, where there are no frozen encoders.
        bucketed: whether latents lie in buckets.
        vector: whether the U-Net reads pooled text and the bucket's number.
    """

    autoencoder: str
    texts: str
    tokenizer: WordTokenizer
    bucketed: bool = False
    vector: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        bucket = bucket_of(sample.fields) if self.bucketed else None
        latent = self.latent(sample, bucket, rng)
        number = number_of(sample.key)
        said = captions_of(sample)
        chosen = int(rng.integers(len(said))) if rng is not None else number % len(said)
        row = {"latent": latent, SEED: number, "caption": said[chosen]}
        if self.texts:
            row["text"] = self._checked(sample, "embed.npy", "embed", self.texts)[chosen].astype(np.float32)
        else:
            row["tokens"] = self.tokenizer([said[chosen]]).ids[0].numpy()
        if self.vector:
            row["pooled"] = sample["pooled.npy"][chosen].astype(np.float32)
            row["ids"] = np.array([bucket], dtype=np.float32)
        return row

    def latent(self, sample: Sample, bucket: int | None, rng: np.random.Generator | None) -> np.ndarray:
        """What of the cached latent is learned, float32 [c, h, w]: all of it, unless a system says otherwise."""
        return self._checked(sample, latent_field(bucket), "latent", self.autoencoder)

    def _checked(self, sample: Sample, field: str, entry: str, digest: str) -> np.ndarray:
        """A cached tensor, if json's `entry` says that the encoder of this digest made it."""
        made_by = (sample.meta.get(entry) or {}).get("model")
        if field not in sample or made_by != digest:
            raise LtError(
                f"{sample.key}.{field} was made by another encoder ({str(made_by)[:12]}, this run has {digest[:12]}).",
                "Name the shards with the pictures as --data: their cache is made anew.",
            )
        return sample[field]


def number_of(key: str) -> int:
    """63 bits of the key's digest."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def prepare(
    settings: DiffusionSettings,
    train: Sequence[str],
    validation: str,
    note: Note,
    *,
    control: str = "",
    name: str = "pictures",
) -> tuple[list[str], str]:
    """The caches of the named shards, made where they are missing: what the loop reads instead of pictures.

    Args:
        control: the control picture that rows need, or "".
        name: of what is trained, for the note.

    Raises:
        LtError: there is no autoencoder or text encoder, or the shards cannot be read.
    """
    model, (side, keep_from) = settings.model, settings.model.kept
    stages: list[Any] = [picture_stage(model.autoencoder, side, side, keep_from, model.buckets, control)]
    if model.text:
        stages.append(text_stage(model.text, model.text_length, bool(model.shape.pooled_width)))
    tests = cached([validation], stages, note) if validation else []
    folders = cached(train, stages, note)
    where = f"in {len(model.buckets)} sizes about" if model.buckets else "at"
    steps = f"t from {model.timesteps[0]} to {model.timesteps[-1]}"
    note(f"  {name}: {_share(folders)} {where} {side} pixels, {steps}")
    return folders, pattern_of(tests) if tests else ""


def _share(folders: Sequence[str]) -> str:
    """`1,200 of 2,000 pictures (rejected: 800 too-small)`."""
    manifests = [Manifest.load(Path(folder) / MANIFEST) for folder in folders]
    rejected: Counter[str] = Counter()
    for manifest in manifests:
        rejected.update(manifest.rejected)
    count = sum(manifest.count for manifest in manifests)
    named = ", ".join(f"{number:,} {reason}" for reason, number in rejected.items())
    return f"{count:,} of {count + rejected.total():,} pictures" + (f" (rejected: {named})" if named else "")
