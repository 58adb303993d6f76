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
    """Write `grid.png` beside the shards that were drawn, in rows of eight, the control pictures above what was drawn from them.

    Returns:
        Where to look.

    Raises:
        LtError: nothing was drawn.
    """
    rows: list[list[np.ndarray]] = []
    if not len(open_shards(str(folder))):
        raise LtError(f"No sample of {folder} could be drawn.", f"`lt shards info {folder}` counts the reasons.")
    for group in batched(islice(open_shards(str(folder)), _MOST_SHOWN), _COLUMNS):
        rows += [[to_rgb(sample[f"{control}.png"], ground=0) for sample in group] for control in controls]
        rows.append([sample.picture for sample in group])
    grid = folder / GRID
    with atomic_file(grid) as file:
        file.write(encode_image(sheet(rows), "png"))
    return f"Look at {grid}, or: lt shards page {folder}"
