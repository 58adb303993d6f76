"""The background, completed under the layers that were taken off.

Writes `background.png`: what the inpainter made under the layers, the photograph elsewhere. Between the two, under the layers'
soft edges and in a rim of `clear` pixels round them, the photograph (under an edge: what shines through) holds a trace of the
layer, such as a sharpening halo, that would stay as an outline. There it is drawn towards the inpainted colours where the
difference is small, as far as the recomposition can bear it. Strong remains outside the layers, such as a shadow or a hair that
the mask missed, stay: they belong to the photograph.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from lt.datagen.engine.stage import model_time
from lt.datagen.shards import Sample, SampleError
from lt.datagen.stages.masks import ExpertStage, disc, to_bytes
from lt.datagen.stages.matte import ALPHA, BEHIND


@dataclass(frozen=True)
class CompleteBackground(ExpertStage):
    """Inpaint what the layers covered, looking only at pixels that stay clear of their edges."""

    inpainter: str = "patches"
    """Backend that fills the hole."""
    clear: float = 4.0
    """Width in pixels of the rim round the layers that the inpainter does not look at."""
    trace: float = 0.08
    """Difference from the inpainted colours, in 0..1, up to which the rim is taken for a trace of the layer."""
    budget: float = 0.009
    """RMS error of the whole picture, in 0..1, that taking traces away may cost; else `trace` is lowered."""
    name: ClassVar[str] = "complete-background"
    kind: ClassVar[str] = "inpainter"

    def process(self, sample: Sample) -> Sample:
        picture, covered = sample.picture, sample[ALPHA].max(axis=0)
        hole = cv2.dilate((covered > 0).astype(np.uint8), disc(self.clear)).astype(bool)
        with model_time():
            (filled,) = self.expert.inpaint([picture], [hole])
        if hole.any() and not filled[hole].any() and picture[~hole].any():
            raise SampleError("empty-inpainting", f"{self.inpainter} left the hole black")
        sample["background.png"] = to_bytes(self._joined(sample[BEHIND], filled.astype(np.float32) / 255, covered))
        return sample

    def _joined(self, behind: np.ndarray, filled: np.ndarray, covered: np.ndarray) -> np.ndarray:
        """The background [h, w, 3] with as little trace of the layers as `budget` allows."""
        for part in (1.0, 0.7, 0.5, 0.3):
            clean = join(behind, filled, covered, self.clear, part * self.trace)
            if np.sqrt(np.mean(((1 - covered)[..., None] * (clean - behind)) ** 2)) <= self.budget:
                return clean
        return join(behind, filled, covered, 0, 0)


def join(behind: np.ndarray, filled: np.ndarray, covered: np.ndarray, clear: float, trace: float) -> np.ndarray:
    """The background [h, w, 3] from the old one, `behind`, and the inpainted one, `filled`, in 0..1.

    `filled` where alpha `covered` [h, w] is 1; `behind`, cleaned of traces, where it is 0, fading in between. A smooth difference
    up to `trace` is a trace and goes, one of twice as much is real and stays. With `trace` 0 all stays.
    """
    through = np.where(covered > 0, (1 - covered) ** 2, 1)[..., None]
    if not trace:
        return through * behind + (1 - through) * filled
    away = cv2.distanceTransform((covered <= 0).astype(np.uint8), cv2.DIST_L2, 3)
    region = ((covered < 1) & (away <= clear)).astype(np.float32)
    weight = np.maximum(cv2.GaussianBlur(region, (0, 0), 1.2), 1e-6)[..., None]
    shift = cv2.GaussianBlur((filled - behind) * region[..., None], (0, 0), 1.2) / weight
    is_trace = np.clip(2 - np.abs(shift).max(axis=2, keepdims=True) / trace, 0, 1)
    near = (region * np.clip(1 - (away - 1) / clear, 0, 1))[..., None]  # 1 at the layer, 0 at the rim's outer end
    cleaned = np.clip(behind + shift * is_trace * near, 0, 1)
    return through * cleaned + (1 - through) * filled
