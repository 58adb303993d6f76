"""The first pictures that were drawn, in one picture beside their shards."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from lt.datagen.engine.stage import batched
from lt.datagen.shards import open_shards
from lt.datagen.shards.codec import encode_image, to_rgb
from lt.datagen.shards.storage import atomic_file
from lt.recipes.diffusion.lettering import captioned, chinese_font
from lt.recipes.pictures import sheet

GRID = "grid.png"
_MOST_SHOWN, _COLUMNS = 64, 8


def write_grid(folder: Path, controls: Sequence[str] = ()) -> str:
    """Write `grid.png` beside the shards that were drawn, in rows of eight: the control pictures, what was drawn from them, the
    prompts. Returns where to look.
    """
    rows: list[list[np.ndarray]] = []
    shown = list(islice(open_shards(str(folder)), _MOST_SHOWN))
    for group in batched(shown, _COLUMNS):
        rows += [[to_rgb(sample[f"{control}.png"], ground=0) for sample in group] for control in controls]
        rows.append([sample.picture for sample in group])
        rows.append([captioned(sample["txt"], sample.picture.shape[1]) for sample in group])
    grid = folder / GRID
    with atomic_file(grid) as file:
        file.write(encode_image(sheet(rows), "png"))
    look = f"Look at {grid}, or: lt shards page {folder}"
    if not chinese_font() and any("zh" in sample.meta["captions"] for sample in shown):
        look += "\n  no font on this machine has Chinese characters: the grid shows boxes for them"
    return look
