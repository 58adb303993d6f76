"""Editing into shards: requests, see requests.py, become samples that hold source, mask, result, instruction, seed and scores.

@dataclass(frozen=True)
class Invert(Edit):
    name: ClassVar[str] = "invert"

    def edited(self, requests):
        return [Edited(255 - request["source.png"]) for request in requests]

def edit(options: EditOptions, note: Note) -> Job:        # what the system's `Verb` names
    return edit_job(options, Invert())
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from lt.datagen.engine.stage import Pipeline, batched, model_time
from lt.datagen.shards import LtError, Reject, Sample, open_shards
from lt.datagen.shards.export import export
from lt.recipes.edit.options import EditOptions
from lt.recipes.edit.requests import Requests, box_of, source_of
from lt.recipes.system import Job


@dataclass(frozen=True)
class Edited:
    """A result, uint8 RGB [h, w, 3], and numbers that say how good it is."""

    picture: np.ndarray
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Edit:
    """Fill in the result (`png`) of every request, and its scores (`json.edit.scores`). A system derives from it: its `name`, its
    settings as fields, and `edited`; `lineage` where a model has a digest.
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
                height, width = result.picture.shape[:2]
                sample["png"] = result.picture
                sample.meta.update(width=width, height=height)
                sample.meta["edit"]["scores"] = dict(result.scores)
                yield sample


def edit_job(options: EditOptions, stage: Edit) -> Job:
    """What `lt edit` runs for an editor.

    Raises:
        UsageError: a box that is none. LtError: pictures, shards or a mask that are not there.
    """
    if options.mask and not Path(options.mask).is_file():
        raise LtError(f"There is no mask {options.mask}.", "Name a picture that is white where the source may change.")
    mask = box_of(options.box) if options.box else options.mask
    source = source_of(options.source, options.limit)
    requests = Requests(options.instruction, options.seed, mask)
    return Job(Pipeline(stage.name, source, (requests, stage)), then=partial(finish, kind=options.format))


def finish(out: Path, kind: str) -> str:
    """Write the results for other programs where that is wanted, and say where to look."""
    page = f"lt shards page {out}"
    if kind == "shards":
        return f"Look at: {page}"
    folder = out.with_name(f"{out.name}-{kind}")
    done = export(open_shards(str(out)), folder, kind)
    return f"{done.written + done.present:,} results are in {folder} as {kind}. Look at them, or: {page}"
