"""Alignment pictures in the style of FILIP's figure 2: on every patch the number of its best word, patches of names highlighted.

Letters: s picture side, g patches along one side, n = g^2, L places for tokens, d width of the shared space.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from lt.datagen.engine.stage import batched
from lt.models.filip import word_of_patch
from lt.models.nn.contrastive import Features
from lt.recipes.diffusion.lettering import font
from lt.recipes.pictures import sheet

CELL = 40
"""Side of a drawn patch in pixels."""
_COLOURS = ((230, 25, 75), (0, 130, 200), (60, 160, 60), (245, 130, 48), (145, 30, 180), (0, 150, 150), (128, 100, 0))


@dataclass(frozen=True)
class Aligned:
    """A picture uint8 [s, s, 3], the words of its text's real places, and for each patch the place of its best word [g, g]."""

    picture: np.ndarray
    words: list[str]
    best: np.ndarray

    @classmethod
    def of(cls, image: Tensor, words: list[str], patches: Tensor, places: Tensor) -> "Aligned":
        """From a picture uint8 [3, s, s], the words of real places, and unit vectors of patches [n, d] and places [L, d]."""
        mask = torch.arange(len(places), device=places.device)[None] < len(words)
        best, _ = word_of_patch(patches, Features(places[None], mask))
        grid = round(len(patches) ** 0.5)
        return cls(image.permute(1, 2, 0).cpu().numpy(), words, best.view(grid, grid).cpu().numpy())

    def drawn(self, things: Sequence[int]) -> np.ndarray:
        """The picture uint8 [h, w, 3]: patches whose best word names a thing keep their colours, others fade.

        Below stands the text, every word with its number.

        Args:
            things: for each place the number of the thing that its word names, or -1; each thing has a colour of its own.
        """
        owner = [*things, *([-1] * len(self.words))]
        grid = len(self.best)
        side = grid * CELL
        full = Image.fromarray(self.picture).resize((side, side), Image.Resampling.NEAREST)
        page = Image.blend(full, Image.new("RGB", full.size, "white"), 0.7)
        draw = ImageDraw.Draw(page)
        for row, column in np.ndindex(grid, grid):
            word = int(self.best[row, column])
            box = (column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL)
            if owner[word] >= 0:
                page.paste(full.crop(box), box[:2])
                draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=_colour(owner[word]), width=2)
            centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            ink = _colour(owner[word], (110, 110, 110))
            draw.text(centre, str(word), ink, font(CELL * 0.45), "mm", stroke_width=3, stroke_fill="white")
        return sheet([[np.asarray(page)], [np.asarray(self._legend(side, owner))]], gap=0)

    def _legend(self, width: int, owner: Sequence[int]) -> Image.Image:
        letters, height, margin = font(15), 22, 6
        lines: list[list[tuple[float, str, int]]] = [[]]
        x = float(margin)
        for number, word in enumerate(self.words):
            text = f"{number} {word}"
            length = letters.getlength(text) + 14
            if x + length > width and lines[-1]:
                lines.append([])
                x = float(margin)
            lines[-1].append((x, text, owner[number]))
            x += length
        image = Image.new("RGB", (width, len(lines) * height + 8), "white")
        draw = ImageDraw.Draw(image)
        for row, line in enumerate(lines):
            for x, text, thing in line:
                draw.text((x, 4 + row * height), text, _colour(thing, (0, 0, 0)), letters)
        return image


def owners(names: Tensor) -> list[int]:
    """For each place the number of the thing whose name it belongs to, or -1; `names` is bool [things, L]."""
    return torch.where(names.any(0), names.int().argmax(0), -1).tolist()


def three_in_a_row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Alignment pictures on one sheet."""
    return sheet(list(batched(pictures, 3)), gap=16)


def titled(picture: np.ndarray, text: str) -> np.ndarray:
    """The picture with a line of text above it, wrapped to its width."""
    letters, width = font(15), picture.shape[1]
    chinese = any("\u3400" <= letter <= "\u9fff" for letter in text)
    per_line = max(8, int(width / (letters.getlength("汉" if chinese else "n") + 0.5)))
    lines = textwrap.wrap(text, per_line) or [""]
    head = Image.new("RGB", (width, 8 + 20 * len(lines)), "white")
    draw = ImageDraw.Draw(head)
    for number, line in enumerate(lines):
        draw.text((4, 4 + 20 * number), line, font=letters, fill="black")
    return sheet([[np.asarray(head)], [picture]], gap=0)


def _colour(thing: int, otherwise: tuple[int, int, int] = (0, 0, 0)) -> tuple[int, int, int]:
    return _COLOURS[thing % len(_COLOURS)] if thing >= 0 else otherwise
