"""Latents and text features, computed once: shards with `latent.npy` and `embed.npy` in the user's cache folder.

Where pictures are brought to one of several sizes (buckets), a latent's field tells its bucket: `latent-05.npy`.

    [folder] = cached(["data/figures-train"], (EncodePictures(...), EncodeTexts(...)), note)

The folder's name is the digest of the whole run: the source's bytes, the encoders' weights, the sizes, and the code. Whatever
changes, the name is another one, so a stale cache cannot be hit; the engine refuses a folder whose manifest says otherwise; and
each sample says which encoder made it (`json.latent`, `json.embed`), which training compares with its own.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from lt.datagen.cores import cores
from lt.datagen.engine.plan import make_plan
from lt.datagen.engine.stage import Pipeline, Stage, batched, model_time
from lt.datagen.shards import LtError, Reject, Sample, SampleError, captions_of, open_shards
from lt.datagen.shards.storage import lt_home
from lt.datagen.sources.shards import ShardSource
from lt.models.nn.device import device
from lt.models.pangu import SizeBuckets
from lt.recipes.devices import run_to_end
from lt.recipes.diffusion import autoencoders
from lt.recipes.diffusion.autoencoders import Located
from lt.recipes.diffusion.controls import COMPUTED, control_picture
from lt.recipes.diffusion.texts import encode_texts, load_text_encoders, text_digest
from lt.recipes.pictures import Size, channels_first, fitted, to_signed

KEPT = ("json", "txt", "pose.png", "edge.png")
"""Fields that go into the cache beside the tensors; pictures and layers stay in the source."""
_BUCKET = re.compile(r"latent-(\d\d)\.npy")
_NOT_KEPT = ("layers", "recomposition")
_MANY = 4000
"""So many samples are worth the start of worker processes."""


def latent_field(bucket: int | None) -> str:
    """The field of a latent: `latent.npy`, in buckets `latent-05.npy`."""
    return "latent.npy" if bucket is None else f"latent-{bucket:02d}.npy"


def bucket_of(fields: Collection[str]) -> int:
    """The bucket of a cached sample, by its fields' names. Raises LtError if it has none."""
    for name in fields:
        if match := _BUCKET.fullmatch(name):
            return int(match[1])
    raise LtError("These shards hold no latents in buckets.", "Name the shards with the pictures as --data.")


@dataclass(frozen=True)
class EncodePictures:
    """The picture's latent as `latent.npy`, float32 [c, height / f, width / f] (the posterior's mode, scaled).

    With several sizes each picture goes to that of the nearest aspect, and its field is `latent-NN.npy` with the size's index.
    A control picture that is computed is made at the same size, as `layout.png` or `color.png`.

    Args:
        folder, digest: of the autoencoder, see `autoencoders.locate`.
        sizes: (width, height) in pixels that pictures are brought to: scaled until covered, the middle cut out.
        keep_from: pictures whose shorter side is less are rejected as `too-small`; 0 = small ones are enlarged.
        control: `layout` or `color` to make that control picture; samples that lack what it shows are rejected.
        batch: pictures at once.
    """

    folder: str
    digest: str
    sizes: tuple[Size, ...]
    keep_from: int = 0
    control: str = ""
    batch: int = 32
    name: ClassVar[str] = "latents"
    on_device: ClassVar[bool] = True
    made_by: ClassVar[tuple[str, ...]] = (
        "lt.recipes.vae.objective:VaeObjective.ready",
        "lt.models.nn.autoencoder:small_autoencoder",
    )
    not_made_by: ClassVar[tuple[str, ...]] = ("lt.recipes.vae",)

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for group in batched(samples, self.batch):
            yield from self._encoded([self._prepared(sample) for sample in group])

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"model": self.digest}

    def _prepared(self, sample: Sample) -> tuple[Sample, np.ndarray] | Reject:
        try:
            picture = sample.picture
            bucket = SizeBuckets(self.sizes).nearest(picture.shape[1], picture.shape[0])
            size = self.sizes[bucket]
            made = {f"{self.control}.png": control_picture(sample, self.control, size)} if self.control else {}
        except SampleError as error:
            return Reject.of(sample, error.reason, error.figure, error.detail)
        short = min(picture.shape[:2])
        if short < self.keep_from:
            return Reject.of(sample, "too-small", short, f"shorter side {short}, want {self.keep_from} pixels")
        slim = Sample(sample.key, {name: sample[name] for name in KEPT if name in sample} | made)
        for name in _NOT_KEPT:
            slim.meta.pop(name, None)
        enlarged = picture.shape[1] < size[0] or picture.shape[0] < size[1]
        slim.meta["latent"] = {"model": self.digest, "size": list(size), "enlarged": enlarged}
        if len(self.sizes) > 1:
            slim.meta["latent"]["bucket"] = bucket
        return slim, channels_first(fitted(picture, *size))

    def _encoded(self, rows: list[tuple[Sample, np.ndarray] | Reject]) -> Iterator[Sample | Reject]:
        good = [row for row in rows if not isinstance(row, Reject)]
        for shape in dict.fromkeys(picture.shape for _, picture in good):
            alike = [row for row in good if row[1].shape == shape]
            latents = self._latents([picture for _, picture in alike])
            for (sample, _), latent in zip(alike, latents, strict=True):
                sample[latent_field(sample.meta["latent"].get("bucket"))] = latent
        yield from (row if isinstance(row, Reject) else row[0] for row in rows)

    @torch.no_grad()
    def _latents(self, pictures: list[np.ndarray]) -> np.ndarray:
        with model_time():
            space = autoencoders.load(Located(self.folder, self.digest)).to(device())
            pixels = torch.from_numpy(np.stack(pictures)).to(device())
            return space.encode(to_signed(pixels)).float().cpu().numpy()


@dataclass(frozen=True)
class EncodeTexts:
    """The features of every wording of the caption as `embed.npy`, float16 [k, length, d]; `json.embed.texts` says of which.

    Args:
        folders, digest: of the frozen encoders, see `texts.text_digest`.
        length: places for tokens.
        pooled: also write `pooled.npy`, float16 [k, p], see `texts.encode_texts`.
    """

    folders: tuple[str, ...]
    digest: str
    length: int
    pooled: bool = False
    name: ClassVar[str] = "texts"
    on_device: ClassVar[bool] = True

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for sample in samples:
            try:
                texts = captions_of(sample)
            except SampleError as error:
                yield Reject.of(sample, error.reason, error.figure, error.detail)
                continue
            with model_time():
                encoders = load_text_encoders(self.folders, self.length, self.digest)
                for encoder in encoders:
                    encoder.model.to(device())
                features = encode_texts(encoders, texts, self.pooled)
            sample["embed.npy"] = features["text"].half().cpu().numpy()
            if self.pooled:
                sample["pooled.npy"] = features["pooled"].half().cpu().numpy()
            sample.meta["embed"] = {"model": self.digest, "texts": texts}
            yield sample

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"model": self.digest}


def picture_stage(
    autoencoder: str, width: int, height: int, keep_from: int = 0, buckets: Sequence[Size] = (), control: str = ""
) -> EncodePictures:
    """The stage for the autoencoder that lies in a folder now: pictures of `width` x `height`, or of the buckets' sizes.

    Args:
        control: of the run; one that shards hold is taken over as it is, one that is computed is made here.

    Raises:
        LtError: there is no autoencoder.
    """
    found = autoencoders.locate(autoencoder)
    sizes = tuple(buckets) or ((width, height),)
    return EncodePictures(found.folder, found.digest, sizes, keep_from, control if control in COMPUTED else "")


def text_stage(folders: Sequence[str], length: int, pooled: bool = False) -> EncodeTexts:
    """The stage for the text encoders that lie in these folders now. Raises LtError if one is missing."""
    return EncodeTexts(tuple(folders), text_digest(folders), length, pooled)


def cached(sources: Sequence[str], stages: Sequence[Stage], note: Callable[[str], None]) -> list[str]:
    """Folders of cached shards, one a source (folder, tar, pattern or URL), made where they are missing.

    Raises:
        LtError: a source cannot be read, or tasks failed.
    """
    return [_cached(Pipeline("latents", ShardSource(where), tuple(stages)), where, note) for where in sources]


def _cached(pipeline: Pipeline, where: str, note: Callable[[str], None]) -> str:
    folder = lt_home() / "latents" / make_plan(pipeline).digest[:32]
    alone = torch.accelerator.is_available() or len(open_shards(where)) < _MANY
    report = run_to_end(pipeline, folder, 0 if alone else cores())
    if report.done:
        note(f"  caches {report.count:,} latents of {where[:80]} in {folder} ({report.seconds:.0f} s)")
    return str(folder)
