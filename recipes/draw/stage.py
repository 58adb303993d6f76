"""Drawing into shards: requests, see prompts.py, become samples with pictures.

source = PromptSource("base", ("a child in a red shirt",), count=4, seed=0, size=(64, 64))
run_pipeline(Pipeline("base", source, (Draw(locate_pipeline("models/sd15"), (), 64, 64),)), out, workers=0)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from lt.datagen.engine.stage import batched, model_time
from lt.datagen.shards import Reject, Sample, SampleError, UsageError
from lt.datagen.shards.storage import digest_of
from lt.recipes.config import nearest
from lt.recipes.diffusion.controls import control_picture
from lt.recipes.draw.painters import Painter, PainterFiles, open_painter
from lt.recipes.pictures import Size, to_picture


@dataclass(frozen=True)
class Draw:
    """Fill in the picture (`png`) of every request, from its prompt, seed and control pictures. Rejects: `not-finite`.

    A system that draws otherwise derives from it: its `name` and `drawn`, and `painters` where several draw.

    Args:
        painter: who draws; the lead where others draw along.
        controls: names of the control pictures to follow; each goes to every painter that has such a branch.
        width, height: of the pictures.
        steps, guidance: of sampling.
        batch: pictures at once; it does not change them beyond the rounding of sums.
    """

    painter: PainterFiles
    controls: tuple[str, ...]
    width: int
    height: int
    steps: int = 40
    guidance: float = 6.0
    batch: int = 8
    name: ClassVar[str] = "draw"
    on_device: ClassVar[bool] = True

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for group in batched(samples, self.batch):
            with model_time():
                drawn = self.drawn(group)
            for sample, pixels in zip(group, drawn, strict=True):
                try:
                    sample["png"] = to_picture(pixels)
                except SampleError as error:
                    yield Reject.of(sample, error.reason, error.figure, error.detail)
                    continue
                made = {"width": self.width, "height": self.height, "source": {"name": f"lt sample {self.name}"}}
                sample.meta.update(made)
                yield sample

    def lineage(self, sample: Sample) -> dict[str, Any]:
        return {"model": digest_of([files.digest for files, _ in self.painters]), "seed": sample.meta["seed"]}

    @property
    def size(self) -> Size:
        return self.width, self.height

    @property
    def painters(self) -> list[tuple[PainterFiles, Size]]:
        """Everyone who draws, with the size of what they draw; the lead first."""
        return [(self.painter, self.size)]

    def check(self) -> None:
        """Open the painters and see whether they can do what is wanted.

        Raises:
            LtError: see `open_painter`.
            UsageError: a control that none of them has; a size that one of them cannot draw.
        """
        opened = [(open_painter(files), size) for files, size in self.painters]
        known = sorted({control for painter, _ in opened for control in painter.controls})
        for control in self.controls:
            if control not in known:
                hint = nearest(control, known) or f"Train one: lt train {self.name} --control {control}"
                raise UsageError(f"No control branch {control!r} here.", hint)
        for painter, size in opened:
            _check_size(painter, size)

    def drawn(self, group: Sequence[Sample], **how: Any) -> Tensor:
        """The pictures of some requests, [b, 3, height, width] in about -1..1; `how`: further arguments of `Painter.draw`."""
        painter = open_painter(self.painter)
        prompts, seeds = [sample["txt"] for sample in group], [sample.meta["seed"] for sample in group]
        how |= {"guidance": self.guidance, "hints": self.hints(painter, group, self.size)}
        return painter.draw(prompts, seeds, self.size, steps=self.steps, **how)

    def hints(self, painter: Painter, group: Sequence[Sample], size: Size) -> Mapping[str, Tensor]:
        """The control pictures that a painter can follow, float32 [b, 3, h, w] in 0..1, by name."""
        wanted = [control for control in self.controls if control in painter.controls]
        pictures = {name: np.stack([control_picture(sample, name, size) for sample in group]) for name in wanted}
        return {name: torch.from_numpy(one).permute(0, 3, 1, 2).contiguous() / 255 for name, one in pictures.items()}


def _check_size(painter: Painter, size: Size) -> None:
    factor = painter.space.factor
    if any(side % factor for side in size):
        near = [max(factor, round(side / factor) * factor) for side in size]
        raise UsageError(
            f"{size[0]}x{size[1]} cannot be drawn by {painter.name}: sides must be multiples of {factor}.",
            f"Try {near[0]}x{near[1]}.",
        )
