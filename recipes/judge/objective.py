"""The judge as a recipe: key points and attributes of the built-in figures, from their pictures.

It is a recipe, not a loop of its own, so that it resumes, logs, refuses other data and stores its settings and digests like every
system. Training pictures are blurred and roughened a little, since drawn pictures are to be judged that are not as clean, and
half of them are mirrored: the world holds pairs of an action's side and a colour out of training, and a judge must not read the
side from the colour.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from pydantic import Field
from torch import Tensor

from lt.datagen.pose import COCO_KEYPOINTS
from lt.datagen.shards import LtError, Sample, SampleError
from lt.datagen.sources.figure_traits import SIDES
from lt.datagen.worlds import WORLDS
from lt.models.nn.judge import JudgeNet, found_points, spread
from lt.recipes.config import Section, Settings
from lt.recipes.pictures import channels_first, fitted, to_signed
from lt.recipes.registry import Recipe
from lt.recipes.system import Note
from lt.recipes.training.objective import Batch, Metrics, Objective, Report
from lt.recipes.worlds import figures

TRAITS = WORLDS["figures"].traits
ATTRIBUTES, IN_EVERY_WORDING = TRAITS.ATTRIBUTES, TRAITS.IN_EVERY_WORDING
NEAR = 0.1
"""Share of the figure's size within which a key point counts as found."""
UNSEEN = -1
"""The label of an attribute that a picture cannot show."""
_BLUR, _ROUGH = 0.8, 8.0  # pixels; of 255
_SWAP = {"left": "right", "right": "left"}
_OTHER_SIDE = [
    COCO_KEYPOINTS.index("_".join(_SWAP.get(word, word) for word in name.split("_"))) for name in COCO_KEYPOINTS
]


class ModelSettings(Section):
    """The network."""

    size: int = Field(default=64, ge=32, multiple_of=16)
    """Side of the pictures in pixels: others are scaled and cut to it."""
    widths: tuple[int, int, int] = (32, 64, 128)
    """Channels at a quarter, an eighth and a sixteenth of the side."""
    features: int = Field(default=64, ge=1)
    """Width of the features that Fréchet and kernel distances are taken of."""
    attributes: float = Field(default=1.0, gt=0)
    """Weight of the attributes' loss beside that of the key points."""


class WorldSettings(Section):
    """The built-in figures that are made when no data is named."""

    figures: int = Field(default=8000, ge=1)
    """Training figures."""
    test: int = Field(default=500, ge=1)
    """Test figures, of combinations that training never shows."""


class JudgeSettings(Settings):
    """Settings of `lt train judge`."""

    model: ModelSettings = ModelSettings()
    world: WorldSettings = WorldSettings()


@dataclass(frozen=True)
class Row:
    """A figure to `image` uint8 [3, s, s], `points` float32 [17, 3] (x and y as shares of the side, visibility) and `labels`
    int64 [attributes]. A sample that is no figure, or no square one, is refused.
    """

    size: int

    def __call__(self, sample: Sample, rng: np.random.Generator | None) -> dict[str, Any]:
        told, points = TRAITS.described(sample), exact_points(sample)
        image = channels_first(fitted(sample.picture, self.size, self.size))
        labels = [values.index(told[name]) if name in told else UNSEEN for name, values in ATTRIBUTES.items()]
        row = {"image": image, "points": points, "labels": np.array(labels)}
        if rng is None:
            return row
        row = mirrored(row) if rng.random() < 0.5 else row
        return {**row, "image": roughened(row["image"], rng)}


def exact_points(sample: Sample) -> np.ndarray:
    """The key points of a sample's first person: float32 [17, 3], x and y as shares of the side, visibility 0 | 1 | 2.

    Raises:
        SampleError: `no-key-points`, `not-square`.
    """
    meta = sample.meta if "json" in sample else {}
    people, width, height = (meta.get(name) for name in ("keypoints", "width", "height"))
    if not people:
        raise SampleError("no-key-points", "json.keypoints names no person")
    if width != height:
        raise SampleError("not-square", f"{width}x{height}")
    try:
        return np.array(people[0], np.float32).reshape(len(COCO_KEYPOINTS), 3) / np.array(
            [width, height, 1], np.float32
        )
    except (TypeError, ValueError, KeyError) as error:  # foreign json
        raise SampleError("no-key-points", f"json.keypoints is of another shape: {error}") from None


def mirrored(row: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The row of the mirrored picture: left and right change places in key points and labels too."""
    points, labels = row["points"][_OTHER_SIDE].copy(), row["labels"].copy()
    points[:, 0] = 1 - points[:, 0]
    for place, values in enumerate(ATTRIBUTES.values()):
        if values == SIDES:
            labels[place] = SIDES.index(_SWAP.get(SIDES[labels[place]], ""))
    return {"image": np.ascontiguousarray(row["image"][:, :, ::-1]), "points": points, "labels": labels}


def roughened(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur and noise of random strength, none in a third of all cases: uint8 [3, s, s]."""
    strength = float(rng.uniform(-0.5, 1))
    if strength <= 0:
        return image
    blurred = Image.fromarray(image.transpose(1, 2, 0)).filter(ImageFilter.GaussianBlur(_BLUR * strength))
    noise = _ROUGH * strength * rng.standard_normal(image.shape, np.float32)
    return np.clip(np.asarray(blurred).transpose(2, 0, 1) + noise, 0, 255).round().astype(np.uint8)


class JudgeObjective(Objective):
    """Cross-entropy of heat maps and attributes; held-out accuracies in validation."""

    def __init__(self, settings: JudgeSettings):
        model = settings.model
        self.settings = settings
        classes = [len(values) for values in ATTRIBUTES.values()]
        self.modules = {"judge": JudgeNet(len(COCO_KEYPOINTS), classes, model.widths, model.features)}

    @property
    def judge(self) -> JudgeNet:
        return cast(JudgeNet, self.modules["judge"])

    def example(self) -> Row:
        return Row(self.settings.model.size)

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        looked, points, labels = self.judge(to_signed(batch["image"])), batch["points"], batch["labels"]
        wanted = spread(points[..., :2], self.settings.model.size // 4)
        there = points[..., 2] > 0
        heat = F.cross_entropy(looked.heat.flatten(0, 1), wanted.flatten(0, 1), reduction="none").view_as(there)
        heat_loss = (heat * there).sum() / there.sum().clamp(min=1)
        pairs = zip(looked.logits, labels.T, strict=True)
        told = torch.stack([F.cross_entropy(logits, label, ignore_index=UNSEEN) for logits, label in pairs]).nansum()
        return heat_loss + self.settings.model.attributes * told, {"heat": heat_loss, "attributes": told}

    def validate(self, batches: Iterable[Batch]) -> Report:
        """Percent of attributes right (each, all, and those that every caption says) and of key points found (seen ones, hidden
        ones); the score is the lower of what captions say and the seen points.
        """
        right, known, found, points = [], [], [], []
        for batch in batches:
            looked = self.judge(to_signed(batch["image"]))
            right.append(torch.stack([logits.argmax(1) for logits in looked.logits], 1) == batch["labels"])
            known.append(batch["labels"] != UNSEEN)
            found.append(found_points(looked.heat))
            points.append(batch["points"])
        if not right:
            raise LtError("The validation set has no figures.", "Name another one: --set data.validation=DIR.")
        rights, knowns, founds, true = (torch.cat(parts).cpu().numpy() for parts in (right, known, found, points))
        said = [name in IN_EVERY_WORDING for name in ATTRIBUTES]
        seen, hidden = true[..., 2] == 2, true[..., 2] == 1
        metrics = {
            "attributes": _percent(rights, knowns),
            "said": _percent(rights, knowns & said),
            "pck": _percent(points_found(founds, true[..., :2], seen), seen),
            "pck_hidden": _percent(points_found(founds, true[..., :2], seen | hidden), hidden),
            **{name: _percent(rights[:, i], knowns[:, i]) for i, name in enumerate(ATTRIBUTES)},
        }
        return Report(metrics, min(metrics["said"], metrics["pck"]))


def points_found(found: np.ndarray, true: np.ndarray, visible: np.ndarray, threshold: float = NEAR) -> np.ndarray:
    """Which key points lie within `threshold` times the figure's size of the true ones; the size is the longer side of the box
    round the true visible points.

    Source:
        Yang and Ramanan 2013, "Articulated human detection with flexible mixtures of parts", section 6.2 (PCK).

    Args:
        found, true: [n, p, 2], in one unit.
        visible: bool [n, p]: which true points there are.

    Returns:
        bool [n, p], False where a point is not visible.
    """
    there = np.asarray(visible, bool)
    highest = np.where(there[:, :, None], true, -np.inf).max(1)
    lowest = np.where(there[:, :, None], true, np.inf).min(1)
    size = np.maximum(highest - lowest, 0).max(1)  # 0 where no point is visible
    return there & (np.linalg.norm(found - true, axis=-1) <= threshold * size[:, None])


def _percent(right: np.ndarray, counted: np.ndarray) -> float:
    return 100 * float((right & counted).sum()) / max(1, int(counted.sum()))


def world(settings: JudgeSettings, note: Note) -> tuple[list[str], str]:
    """Figures alone."""
    size, made = settings.model.size, settings.world
    return [str(figures("train", made.figures, size, note))], str(figures("test", made.test, size, note))


RECIPE = Recipe("judge", JudgeSettings, JudgeObjective, world, Path(__file__).parent)
