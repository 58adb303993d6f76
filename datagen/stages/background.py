"""The background, completed under the layers that were taken off.

Writes `background.png`. Pixels that no layer covers are the photograph's own, to the bit.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import SampleStage, model_time
from lt.datagen.shards import Sample
from lt.datagen.stages.masks import disc, expert
from lt.datagen.stages.matte import ALPHA


@dataclass(frozen=True)
class CompleteBackground(SampleStage):
    """Inpaint what the layers covered, looking only at pixels that stay clear of their edges."""

    inpainter: str = "patches"
    """Backend that fills the hole."""
    clear: float = 4.0
    """Pixels round the layers that are not looked at: they hold a trace of the layers' edges."""
    name: ClassVar[str] = "complete-background"

    def process(self, sample: Sample) -> Sample:
        picture, covered = sample.picture, sample[ALPHA].max(axis=0)
        hole = cv2.dilate((covered > 0).astype(np.uint8), disc(self.clear)).astype(bool)
        with model_time():
            filled = expert("inpainter", self.inpainter).inpaint([picture], [hole])[0]
        sample["background.png"] = feather(picture, filled, covered > 0, self.clear)
        return sample


def feather(picture: np.ndarray, filled: np.ndarray, covered: np.ndarray, width: float) -> np.ndarray:
    """`filled` where `covered`, `picture` elsewhere (uint8 [h, w, 3])."""
    return np.where(covered[:, :, None], filled, picture)
