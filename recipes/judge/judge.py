"""The trained judge of the world `figures`: attributes, key points and features of pictures.

    judge = Judge.load()                                  # trained on the first call, found again later
    judge.attributes(pictures)["top_colour"]              # ["red", "blue" ...]

It is an extractor for miniatures: its distances are no FID and compare with nothing but themselves.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from lt.datagen.engine.code import code_of
from lt.datagen.shards import LtError, Sample
from lt.datagen.shards.storage import digest_of, lt_home
from lt.datagen.sources import figure_traits
from lt.datagen.sources.figure_traits import ATTRIBUTES
from lt.datagen.sources.figures import FiguresSource
from lt.models.nn import judge as network
from lt.models.nn.device import device
from lt.models.nn.judge import Looked, found_points
from lt.recipes.config import flat
from lt.recipes.judge import objective
from lt.recipes.judge.objective import JudgeObjective
from lt.recipes.pictures import channels_first, fitted, to_signed
from lt.recipes.system import Note
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.loop import train
from lt.recipes.training.plan import is_finished, make_plan

_BATCH = 64


@dataclass(frozen=True)
class Judge:
    """A trained judge. `digest` is that of its weights; `record` holds its held-out accuracies."""

    objective: JudgeObjective
    record: Record
    digest: str
    name: str = "world judge"
    distances: tuple[str, str] = ("world_frechet", "world_kernel")

    @classmethod
    def load(cls, note: Note = print) -> "Judge":
        """The judge with the settings of its card; trained first (minutes on one core) if it is not under LT_HOME yet.

        Its folder is named by the digest of the settings and of the code of network and world: a stale one cannot be met.

        Raises:
            LtError: its training was stopped.
        """
        plan = make_plan(objective.RECIPE, "tiny")
        code = code_of(FiguresSource, network, figure_traits, objective)
        out = lt_home() / "judge" / digest_of([flat(plan.settings), FiguresSource(1).inputs(), code])[:16]
        plan = replace(plan, out=out)
        if not is_finished(plan):
            note(f"The world's judge is not trained yet; it will be kept in {out}.")
            if train(plan, note).status == "stopped":
                raise LtError("Stopped while the world's judge was trained.", "The same command continues.")
        return cls.open(out)

    @classmethod
    def open(cls, where: Path) -> "Judge":
        """From a run of `lt train judge` or a checkpoint. Raises LtError if it is of another kind."""
        trained, record = checkpoints.restore(where)
        if not isinstance(trained, JudgeObjective):
            raise LtError(f"{where} is a checkpoint of {record.system}, not a judge.", "Train one: lt train judge")
        trained.judge.to(device())
        return cls(trained, record, record.files["model.safetensors"])

    @property
    def resize(self) -> str:
        size = self.objective.settings.model.size
        return f"bicubic, shorter side to {size}, centre crop"

    def features(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """Features float32 [n, d] of RGB pictures uint8 [h, w, 3]."""
        return torch.cat([looked.features for looked in self._looked(pictures)]).numpy()

    def attributes(self, pictures: Sequence[np.ndarray]) -> dict[str, list[str]]:
        """The value of every attribute (see `ATTRIBUTES`) in each picture."""
        guesses = [[part.argmax(1) for part in looked.logits] for looked in self._looked(pictures)]
        columns = [torch.cat(parts).tolist() for parts in zip(*guesses, strict=True)]
        named = zip(ATTRIBUTES.items(), columns, strict=True)
        return {name: [values[index] for index in column] for (name, values), column in named}

    def key_points(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """COCO-17 key points [n, 17, 2], (x, y) in pixels of each picture. A point that is not there is somewhere all the same.

        Raises:
            LtError: a picture is not square.
        """
        for picture in pictures:
            if picture.shape[0] != picture.shape[1]:
                raise LtError(
                    f"The judge finds key points in square pictures, this one is {picture.shape[1]}x{picture.shape[0]}."
                )
        sides = np.array([picture.shape[1] for picture in pictures], np.float64)
        shares = torch.cat([found_points(looked.heat) for looked in self._looked(pictures)]).numpy()
        return shares * sides[:, None, None]

    @torch.no_grad()
    def _looked(self, pictures: Sequence[np.ndarray]) -> Iterator[Looked]:
        size = self.objective.settings.model.size
        for first in range(0, len(pictures), _BATCH):
            part = [channels_first(fitted(picture, size, size)) for picture in pictures[first : first + _BATCH]]
            looked = self.objective.judge(to_signed(torch.from_numpy(np.stack(part)).to(device())))
            yield Looked(looked.heat.cpu(), tuple(logits.cpu() for logits in looked.logits), looked.features.cpu())


def true_points(sample: Sample, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A figure's exact key points in a square picture of side `size`: [17, 2], and which of them are seen: bool [17].

    Raises:
        SampleError: `no-key-points`, `not-square`.
    """
    points = objective.exact_points(sample)
    return points[:, :2] * size, points[:, 2] == 2
