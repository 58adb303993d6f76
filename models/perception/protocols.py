"""What each kind of expert takes and gives. Batch first: lists of RGB pictures in, one result for each out.

Letters: h, w = height, width in pixels; pictures are uint8 RGB [h, w, 3]; masks are bool [h, w]; a box is (x, y, width,
height) in pixels, floats allowed, x to the right and y down from the upper left corner.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """One thing found: the phrase that named it, its box, and a score in 0..1."""

    phrase: str
    box: Box
    score: float


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in a text: characters `start:end`, its head noun as a lemma, and whether it means several things."""

    text: str
    start: int
    end: int
    head: str
    plural: bool


@runtime_checkable
class Detector(Protocol):
    """Finds, in each picture, what the phrases for that picture name."""

    def detect(self, images: Sequence[np.ndarray], phrases: Sequence[Sequence[str]]) -> list[list[Detection]]: ...


@runtime_checkable
class Segmenter(Protocol):
    """The mask [h, w] of the main thing in each box of each picture, in the order of the boxes."""

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]]) -> list[list[np.ndarray]]: ...


@runtime_checkable
class Captioner(Protocol):
    """A sentence for each picture."""

    def caption(self, images: Sequence[np.ndarray]) -> list[str]: ...


@runtime_checkable
class Inpainter(Protocol):
    """Fills each picture where its mask is true; everywhere else the result equals the picture to the bit."""

    def inpaint(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@runtime_checkable
class EdgeDetector(Protocol):
    """Edges of each picture as uint8 [h, w]: 255 on an edge, else 0."""

    def edges(self, images: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@runtime_checkable
class PoseEstimator(Protocol):
    """COCO-17 key points of the people in each picture, the surest first: [people, 17, 3] as (x, y, visibility) in pixels.

    Visibility as in COCO: 0 not in the picture (x = y = 0), 1 hidden, 2 seen. Left and right are the person's own.
    """

    def poses(self, images: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@runtime_checkable
class EntityParser(Protocol):
    """The noun phrases of each text, from left to right."""

    def parse(self, texts: Sequence[str]) -> list[list[Phrase]]: ...
