"""A sample of any shards to one row of a batch: the picture, the tokens of one caption, and where its things are.

Letters: s picture side in pixels, L places for tokens, n patches.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.shards import Sample, captions_of
from lt.models.nn.tokenizers import TextTokenizer
from lt.recipes.evaluate.retrieval import text_number
from lt.recipes.evaluate.things import MAX_THINGS, things_of
from lt.recipes.pictures import channels_first, fitted

_LEAST_AREA = 0.9  # of a random crop


@dataclass(frozen=True)
class Pair:
    """A sample to `image` uint8 [3, s, s], `tokens` int64 [L], `mask` bool [L] and `text` int64, the caption's number.

    With a generator (training) the caption is drawn among the stored wordings and the picture augmented. Without (validation)
    the first wording is taken and told as `caption`, and two more rows say where its things are, for the localisation score:
    `names` bool [MAX_THINGS, L], the tokens of each thing's name, and `cells` float32 [MAX_THINGS, n], which part of
    each patch the thing covers (all 0 where the sample knows of no things).

    Args:
        size: s.
        grid: patches along one side; n = grid^2; 0 = no localisation rows.
        tokenizer: of the texts.
        language: `en` or `zh`.
        any_wording: draw the wording; otherwise always the first.
        augment: none | crop | autoaugment.
        scaled: in training, decode JPEGs no larger than is needed.
    """

    size: int
    grid: int
    tokenizer: TextTokenizer
    language: str = "en"
    any_wording: bool = True
    augment: str = "none"
    scaled: bool = False

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> Mapping[str, Any]:
        wordings = captions_of(sample, self.language)
        drawn = int(rng.integers(len(wordings))) if rng is not None and self.any_wording else 0
        caption = wordings[drawn]
        least = math.ceil(self.size / (_LEAST_AREA**0.5 if self.augment == "crop" else 1))
        image = sample.image(least if rng is not None and self.scaled else 0)
        row: dict[str, Any] = {"image": self.picture(image, rng), **self._tokens(caption)}
        if rng is None and self.grid:
            row |= {"caption": caption, **self.things(sample, caption)}
        return row

    def picture(self, image: np.ndarray | Image.Image, rng: np.random.Generator | None = None) -> np.ndarray:
        """RGB uint8 [h, w, 3] to uint8 [3, s, s]: shorter side to s (bicubic), centre crop; augmented with a generator."""
        if rng is not None and self.augment != "none":
            image = _augmented(image if isinstance(image, Image.Image) else Image.fromarray(image), rng, self.augment)
        return channels_first(fitted(image, self.size, self.size))

    def _tokens(self, caption: str) -> dict[str, Any]:
        ids, mask = self.tokenizer([caption])
        return {"tokens": ids[0].numpy(), "mask": mask[0].numpy(), "text": text_number(caption)}

    def things(self, sample: Sample | None, caption: str) -> dict[str, np.ndarray]:
        """`names` and `cells` of a sample that knows its things; without one, of no things."""
        names = np.zeros((MAX_THINGS, self.tokenizer.length), bool)
        cells = np.zeros((MAX_THINGS, self.grid**2), np.float32)
        found = things_of(sample, self.language, caption, self.tokenizer) if sample is not None else ()
        for row, thing in enumerate(found):
            names[row, thing.places] = True
            cells[row] = cover(thing.mask, self.size, self.grid).ravel()
        return {"names": names, "cells": cells}


def cover(mask: np.ndarray, size: int, grid: int) -> np.ndarray:
    """Which part (0..1) of each patch a mask bool [h, w] covers, after the resize and crop that pictures get: [grid, grid]."""
    scaled = fitted(mask.astype(np.uint8) * 255, size, size, Image.Resampling.BOX).astype(np.float32)
    patch = size // grid
    return scaled.reshape(grid, patch, grid, patch).mean((1, 3)) / 255


def _augmented(image: Image.Image, rng: np.random.Generator, how: str) -> Image.Image:
    if how == "crop":
        side = rng.uniform(_LEAST_AREA, 1) ** 0.5
        width, height = max(1, round(image.width * side)), max(1, round(image.height * side))
        left, top = (int(rng.integers(room + 1)) for room in (image.width - width, image.height - height))
        return image.crop((left, top, left + width, top + height))
    import torch
    from torchvision.transforms import AutoAugment

    with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
        torch.manual_seed(int(rng.integers(2**63 - 1)))
        return AutoAugment()(image)
