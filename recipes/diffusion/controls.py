"""Control pictures: those that shards hold (`pose`, `edge`), and those that are computed from a sample (`layout`, `color`).

`color` is the picture averaged on a coarse grid, eight cells along its shorter side, enlarged without smoothing: the colour
condition of T2I-Adapter (arXiv 2302.08453, section 3.3). `layout` shows the box of every named thing on black, in one colour a
name (`colour_of`), so a layout can also be drawn by hand. Both depend on the sample alone.
"""

import math
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.shards import Sample, SampleError
from lt.datagen.shards.codec import to_rgb
from lt.recipes.pictures import Size, covering, fitted

STORED = ("pose", "edge")
"""Control pictures that only shards can bring, as `pose.png` and `edge.png`."""
COMPUTED = ("layout", "color")
"""Control pictures that are made from any sample that holds what they show."""
CELLS = 8
"""Cells of a colour picture along its shorter side."""
_DARKEST = 64

Thing = tuple[str, tuple[float, float, float, float]]
"""Name of its class, and its box (x, y, width, height) in pixels."""


def control_picture(sample: Sample, control: str, size: Size) -> np.ndarray:
    """A sample's control picture, uint8 RGB [height, width, 3]: its own `<control>.png`, else computed.

    Raises:
        SampleError: `no-<control>`: the sample lacks what it shows; whatever is wrong with its picture.
    """
    if f"{control}.png" in sample:
        return fitted(to_rgb(sample[f"{control}.png"], ground=0), *size)
    if control == "color":
        return color_picture(sample.picture, size)
    if control == "layout":
        return layout_picture(sample, size)
    raise SampleError(f"no-{control}", f"there is no {control}.png")


def color_picture(picture: np.ndarray, size: Size) -> np.ndarray:
    """The mean colours of a picture on a grid of `CELLS` cells along the shorter side, uint8 RGB [height, width, 3].

    Args:
        picture: uint8 RGB [h, w, 3] of any size; scaled and cut to `size` first, as training pictures are.
    """
    across, down = (round(side * CELLS / min(size)) for side in size)
    coarse = Image.fromarray(fitted(picture, *size)).resize((across, down), Image.Resampling.BOX)
    return np.asarray(coarse.resize(size, Image.Resampling.NEAREST))


def layout_picture(sample: Sample, size: Size) -> np.ndarray:
    """The boxes of a sample's named things, filled with their names' colours, on black: uint8 RGB [height, width, 3].

    The boxes are those of `json.layers`, lowest first, else of `json.instances` (COCO), largest first: what lies above covers.
    They are scaled and cut as the picture is.

    Raises:
        SampleError: `no-layout`: json names no things with boxes, or no size of the picture.
    """
    meta = sample.meta
    try:
        things, canvas = _things(meta), (int(meta["width"]), int(meta["height"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SampleError("no-layout", f"json holds no usable boxes: {type(error).__name__} {error}") from None
    if not things or min(canvas) < 1:
        raise SampleError("no-layout", "neither json.layers nor json.instances names a thing with a box")
    return draw_layout(things, canvas, size)


def draw_layout(things: list[Thing], canvas: Size, size: Size) -> np.ndarray:
    """Filled boxes of a canvas, the first lying lowest, on a picture of `size` that covers it: uint8 RGB [height, width, 3]."""
    wide, high, left, top = covering(canvas, size)
    drawn = np.zeros((size[1], size[0], 3), np.uint8)
    for name, (x, y, width, height) in things:
        columns = _span(x, width, wide / canvas[0], left)
        rows = _span(y, height, high / canvas[1], top)
        drawn[rows, columns] = colour_of(name)
    return drawn


def colour_of(name: str) -> tuple[int, int, int]:
    """The colour of a class in layouts: three bytes of its name's digest (blake2b), each brought to 64..255. Never black."""
    digest = blake2b(name.strip().lower().encode(), digest_size=3).digest()
    red, green, blue = (_DARKEST + byte * (255 - _DARKEST) // 255 for byte in digest)
    return red, green, blue


def _things(meta: Mapping[str, Any]) -> list[Thing]:
    if layers := meta.get("layers"):
        return [_thing(layer) for layer in layers if layer.get("category") and layer.get("bbox")]
    instances = [one for one in meta.get("instances") or () if not one.get("iscrowd")]
    return sorted((_thing(one) for one in instances), key=lambda thing: -thing[1][2] * thing[1][3])


def _thing(described: Mapping[str, Any]) -> Thing:
    x, y, width, height = (float(number) for number in described["bbox"])
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"a box of {described['category']} is not finite")
    return str(described["category"]), (x, y, width, height)


def _span(start: float, length: float, scale: float, offset: int) -> slice:
    """The pixels of one side of a box, at least one of them, cut where the picture begins."""
    first = round(start * scale) - offset
    return slice(max(0, first), max(0, first, round((start + length) * scale) - offset, first + 1))
