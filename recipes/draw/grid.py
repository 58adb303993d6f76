"""The first pictures that were drawn, in one picture beside their shards."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, open_shards
from lt.datagen.shards.codec import encode_image, to_rgb
from lt.datagen.shards.storage import atomic_file
from lt.recipes.diffusion.pictures import sheet

GRID = "grid.png"
_MOST_SHOWN, _COLUMNS = 64, 8


def write_grid(folder: Path, controls: Sequence[str] = ()) -> str:
    """Write `grid.png` beside the shards that were drawn, and say where to look.

    Raises:
        LtError: nothing was drawn.
    """
    grid = folder / GRID
    with atomic_file(grid) as file:
        file.write(encode_image(overview(folder, controls), "png"))
    return f"Look at {grid}, or: lt shards page {folder}"


def overview(folder: Path, controls: Sequence[str]) -> np.ndarray:
    """The first pictures of a folder, uint8 RGB: rows of eight, the control pictures above what was drawn from them."""
    rows: list[list[np.ndarray]] = []
    if not len(open_shards(str(folder))):
        raise LtError(f"No sample of {folder} could be drawn.", f"`lt shards info {folder}` counts the reasons.")
    for group in batched(islice(open_shards(str(folder)), _MOST_SHOWN), _COLUMNS):
        rows += [[to_rgb(sample[f"{control}.png"], ground=0) for sample in group] for control in controls]
        rows.append([sample.picture for sample in group])
    return sheet(rows)
