"""What is to be drawn, as sources of the engine: prompts with their seeds and control pictures, from text, files or shards.

The n-th sample's seed is the run's seed + n, whatever the batch: `--seed 7 --count 1` draws again what was number 7 of seed 0
(with the same prompt).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lt.datagen.shards import LtError, Reject, Sample, SampleError, Shards, UsageError, open_shards
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.datagen.shards.reader import shard_identity
from lt.datagen.shards.storage import digest_of_file
from lt.models.nn.tokenizers import split_words
from lt.models.perception.registry import BackendError, load
from lt.recipes.diffusion.pictures import fitted
from lt.recipes.diffusion.texts import wordings

SHARD_SIZE = 32
"""Samples a shard: what an interrupted run repeats at most."""
_ASPECT = 0.02
"""Aspect ratios may differ so much (as a share) before a control picture would be visibly cut."""


@dataclass(frozen=True)
class PromptSource:
    """`count` samples from prompts in turn, each with the same control pictures.

    Args:
        prompts: texts, none empty.
        count: how many pictures.
        seed: of the first one.
        size: (width, height) of the pictures.
        pictures: pairs of a control's name and the file of its picture.
        photos: the same for photographs, whose control pictures are found in them at the size of the pictures.

    Raises:
        UsageError: an empty prompt.
        LtError: a control picture cannot be read, or has another aspect than the pictures are to have.
    """

    prompts: tuple[str, ...]
    count: int
    seed: int
    size: tuple[int, int]
    pictures: tuple[tuple[str, str], ...] = ()
    photos: tuple[tuple[str, str], ...] = ()
    name: ClassVar[str] = "prompts"

    def __post_init__(self) -> None:
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise UsageError("The prompt is empty.", 'Say what to draw: --prompt "a child in a red shirt"')
        _ = self._controls

    def settings(self) -> dict[str, Any]:
        files = [[control, digest_of_file(file)] for control, file in (*self.pictures, *self.photos)]
        return {
            "prompts": self.prompts,
            "count": self.count,
            "seed": self.seed,
            "pictures": files[: len(self.pictures)],
            "photos": files[len(self.pictures) :],
        }

    def inputs(self) -> list[str]:
        return []

    def licences(self) -> list[str]:
        return []

    def splits(self) -> list[list[int]]:
        return ranges(self.count)

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        for number in range(*split):
            prompt = self.prompts[number % len(self.prompts)]
            fields = {f"{control}.png": picture for control, picture in self._controls.items()}
            yield request(f"pangu-{self.seed}-{number:06d}", prompt, self.seed + number, fields)

    @cached_property
    def _controls(self) -> dict[str, np.ndarray]:
        drawn = {control: self._read_control(control, Path(file)) for control, file in self.pictures}
        found = {control: _detected(control, self._read_control(control, Path(file))) for control, file in self.photos}
        return drawn | found

    def _read_control(self, control: str, file: Path) -> np.ndarray:
        try:
            picture = to_rgb(decode_image(file.read_bytes()))
        except (OSError, SampleError) as error:
            raise LtError(f"Cannot read the {control} picture {file}: {error}.") from None
        if not same_aspect(picture, self.size):
            width, height = self.size
            raise LtError(
                f"The {control} picture is {picture.shape[1]}x{picture.shape[0]}, the pictures are to be {width}x{height}: "
                "another aspect.",
                "Cut one to the other's aspect, or choose --size.",
            )
        return fitted(picture, *self.size)


@dataclass(frozen=True)
class ShardPrompts:
    """The first `count` samples of shards: their captions (first wording) as prompts, their own control pictures.

    Args:
        where: folder, tar, pattern or URL.
        controls: names of the control pictures to take over; a sample without one of them is rejected.
    """

    where: str
    count: int
    seed: int
    size: tuple[int, int]
    controls: tuple[str, ...] = ()
    name: ClassVar[str] = "captions"

    def settings(self) -> dict[str, Any]:
        return {"count": self.count, "seed": self.seed, "controls": self.controls}

    def inputs(self) -> list[str]:
        return [":".join(shard_identity(shard)) for shard in self._shards.shards]

    def licences(self) -> list[str]:
        return list(self._shards.manifest.licences) if self._shards.manifest else []

    def splits(self) -> list[list[int]]:
        return ranges(min(self.count, len(self._shards)))

    def read(self, split: Any) -> Iterator[Sample | Reject]:
        first, end = split
        keys = list(self._shards.keys())[first:end]
        for number, key in enumerate(keys, start=first):
            sample = self._shards[key]
            try:
                fields = {f"{control}.png": self._control(sample, control) for control in self.controls}
                yield request(f"{key}-seed-{self.seed}", wordings(sample)[0], self.seed + number, fields, key)
            except SampleError as error:
                yield Reject.of(sample, error.reason, error.figure, error.detail)

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"parents": [sample.meta["prompt_of"]]}

    def _control(self, sample: Sample, control: str) -> np.ndarray:
        if f"{control}.png" not in sample:
            raise SampleError(f"no-{control}", f"there is no {control}.png")
        picture = to_rgb(sample[f"{control}.png"])
        if not same_aspect(picture, self.size):
            raise SampleError(f"{control}-of-another-aspect", f"{picture.shape[1]}x{picture.shape[0]}")
        return fitted(picture, *self.size)

    @cached_property
    def _shards(self) -> Shards:
        return open_shards(self.where)


def _detected(control: str, photo: np.ndarray) -> np.ndarray:
    """The control picture of a photograph, as the figures world makes its own. Raises LtError if no expert is known for it."""
    if control != "edge":
        raise UsageError(f"No expert here finds the {control} picture of a photograph.", "Known: edge.")
    try:
        (edges,) = load("edges", "opencv").edges([photo])
    except BackendError as error:
        raise LtError(error.message, error.hint) from None
    return edges


def request(key: str, prompt: str, seed: int, fields: Mapping[str, Any], prompt_of: str = "") -> Sample:
    """A sample that waits for its picture: prompt, seed, control pictures."""
    language = "zh" if any("\u3400" <= word <= "\u9fff" for word in split_words(prompt)) else "en"
    meta: dict[str, Any] = {"captions": {language: prompt}, "seed": seed}
    return Sample(key, {**fields, "txt": prompt, "json": meta | ({"prompt_of": prompt_of} if prompt_of else {})})


def same_aspect(picture: np.ndarray, size: Sequence[int]) -> bool:
    """Whether a picture [h, w, ...] has the aspect of (width, height)."""
    return abs(picture.shape[1] * size[1] / (picture.shape[0] * size[0]) - 1) <= _ASPECT


def ranges(count: int) -> list[list[int]]:
    """[first, end) of each shard."""
    return [[first, min(first + SHARD_SIZE, count)] for first in range(0, count, SHARD_SIZE)]


def read_prompts(file: Path) -> list[str]:
    """One prompt a line; empty lines are passed over. Raises LtError if the file cannot be read or holds none."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise LtError(f"Cannot read the prompts {file}: {getattr(error, 'strerror', None) or error}.") from None
    if not any(lines):
        raise LtError(f"{file} holds no prompt.", "Want one prompt a line.")
    return [line for line in lines if line]
