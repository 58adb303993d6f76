"""The efficiency table, as the paper has it: pictures used, training and sampling cost of every scheme.

`estimated`: at the paper's size, for the sizes of any pictures. `measured`: what the study's own runs took. The arithmetic is
`models/pangu.py`'s, for the paper's cannot be recovered. Assumed beside it: a whole model costs two halves (the paper: each half
has half the parameters), every stage sees its pictures once, and the device is an A100 (312e12 floating-point operations a
second in bf16, two a multiply-add) of which 40 % are used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from lt.datagen.shards import LtError, Sample, open_shards
from lt.models.nn.unet import PANGU, multiply_adds
from lt.models.pangu import SCHEMES, TrainingStage, images_used, ledger
from lt.recipes.claims import Measures
from lt.recipes.pictures import Size
from lt.recipes.system import Answer, Table
from lt.recipes.training.logging import read_log

RATE = 0.4 * 312e12 / 2
"""Multiply-adds a second."""
_FACTOR = 8  # pixels a latent, of the paper's autoencoder
_BASELINE = "resolution-boost"


def answer(shards: Sequence[str]) -> Answer:
    """`lt reproduce pangu --ledger SHARDS`: the efficiency table for their pictures."""
    table = estimated(sizes_of(shards))
    return Answer(asdict(table), tables=[table])


def sizes_of(where: Sequence[str]) -> list[Size]:
    """(width, height) of every picture of some shards: as `json` says, else of the picture itself.

    Raises:
        LtError: there are no samples.
    """
    found = [_size(sample) for folder in where for sample in open_shards(folder)]
    if not found:
        raise LtError(f"There are no samples in {', '.join(where)}.", "Name shards with pictures.")
    return found


def _size(sample: Sample) -> Size:
    if "json" in sample and {"width", "height"} <= sample.meta.keys():
        return sample.meta["width"], sample.meta["height"]
    height, width = sample.picture.shape[:2]
    return width, height


def estimated(sizes: Sequence[Size]) -> Table:
    """What every scheme uses and costs with the paper's networks and sizes (1024 and 512 pixels, 256 for a cascade's base)."""
    costs = {name: _costs(stages, sizes) for name, stages in SCHEMES.items()}
    base_used, _, base_hours, base_drawing = costs[_BASELINE]
    rows = [
        [
            name,
            f"{used:.0%} ({_against(used, base_used)})",
            f"{enlarged:.0%}",
            f"{hours:,.0f} ({_against(hours, base_hours)})",
            f"{drawing:,.1f} ({_against(drawing, base_drawing)})",
        ]
        for name, (used, enlarged, hours, drawing) in costs.items()
    ]
    return Table(
        f"Estimated at the paper's size for {len(sizes):,} pictures; in brackets against {_BASELINE}",
        ["scheme", "pictures used", "enlarged", "A100-hours an epoch of a million", "10^12 multiply-adds a drawing"],
        rows,
    )


def _costs(stages: Sequence[TrainingStage], sizes: Sequence[Size]) -> tuple[float, float, float, float]:
    """Of a scheme: the share of the pictures that any stage uses and the share that is enlarged, hours of training on a million
    pictures, 10^12 multiply-adds a drawing."""
    rows = ledger(stages, sizes, _forward)
    enlarged = sum(row.enlarged for row in rows) / max(1, sum(row.images for row in rows))
    hours = sum(row.training for row in rows) / RATE / 3600 * 1e6 / len(sizes)
    return images_used(stages, sizes) / len(sizes), enlarged, hours, sum(row.sampling for row in rows) / 1e12


def _against(value: float, base: float) -> str:
    """`+48 %`."""
    return f"{value / base - 1:+.0%}" if base else "-"


def _forward(stage: TrainingStage, side: int) -> float:
    return (2 if stage.network == "whole" else 1) * _half(side // _FACTOR)


@lru_cache(maxsize=8)
def _half(latent: int) -> int:
    return multiply_adds(PANGU, latent, latent)


def measured(schemes: Mapping[str, Sequence[Path]], drawn: Mapping[str, Measures]) -> Table:
    """What the runs of every scheme took here.

    Args:
        schemes: names to the runs of their stages.
        drawn: names to metrics with `draw_seconds`, see `measures.seen`.
    """
    table = []
    for name, runs in schemes.items():
        starts = [read_log(run, "start")[0] for run in runs]
        pictures = " + ".join(f"{start['samples']:,}" for start in starts)
        minutes = sum(compute_seconds(run) for run in runs) / 60
        table.append([name, pictures, round(minutes, 2), round(drawn[name]["draw_seconds"].value, 3)])
    headings = ["scheme", "pictures used", "minutes of training steps", "processor seconds a drawing"]
    return Table("Measured here", headings, table)


def compute_seconds(run: Path) -> float:
    """Seconds that a run's steps computed, without waiting for data, validation and checkpoints."""
    total, before = 0.0, 0
    for line in read_log(run, "train"):
        total += line["compute_s"] * (line["step"] - before)
        before = line["step"]
    return total
