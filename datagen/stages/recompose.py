"""Make background and layers reproduce the photograph, and say how well they do.

With the photograph I, what lies below D (background and lower layers) and a layer's clean colours F, the matting equation
I = a F + (1 - a) D is solved for a by least squares with the matte as prior; what is left goes into F, at most `recolour`. The
matte was found against the old background and D is a guess of it, so alpha has to be found anew against D. Lower layers keep
matte and colours where a higher one covers them.

Writes `layer-00.png` ... (lowest first) and `json.recomposition` {"rms" in 0..1, "psnr_db"}.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from lt.datagen.engine.stage import SampleStage
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import over, psnr, recomposition_error
from lt.datagen.shards.sample import layer_field
from lt.datagen.stages.masks import to_bytes
from lt.datagen.stages.matte import ALPHA, COLOUR


@dataclass(frozen=True)
class SolveLayers(SampleStage):
    """Solve the layers against the completed background; measure the error."""

    stiffness: float = 0.05
    """Pull of the matte on alpha; in squared colour distance, colours in 0..1."""
    leeway: float = 0.2
    """Largest change of alpha."""
    recolour: float = 0.1
    """Largest change of a layer's colour at its edge, 0..1."""
    name: ClassVar[str] = "solve-layers"

    def process(self, sample: Sample) -> Sample:
        picture, alphas, colours = sample.picture, sample[ALPHA], sample[COLOUR]
        below = sample["background.png"].copy()
        layers = []
        for z in range(len(alphas)):
            hidden = (alphas[z + 1 :] > 0).any(axis=0)
            layer = solve_layer(
                picture, below, alphas[z], colours[z], ~hidden, self.stiffness, self.leeway, self.recolour
            )
            over(below, layer)
            sample[layer_field(z)] = layer
            layers.append(layer)
        rms = recomposition_error(picture, sample["background.png"], layers)
        sample.meta["recomposition"] = {"rms": round(rms, 6), "psnr_db": round(min(psnr(rms), 99.0), 2)}
        return sample


def solve_layer(
    picture: np.ndarray,
    below: np.ndarray,
    alpha: np.ndarray,
    colour: np.ndarray,
    free: np.ndarray,
    stiffness: float,
    leeway: float,
    recolour: float,
) -> np.ndarray:
    """The layer uint8 [h, w, 4] that turns `below` into `picture` (uint8 [h, w, 3]) where `free` [h, w].

    `alpha` [h, w] and `colour` [h, w, 3] in 0..1 are the prior. Alpha 0 stays 0; where alpha is 1 the layer is the picture.
    """
    image, behind = picture / np.float32(255), below / np.float32(255)
    contrast = colour - behind
    projected = ((image - behind) * contrast).sum(axis=2) + stiffness * alpha
    solved = projected / ((contrast**2).sum(axis=2) + stiffness)
    solved = np.clip(np.clip(solved, alpha - leeway, alpha + leeway), 0, 1)
    solved = np.where(free & (alpha > 0) & (alpha < 1), solved, alpha)
    solved = np.round(solved * 255) / 255
    rest = image - solved[..., None] * colour - (1 - solved[..., None]) * behind
    shift = np.divide(rest, solved[..., None], out=np.zeros_like(rest), where=solved[..., None] > 0)
    most = np.where(solved >= 1, 1, recolour)[..., None]
    shifted = np.clip(colour + np.where(free[..., None], np.clip(shift, -most, most), 0), 0, 1)
    layer = np.dstack([shifted, solved])
    layer[solved == 0] = 0
    return to_bytes(layer)
