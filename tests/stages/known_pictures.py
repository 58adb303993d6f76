"""Pictures whose layers are known: soft-edged shapes on a smooth background."""

from dataclasses import dataclass

import cv2
import numpy as np

from lt.datagen.shards import Sample


@dataclass
class Known:
    """A picture and what it is made of; alphas and colours lowest first."""

    picture: np.ndarray
    background: np.ndarray
    alphas: list[np.ndarray]
    colours: list[tuple[int, int, int]]


def disc(size, centre, radius, softness=1.5):
    """Alpha [h, w] of a disc whose edge falls from 1 to 0 over about 2 * `softness` pixels."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    distance = np.hypot(rows - centre[1], columns - centre[0]) - radius
    return np.clip(0.5 - distance / (2 * softness), 0, 1)


def smooth_background(size):
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    wave = 12 * np.sin(columns / 17) + 9 * np.cos(rows / 13)
    return np.stack([60 + 0.3 * columns + wave, 120 + 0.2 * rows + wave, 190 - 0.2 * columns + wave], axis=2)


def lay(background, alphas, colours):
    picture = background.copy()
    for alpha, colour in zip(alphas, colours, strict=True):
        picture = alpha[..., None] * np.array(colour, float) + (1 - alpha[..., None]) * picture
    return Known(np.round(picture).astype(np.uint8), np.round(background).astype(np.uint8), alphas, colours)


def run_lengths(mask):
    """COCO's uncompressed run lengths: column order, starting with zeros."""
    flat = np.asarray(mask).flatten(order="F")
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [flat[-1] ^ 1]])))
    counts = np.diff(np.concatenate([[0], changes])).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def instance(number, mask, category="cup", supercategory="kitchen", **more):
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    return {
        "id": number,
        "category": category,
        "supercategory": supercategory,
        "bbox": [x, y, w, h],
        "iscrowd": 0,
        "segmentation": run_lengths(mask.astype(int)),
        **more,
    }


def sample_of(picture, instances, key="a", captions=None):
    meta = {"captions": captions or {"en": ["A cup."]}, "instances": instances}
    return Sample(key, {"png": picture, "json": meta})
