"""What is to be edited: pictures, from files or shards, as requests that hold source, mask, instruction and seed."""

import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.stage import Source
from lt.datagen.shards import LtError, Reject, Sample, SampleError, UsageError
from lt.datagen.shards.captions import main_caption
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.datagen.shards.sample import safe_key
from lt.datagen.shards.storage import digest_of_file
from lt.datagen.sources.folder import FolderSource
from lt.datagen.sources.pictures import PICTURE_SUFFIXES
from lt.datagen.sources.shards import ShardSource

Box = tuple[int, int, int, int]


def source_of(where: str, limit: int | None = None) -> Source:
    """A picture, a folder of pictures, or shards. Raises LtError where there is none of these."""
    path = Path(where)
    if not path.exists() and not re.search(r"://|\{", where):
        raise LtError(
            f"There is no {where}.", "Name a picture, a folder of pictures, or shards (folder, tar, pattern, URL)."
        )
    if path.suffix.lower() in PICTURE_SUFFIXES or (path.is_dir() and not any(path.glob("*.tar"))):
        return FolderSource(path, limit)
    return ShardSource(where)


def box_of(text: str) -> Box:
    """(x, y, width, height) of `8,8,32,16`. Raises UsageError where it says something else."""
    if not re.fullmatch(r"\d+(,\d+){3}", text):
        raise UsageError(f"--box {text}: want X,Y,WIDTH,HEIGHT in pixels.", "Example: --box 8,8,32,16")
    x, y, width, height = map(int, text.split(","))
    return x, y, width, height


@dataclass(frozen=True)
class Requests:
    """A sample with a picture to a request for every instruction: `source.png`, `mask.png`, `txt`, `json.edit`.

    Rejects: `no-instruction`, `mask-size`, `empty-mask`.

    Args:
        instructions: what to change; none = the sample's own caption.
        seed: of the editor.
        mask: a file, or a box; None = the sample's `mask.png`, else everything.
    """

    instructions: tuple[str, ...]
    seed: int
    mask: str | Box | None = None
    name: ClassVar[str] = "requests"

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for sample in samples:
            try:
                yield from self._requests(sample)
            except SampleError as error:
                yield Reject.of(sample, error.reason, error.figure, error.detail)

    def _requests(self, sample: Sample) -> list[Sample]:
        said = self.instructions or tuple(filter(None, [main_caption(sample)]))
        source = sample.picture
        mask = self._mask(sample, source)
        if not said:
            raise SampleError("no-instruction", "there is no --instruction and no caption")
        if mask.shape != source.shape[:2]:
            size, wanted = ("x".join(map(str, shape[1::-1])) for shape in (mask.shape, source.shape))
            raise SampleError("mask-size", f"the mask is {size}, the picture {wanted}")
        if not mask.any():
            raise SampleError("empty-mask", "the mask is black: nothing may change")
        fields = {"source.png": source, "mask.png": mask}
        keys = [safe_key(f"{sample.key}-{number}") for number in range(len(said))] if len(said) > 1 else [sample.key]
        return [
            Sample(key, fields | {"txt": text, "json": self._told(sample, text)})
            for key, text in zip(keys, said, strict=True)
        ]

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"mask": digest_of_file(self.mask)} if isinstance(self.mask, str) else {}

    def _told(self, sample: Sample, instruction: str) -> dict[str, Any]:
        meta = sample.meta if "json" in sample else {}
        kept = {
            name: deepcopy(meta[name]) for name in ("source", "lineage") if name in meta
        }  # each request goes on by itself
        return kept | {"edit": {"instruction": instruction, "seed": self.seed, "parent": sample.key}}

    def _mask(self, sample: Sample, source: np.ndarray) -> np.ndarray:
        """uint8 [h, w], 255 where the source may change."""
        if isinstance(self.mask, tuple):
            x, y, width, height = self.mask
            mask = np.zeros(source.shape[:2], np.uint8)
            mask[y : y + height, x : x + width] = 255
            return mask
        if self.mask:
            return _grey(decode_image(Path(self.mask).read_bytes()))
        return _grey(sample["mask.png"]) if "mask.png" in sample else np.full(source.shape[:2], 255, np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture if picture.ndim == 2 else to_rgb(picture, ground=0).max(2)
