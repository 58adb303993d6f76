"""What is to be drawn, as sources of the engine: prompts with their seeds and control pictures, from text, files or shards.

The n-th sample's seed is the run's seed + n, whatever the batch: `--seed 7 --count 1` draws again what was number 7 of seed 0
(with the same prompt).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.stage import Source, attempt, ranges
from lt.datagen.shards import LtError, Reject, Sample, SampleError, UsageError, captions_of
from lt.datagen.shards.captions import lines_of, texts_of
from lt.datagen.shards.storage import digest_of_file
from lt.datagen.sources.shards import ShardSource
from lt.models.nn.tokenizers import split_words
from lt.recipes.diffusion.controls import control_picture
from lt.recipes.draw.control_files import EXPERTS, find_in_photo, read_drawn, same_aspect
from lt.recipes.pictures import Size, fitted

SHARD_SIZE = 32
"""Samples a shard: what an interrupted run repeats at most."""


@dataclass(frozen=True)
class PromptSource(Source):
    """`count` samples from prompts in turn, each with the same control pictures.

    Args:
        system: what the keys begin with.
        prompts: texts, none empty.
        seed: of the first one.
        pictures: pairs of a control's name and the file of its picture.
        photos: the same for photographs, whose control pictures are found in them.

    Raises:
        UsageError: an empty prompt.
        LtError: see `control_files`.
    """

    system: str
    prompts: tuple[str, ...]
    count: int
    seed: int
    size: Size
    pictures: tuple[tuple[str, Path], ...] = ()
    photos: tuple[tuple[str, Path], ...] = ()
    name: ClassVar[str] = "prompts"
    made_by: ClassVar[tuple[str, ...]] = EXPERTS

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise UsageError("The prompt is empty.", 'Say what to draw: --prompt "a child in a red shirt"')
        _ = self._controls

    def settings(self) -> dict[str, Any]:
        files = [[control, digest_of_file(file)] for control, file in (*self.pictures, *self.photos)]
        return {
            "system": self.system,
            "prompts": self.prompts,
            "count": self.count,
            "seed": self.seed,
            "pictures": files[: len(self.pictures)],
            "photos": files[len(self.pictures) :],
        }

    def splits(self) -> list[list[int]]:
        return ranges(self.count, SHARD_SIZE)

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        for number in range(*split):
            prompt = self.prompts[number % len(self.prompts)]
            fields = {f"{control}.png": picture for control, picture in self._controls.items()}
            yield request(f"{self.system}-{self.seed}-{number:06d}", prompt, self.seed + number, fields)

    @cached_property
    def _controls(self) -> dict[str, np.ndarray]:
        drawn = {name: fitted(read_drawn(name, file, self.size), *self.size) for name, file in self.pictures}
        return drawn | {name: find_in_photo(name, file, self.size) for name, file in self.photos}


@dataclass(frozen=True)
class ShardPrompts(ShardSource):
    """The first `count` samples of shards: their captions (first wording) as prompts, their own control pictures.

    Args:
        where: folder, tar, pattern or URL.
        controls: names of the control pictures to take over, or to compute (`layout`, `color`); a sample where one of them
            cannot be had is rejected.
    """

    count: int
    seed: int
    size: Size
    controls: tuple[str, ...] = ()
    name: ClassVar[str] = "captions"

    def settings(self) -> dict[str, Any]:
        return {"count": self.count, "seed": self.seed, "controls": self.controls}

    def splits(self) -> list[list[int]]:
        return ranges(self.total, SHARD_SIZE)

    @property
    def total(self) -> int:
        """How many there are to draw: `count`, or all that the shards hold."""
        return min(self.count, len(self._shards))

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample | Reject]]]:
        first, end = split
        keys = list(self._shards.keys())[first:end]
        for number, key in enumerate(keys, start=first):
            yield Sample(key), partial(self._read, key, number)

    def _read(self, key: str, number: int) -> Sample | Reject:
        sample = self._shards[key]
        return attempt(sample, partial(self._request, sample, number))

    def _request(self, sample: Sample, number: int) -> Sample:
        fields = {f"{control}.png": self._control(sample, control) for control in self.controls}
        key = f"{sample.key}-seed-{self.seed}"
        return request(key, captions_of(sample)[0], self.seed + number, fields, sample.key)

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"parents": [sample.meta["prompt_of"]]}

    def _control(self, sample: Sample, control: str) -> np.ndarray:
        picture = control_picture(sample, control, self.size)
        field = f"{control}.png"
        height, width = sample[field if field in sample else sample.picture_field].shape[:2]
        if not same_aspect((height, width), self.size):
            raise SampleError(f"{control}-of-another-aspect", f"{width}x{height}")
        return picture


def request(key: str, prompt: str, seed: int, fields: Mapping[str, Any], prompt_of: str = "") -> Sample:
    """A sample that waits for its picture: prompt, seed, control pictures."""
    language = "zh" if any("\u3400" <= word <= "\u9fff" for word in split_words(prompt)) else "en"
    meta: dict[str, Any] = {"captions": {language: prompt}, "seed": seed}
    return Sample(key, {**fields, "txt": prompt, "json": meta | ({"prompt_of": prompt_of} if prompt_of else {})})


def read_prompts(file: Path) -> list[str]:
    """One prompt a line; empty lines are passed over. Raises LtError if the file cannot be read or holds none."""
    try:
        prompts = texts_of(lines_of(file))
    except (OSError, UnicodeDecodeError) as error:
        raise LtError(f"Cannot read the prompts {file}: {getattr(error, 'strerror', None) or error}.") from None
    if not prompts:
        raise LtError(f"{file} holds no prompt.", "Want one prompt a line.")
    return prompts
