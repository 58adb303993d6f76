"""Cached shards to rows: the latent, a caption as token numbers or features, the control picture."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, Sample, SampleError
from lt.datagen.shards.manifest import MANIFEST, Manifest
from lt.models.nn.control import HINT
from lt.recipes.diffusion.cache import bucket_of, cached, latent_field, picture_stage, text_stage
from lt.recipes.diffusion.controls import STORED
from lt.recipes.diffusion.pictures import channels_first, fitted
from lt.recipes.diffusion.texts import LENGTH, wordings, world_tokenizer
from lt.recipes.diffusion.worlds import build, together
from lt.recipes.pangu.settings import UNETS, PanguSettings
from lt.recipes.registry import Note

SEED = "seed"
"""A number that depends on the sample's key alone: its noise in validation."""


@dataclass(frozen=True)
class Row:
    """A sample of the cache to `latent` float32 [c, h, w], `seed` int64, `caption`, and

    * `tokens` int64 [l], or with frozen encoders `text` float32 [l, d] (from `embed.npy`);
    * where the U-Net reads them, `pooled` float32 [p] (from `pooled.npy`) and `ids` float32 [1], the bucket's number;
    * with a control `hint.<name>` uint8 [3, height, width].

    In training the wording is drawn, over both languages; in validation it depends on the key alone.

    Args:
        autoencoder, texts: digests of what must have made the cached tensors; `texts` is "" without frozen encoders.
        control: name of the control picture, or "".
        window: side of the part of the latent that is cut out, at random in training, else in the middle; 0 = the whole.
        bucketed: whether latents lie in buckets.
        vector: whether the U-Net reads pooled text and the bucket's number.
    """

    autoencoder: str
    texts: str
    control: str = ""
    window: int = 0
    bucketed: bool = False
    vector: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        bucket = bucket_of(sample.fields) if self.bucketed else None
        latent = self._checked(sample, latent_field(bucket), "latent", self.autoencoder)
        latent = windowed(latent, self.window, rng) if self.window else latent
        number = number_of(sample.key)
        said = wordings(sample)
        chosen = int(rng.integers(len(said))) if rng is not None else number % len(said)
        row = {"latent": latent, SEED: number, "caption": said[chosen]}
        if self.texts:
            row["text"] = self._checked(sample, "embed.npy", "embed", self.texts)[chosen].astype(np.float32)
        else:
            row["tokens"] = world_tokenizer()([said[chosen]]).ids[0].numpy()
        if self.vector:
            row["pooled"] = sample["pooled.npy"][chosen].astype(np.float32)
            row["ids"] = np.array([bucket], dtype=np.float32)
        if self.control:
            width, height = sample.meta["latent"]["size"]
            row[HINT + self.control] = hint(sample, self.control, width, height)
        return row

    def _checked(self, sample: Sample, field: str, entry: str, digest: str) -> np.ndarray:
        """A cached tensor, if json's `entry` says that the encoder of this digest made it."""
        made_by = (sample.meta.get(entry) or {}).get("model")
        if field not in sample or made_by != digest:
            raise LtError(
                f"{sample.key}.{field} was made by another encoder ({str(made_by)[:12]}, this run has {digest[:12]}).",
                "Name the shards with the pictures as --data: their cache is made anew.",
            )
        return sample[field]


def windowed(latent: np.ndarray, side: int, rng: np.random.Generator | None) -> np.ndarray:
    """A square of `side` of a latent [c, h, w], drawn or in the middle: [c, side, side]."""
    room = [length - side for length in latent.shape[1:]]
    top, left = (int(rng.integers(free + 1)) if rng is not None else free // 2 for free in room)
    return latent[:, top : top + side, left : left + side]


def hint(sample: Sample, control: str, width: int, height: int) -> np.ndarray:
    """The control picture of a cached sample, uint8 [3, height, width]. Raises SampleError `no-pose`, `no-edge`."""
    name = f"{control}.png"
    if name not in sample:
        raise SampleError(f"no-{control}", f"there is no {name}")
    return channels_first(fitted(sample[name][..., :3] if sample[name].ndim == 3 else sample[name], width, height))


def number_of(key: str) -> int:
    """63 bits of the key's digest."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def world(settings: PanguSettings, note: Note) -> tuple[list[str], str]:
    """Figures and scenes; figures alone where a control picture is needed that scenes do not hold."""
    return build(settings.world, note, only_figures=settings.model.control in STORED)


def prepare(settings: PanguSettings, train: Sequence[str], validation: str, note: Note) -> tuple[list[str], str]:
    """The caches of the named shards, made where they are missing: what the loop reads instead of pictures.

    Raises:
        LtError: there is no autoencoder or text encoder, or the shards cannot be read.
    """
    model, stage = settings.model, settings.model.stage
    (side, keep_from), pooled = model.kept, bool(UNETS[model.unet].pooled_width)
    stages: list[Any] = [picture_stage(model.autoencoder, side, side, keep_from, model.buckets, model.control)]
    if model.text:
        stages.append(text_stage(model.text, model.text_length, pooled))
    tests = cached([validation], stages, note) if validation else []
    folders = cached(train, stages, note)
    where = f"in {len(model.buckets)} sizes about" if model.buckets else "at"
    steps = f"t from {stage.timesteps[0]} to {stage.timesteps[-1]}"
    note(f"  {model.generator}: {_share(folders)} {where} {side} pixels, {steps}")
    return folders, together(tests) if tests else ""


def _share(folders: Sequence[str]) -> str:
    """`1,200 of 2,000 pictures (rejected: 800 too-small)`."""
    manifests = [Manifest.load(Path(folder) / MANIFEST) for folder in folders]
    rejected: Counter[str] = Counter()
    for manifest in manifests:
        rejected.update(manifest.rejected)
    count = sum(manifest.count for manifest in manifests)
    named = ", ".join(f"{number:,} {reason}" for reason, number in rejected.items())
    return f"{count:,} of {count + rejected.total():,} pictures" + (f" (rejected: {named})" if named else "")


def text_length(settings: PanguSettings) -> int:
    """Places for tokens."""
    return settings.model.text_length if settings.model.text else LENGTH
