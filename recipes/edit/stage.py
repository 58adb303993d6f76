"""Editing into shards: requests, see requests.py, become samples that hold source, mask, result, instruction, seed and scores.

@dataclass(frozen=True)
class Invert(Edit):
    name: ClassVar[str] = "invert"

    def edited(self, requests):
        return [Edited(255 - request["source.png"]) for request in requests]

def edit(options: EditOptions, note: Note) -> Job:        # what the system's `Verb` names
    return edit_job(options, Invert())
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from lt.datagen.engine.stage import Pipeline, batched, model_time
from lt.datagen.shards import LtError, Reject, Sample, SampleError, open_shards
from lt.datagen.shards.codec import decode_image
from lt.datagen.shards.export import export
from lt.recipes.edit.options import EditOptions
from lt.recipes.edit.requests import Requests, box_of, source_of
from lt.recipes.pictures import to_picture
from lt.recipes.system import Job


@dataclass(frozen=True)
class Edited:
    """A result, uint8 RGB [h, w, 3], or as a model gives it, float [3, h, w] in about -1..1; and numbers that say how good it
    is."""

    picture: np.ndarray | Tensor
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """Fill in the result (`png`) of every request, and its scores (`json.edit.scores`). Rejects: `not-finite`.

    A system derives from it: its `name`, its settings as fields, and `edited`; `lineage` where a model has a digest.
    """

    batch: int = 8
    name: ClassVar[str] = "edit"
    on_device: ClassVar[bool] = True

    def edited(self, requests: Sequence[Sample]) -> Sequence[Edited]:
        """The results of some requests."""
        raise NotImplementedError

    def __call__(self, samples: Iterator[Sample]) -> Iterator[Sample | Reject]:
        for group in batched(samples, self.batch):
            with model_time():
                results = self.edited(group)
            for sample, result in zip(group, results, strict=True):
                try:
                    yield _filled(sample, result)
                except SampleError as error:
                    yield Reject.of(sample, error.reason, error.figure, error.detail)


def _filled(sample: Sample, result: Edited) -> Sample:
    for name, score in result.scores.items():
        if not math.isfinite(score):
            raise SampleError("not-finite", f"the score {name!r} is {score}")
    picture = to_picture(result.picture) if isinstance(result.picture, Tensor) else result.picture
    sample["png"] = picture
    sample.meta.update(width=picture.shape[1], height=picture.shape[0])
    sample.meta["edit"]["scores"] = dict(result.scores)
    return sample


def edit_job(options: EditOptions, stage: Edit) -> Job:
    """What `lt edit` runs for an editor.

    Raises:
        UsageError: a box that is none. LtError: pictures, shards or a mask that are not there.
    """
    if options.mask and not Path(options.mask).is_file():
        raise LtError(f"There is no mask {options.mask}.", "Name a picture that is white where the source may change.")
    if options.mask:
        _check_mask(Path(options.mask))
    mask = box_of(options.box) if options.box else options.mask
    source = source_of(options.source, options.limit)
    requests = Requests(options.instruction, options.seed, mask)
    return Job(Pipeline(stage.name, source, (requests, stage)), then=partial(finish, kind=options.format))


def _check_mask(file: Path) -> None:
    try:
        decode_image(file.read_bytes())
    except (OSError, SampleError) as error:
        raise LtError(f"Cannot read the mask {file}: {getattr(error, 'strerror', None) or error}.") from None


def finish(out: Path, kind: str) -> str:
    """Write the results for other programs where that is wanted, and say where to look."""
    page = f"lt shards page {out}"
    if kind == "shards":
        return f"Look at: {page}"
    folder = out.with_name(f"{out.name}-{kind}")
    done = export(open_shards(str(out)), folder, kind)
    return f"{done.written + done.present:,} results are in {folder} as {kind}. Look at them, or: {page}"
