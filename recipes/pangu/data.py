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
from lt.recipes.diffusion.cache import cached, picture_stage, text_stage
from lt.recipes.diffusion.pictures import channels_first, fitted
from lt.recipes.diffusion.texts import LENGTH, wordings, world_tokenizer
from lt.recipes.diffusion.worlds import build, together
from lt.recipes.pangu.settings import PanguSettings
from lt.recipes.registry import Note

SEED = "seed"
"""A number that depends on the sample's key alone: its noise in validation."""


@dataclass(frozen=True)
class Row:
    """A sample of the cache to `latent` float32 [c, h, w], `seed` int64, `caption`, and

    * `tokens` int64 [l], or with frozen encoders `text` float32 [l, d] (from `embed.npy`);
    * with a control `hint.<name>` uint8 [3, size, size].

    In training the wording is drawn, over both languages; in validation it depends on the key alone.

    Args:
        autoencoder, texts: digests of what must have made the cached tensors; `texts` is "" without frozen encoders.
        size: side of the picture in pixels.
        control: name of the control picture, or "".
    """

    autoencoder: str
    texts: str
    size: int
    control: str = ""

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        self._check(sample, "latent", self.autoencoder)
        number = number_of(sample.key)
        said = wordings(sample)
        chosen = int(rng.integers(len(said))) if rng is not None else number % len(said)
        row = {"latent": sample["latent.npy"], SEED: number, "caption": said[chosen]}
        if self.texts:
            self._check(sample, "embed", self.texts)
            row["text"] = sample["embed.npy"][chosen].astype(np.float32)
        else:
            row["tokens"] = world_tokenizer()([said[chosen]]).ids[0].numpy()
        if self.control:
            row[HINT + self.control] = hint(sample, self.control, self.size)
        return row

    def _check(self, sample: Sample, name: str, digest: str) -> None:
        made_by = (sample.meta.get(name) or {}).get("model")
        if f"{name}.npy" not in sample or made_by != digest:
            raise LtError(
                f"{sample.key}.{name}.npy was made by another encoder ({str(made_by)[:12]}, this run has {digest[:12]}).",
                "Name the shards with the pictures as --data: their cache is made anew.",
            )


def hint(sample: Sample, control: str, size: int) -> np.ndarray:
    """The control picture of a sample, uint8 [3, size, size]. Raises SampleError `no-pose`, `no-edge`."""
    name = f"{control}.png"
    if name not in sample:
        raise SampleError(f"no-{control}", f"there is no {name}")
    return channels_first(fitted(sample[name][..., :3] if sample[name].ndim == 3 else sample[name], size, size))


def number_of(key: str) -> int:
    """63 bits of the key's digest."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big") >> 1


def world(settings: PanguSettings, note: Note) -> tuple[list[str], str]:
    """Figures and scenes; figures alone where a control picture is needed."""
    return build(settings.world, note, only_figures=bool(settings.model.control))


def prepare(settings: PanguSettings, train: Sequence[str], validation: str, note: Note) -> tuple[list[str], str]:
    """The caches of the named shards, made where they are missing: what the loop reads instead of pictures.

    Raises:
        LtError: there is no autoencoder or text encoder, or the shards cannot be read.
    """
    model, stage = settings.model, settings.model.stage
    stages: list[Any] = [picture_stage(model.autoencoder, stage.size, stage.size, stage.keep_from)]
    if model.text:
        stages.append(text_stage(model.text, model.text_length))
    tests = cached([validation], stages, note) if validation else []
    folders = cached(train, stages, note)
    note(
        f"  {model.generator}: {_share(folders)} at {stage.size} pixels, t from {stage.timesteps[0]} to {stage.timesteps[-1]}"
    )
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
