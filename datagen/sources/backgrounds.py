"""Backgrounds that can be told in words: plain, fading, and simple landscapes, drawn as SVG at any size.

Coordinates are parts of the canvas (0..1) in a 1000 x 1000 viewBox; y grows downwards. `horizon` is where the ground begins.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import ImageColor

from lt.datagen.shards.compose import over
from lt.datagen.sources.drawings import render_svg

TINTS = {
    "white": ("#ffffff", "白色"),
    "grey": ("#c9cdd3", "灰色"),
    "blue": ("#a8c8ec", "蓝色"),
    "green": ("#bfe0b4", "绿色"),
    "yellow": ("#f9ecab", "黄色"),
    "orange": ("#f7cfa1", "橙色"),
    "pink": ("#f6cbd8", "粉色"),
    "purple": ("#d6c6ea", "紫色"),
}
"""Soft colours, so that what stands before them is seen: English name to hex and Chinese name."""


@dataclass(frozen=True)
class Band:
    """A stripe from `top` to `bottom` (0..1) whose colour changes evenly from `first` to `last` (#rrggbb)."""

    top: float
    bottom: float
    first: str
    last: str

    def cover(self, size: int) -> np.ndarray:
        """Which part (0..1) of each pixel row lies in the stripe, [size, 1]."""
        rows = np.arange(size)
        inside = np.minimum(rows + 1, self.bottom * size) - np.maximum(rows, self.top * size)
        return np.clip(inside, 0, 1)[:, None]

    def colours(self, size: int) -> np.ndarray:
        """The colour of each pixel row, [size, 3] in 0..255."""
        first, last = (np.array(ImageColor.getrgb(colour), float) for colour in (self.first, self.last))
        part = np.clip(((np.arange(size) + 0.5) / size - self.top) / (self.bottom - self.top), 0, 1)[:, None]
        return first + (last - first) * part


@dataclass(frozen=True)
class Background:
    """A background drawn and named.

    Args:
        kind: plain, fading, or the name of a landscape.
        en, zh: a noun phrase: `a green meadow under a blue sky`, `蓝天下的绿色草地`.
        preposition, zh_where: how a thing is placed there: `on`, `上`.
        places: where things may stand that are drawn before it (`ground`, `sky`, `water`).
        bands: stripes across the whole width, each over those before it; the first fills the canvas, its last colour going
            on below it; `svg` lies over all. Colours that change downwards are slow to pass through resvg and PNG.
        horizon: where the ground begins, as part of the height; 0 where there is no ground.
    """

    kind: str
    en: str
    zh: str
    preposition: str
    zh_where: str
    places: tuple[str, ...]
    bands: tuple[Band, ...] = field(repr=False)
    horizon: float = 0.0
    svg: str = field(default="", repr=False)

    @property
    def is_landscape(self) -> bool:
        return self.horizon > 0

    @property
    def captions(self) -> dict[str, str]:
        return {"en": self.en, "zh": self.zh}

    def where(self, in_sky: bool = False) -> dict[str, str]:
        """The phrase that ends an English caption and begins a Chinese one: `on a green meadow`, `绿色的草地上`.

        Where everything is in the sky it is not on the ground, but `above a green meadow`, `绿色的草地上空`.
        """
        if in_sky and self.is_landscape and self.preposition != "in front of":
            return {"en": f"above {self.en}", "zh": f"{self.zh}上空"}
        return {"en": f"{self.preposition} {self.en}", "zh": f"{self.zh}{self.zh_where}"}

    def render(self, size: int) -> np.ndarray:
        """uint8 RGB [size, size, 3]."""
        rows = self.bands[0].colours(size)
        for band in self.bands[1:]:
            share = band.cover(size)
            rows = rows * (1 - share) + band.colours(size) * share
        picture = np.repeat(np.rint(rows).astype(np.uint8)[:, None], size, axis=1)
        if self.svg:
            document = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 1000">{self.svg}</svg>'
            over(picture, render_svg(document, size, size))
        return picture


def sample_background(rng: np.random.Generator, kinds: tuple[str, ...]) -> Background:
    """One background of one of `kinds` (see `KINDS`)."""
    return KINDS[kinds[int(rng.integers(len(kinds)))]](rng)


def _plain(rng: np.random.Generator) -> Background:
    name = _choice(rng, list(TINTS))
    tint, zh = TINTS[name]
    bands = (Band(0, 1, tint, tint),)
    return Background("plain", f"a plain {name} background", f"纯{zh}的背景", "against", "前", _ANYWHERE, bands=bands)


def _fading(rng: np.random.Generator) -> Background:
    top, bottom = (str(name) for name in rng.choice(list(TINTS), 2, replace=False))
    en = f"a background fading from {top} at the top to {bottom} at the bottom"
    zh = f"上方{TINTS[top][1]}、下方{TINTS[bottom][1]}的渐变背景"
    bands = (Band(0, 1, TINTS[top][0], TINTS[bottom][0]),)
    return Background("fading", en, zh, "against", "前", _ANYWHERE, bands=bands)


def _landscape(kind: str, rng: np.random.Generator) -> Background:
    h, (high, low, far, near) = _horizon(rng), _COLOURS[kind]
    bands = (Band(0, h, high, low), Band(h, 1, far, near))
    return Background(kind, *_LANDSCAPES[kind], _UNDER_SKY, bands, h, _DRAWN_OVER[kind](rng, h))


def _beach(rng: np.random.Generator) -> Background:
    h = _horizon(rng)
    sea = h - float(rng.uniform(0.1, 0.16))
    bands = (Band(0, sea, "#8ed0f4", "#e2f5fc"), Band(sea, 1, "#3f9fd0", "#3f9fd0"))
    svg = _ripples(rng, sea, h, "#8fd0ea")
    svg += _waves(rng, h, 0.012, 3, "#f7f1d8") + _waves(rng, h + 0.012, 0.012, 3, "#efd9a0")
    en, zh = "a sandy beach by the sea", "海边的沙滩"
    return Background("beach", en, zh, "on", "上", _UNDER_SKY, bands, h + 0.03, svg)


def _room(rng: np.random.Generator) -> Background:
    h = _horizon(rng)
    name = _choice(rng, ["blue", "green", "yellow", "pink", "grey"])
    tint, zh_tint = TINTS[name]
    skirting = "#f4efe6"
    bands = (Band(0, h, tint, tint), Band(h - 0.014, h, skirting, skirting), Band(h, 1, "#c99a62", "#c99a62"))
    en, zh = f"a wooden floor in front of a {name} wall", f"{zh_tint}墙壁前的木地板"
    return Background("room", en, zh, "on", "上", ("ground",), bands, h, _boards(rng, h))


def _under_water(rng: np.random.Generator) -> Background:
    bands = (Band(0, 1, "#6cc3e6", "#1f6fae"),)
    svg = _waves(rng, 0.9, 0.03, 2, "#d9c48a") + _rings(rng, 14)
    return Background("under water", "deep blue water", "深蓝色的水", "in", "里", ("water",), bands=bands, svg=svg)


_LANDSCAPES = {
    "meadow": ("a green meadow under a blue sky", "蓝天下的绿色草地", "on", "上"),
    "hills": ("green hills", "绿色的山丘", "in front of", "前"),
    "mountains": ("snow-capped mountains", "雪山", "in front of", "前"),
    "desert": ("a sandy desert under a pale sky", "淡色天空下的沙漠", "in", "里"),
    "snow": ("a snowy field under a grey sky", "灰色天空下的雪地", "on", "上"),
    "night": ("a meadow under a starry night sky", "星空下的草地", "on", "上"),
    "sunset": ("a field at sunset", "日落时的田野", "in", "里"),
}
"""Names and prepositions, see `Background`."""
_COLOURS = {
    "meadow": ("#8ec9f0", "#d9f0fb", "#8fce5a", "#5fa53a"),
    "hills": ("#9fd3f2", "#e6f5fb", "#8bc06a", "#5d9b40"),
    "mountains": ("#8fbfe6", "#e3eff8", "#a3bd7a", "#7f9d5a"),
    "desert": ("#9ed3ee", "#fdf0d0", "#e9c27c", "#cf9a4b"),
    "snow": ("#aebccb", "#dfe6ed", "#ffffff", "#d8e4f0"),
    "night": ("#17254f", "#43548d", "#4d7a68", "#33594c"),
    "sunset": ("#f2905a", "#fde0a0", "#b59a58", "#8f7a42"),
}
"""Of the sky at its top and foot, of the ground far and near."""
_DRAWN_OVER: dict[str, Callable[[np.random.Generator, float], str]] = {
    "meadow": lambda rng, h: _tufts(rng, h, "#4d9030"),
    "hills": lambda rng, h: (
        _waves(rng, h - 0.14, 0.09, 2, "#a9d18e", h + _LAP) + _waves(rng, h - 0.05, 0.06, 3, "#8bc06a", h + _LAP)
    ),
    "mountains": lambda rng, h: _peaks(rng, h),
    "desert": lambda rng, h: _waves(rng, h - 0.05, 0.06, 2, "#e9c27c", h + _LAP),
    "snow": lambda rng, h: _dots(rng, 0, 1, 70, 3.5, "#ffffff"),
    "night": lambda rng, h: _dots(rng, 0, h - 0.03, 80, 2.6, "#fff6cf"),
    "sunset": lambda rng, h: _waves(rng, h - 0.03, 0.03, 2, "#b48459", h + _LAP),
}
"""What lies over them, given the horizon."""

OUTDOOR = ("meadow", "hills", "mountains", "beach", "desert", "snow", "night", "sunset")
"""Landscapes with a sky and a ground."""

KINDS: dict[str, Callable[[np.random.Generator], Background]] = {
    "plain": _plain,
    "fading": _fading,
    **{kind: partial(_landscape, kind) if kind in _LANDSCAPES else _beach for kind in OUTDOOR},
    "room": _room,
    "under water": _under_water,
}
"""Every kind of background by its name."""

_LAP = 0.004  # land reaches a little below the horizon, so that no sky shines through the seam
_ANYWHERE, _UNDER_SKY = ("ground", "sky", "water"), ("ground", "sky")


def _choice(rng: np.random.Generator, names: list[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _horizon(rng: np.random.Generator) -> float:
    return round(float(rng.uniform(0.5, 0.68)), 3)


def _waves(rng: np.random.Generator, level: float, height: float, crests: int, fill: str, bottom: float = 1.0) -> str:
    """Land whose upper edge waves about `level`, down to `bottom`."""
    phase = float(rng.uniform(0, 6.28))
    x = np.linspace(-20, 1020, 14 * crests)
    y = 1000 * (level + height / 2 * np.sin(x / 1000 * 6.28 * crests / 2 + phase))
    edge = " ".join(f"{px:.0f},{py:.1f}" for px, py in zip(x, y, strict=True))
    return f'<polygon points="-20,{bottom * 1000:.1f} {edge} 1020,{bottom * 1000:.1f}" fill="{fill}"/>'


def _peaks(rng: np.random.Generator, horizon: float) -> str:
    """Four mountains with caps of snow, their feet on the horizon."""
    parts = []
    for x in (120, 390, 640, 900):
        x += float(rng.uniform(-60, 60))
        height, half = float(rng.uniform(230, 360)), float(rng.uniform(190, 260))
        foot, top = (horizon + _LAP) * 1000, horizon * 1000 - height
        parts.append(
            f'<polygon points="{x - half:.0f},{foot:.0f} {x:.0f},{top:.0f} {x + half:.0f},{foot:.0f}" fill="#8795a8"/>'
        )
        cap, side = height * 0.3, half * 0.3
        snow = f"{x - side:.0f},{top + cap:.0f} {x:.0f},{top:.0f} {x + side:.0f},{top + cap:.0f}"
        jag = f"{x + side * 0.3:.0f},{top + cap * 0.75:.0f} {x - side * 0.3:.0f},{top + cap * 1.05:.0f}"
        parts.append(f'<polygon points="{snow} {jag}" fill="#f6f9fc"/>')
    return "".join(parts)


def _tufts(rng: np.random.Generator, horizon: float, colour: str) -> str:
    """Small blades of grass, larger towards the viewer."""
    parts = []
    for _ in range(40):
        x, y = float(rng.uniform(0, 1000)), float(rng.uniform(horizon * 1000 + 25, 990))
        side = 5 + 12 * (y / 1000 - horizon)
        parts.append(f"M{x - side:.0f},{y - side * 1.6:.0f}L{x:.0f},{y:.0f}L{x + side:.0f},{y - side * 1.6:.0f}")
    return f'<path d="{"".join(parts)}" stroke="{colour}" stroke-width="3" fill="none" stroke-linecap="round"/>'


def _ripples(rng: np.random.Generator, top: float, bottom: float, colour: str) -> str:
    parts = []
    for _ in range(14):
        x, y = float(rng.uniform(0, 960)), float(rng.uniform(top * 1000 + 12, bottom * 1000 - 8))
        parts.append(f"M{x:.0f},{y:.0f}h{float(rng.uniform(20, 60)):.0f}")
    return f'<path d="{"".join(parts)}" stroke="{colour}" stroke-width="4" stroke-linecap="round"/>'


def _dots(rng: np.random.Generator, top: float, bottom: float, count: int, radius: float, fill: str) -> str:
    centres = rng.uniform((0, top * 1000), (1000, bottom * 1000), (count, 2))
    return f'<g fill="{fill}">{_circles(centres, rng.uniform(0.5, 1, count) * radius)}</g>'


def _rings(rng: np.random.Generator, count: int) -> str:
    """Bubbles."""
    centres, radii = rng.uniform((0, 0), (1000, 850), (count, 2)), rng.uniform(6, 16, count)
    return f'<g fill="none" stroke="#c9ebf7" stroke-width="4" opacity="0.7">{_circles(centres, radii)}</g>'


def _circles(centres: np.ndarray, radii: np.ndarray) -> str:
    circles = zip(centres, radii, strict=True)
    return "".join(f'<circle cx="{x:.0f}" cy="{y:.0f}" r="{r:.1f}"/>' for (x, y), r in circles)


def _boards(rng: np.random.Generator, horizon: float) -> str:
    """The seams of floor boards that narrow towards the wall."""
    top, shift = horizon * 1000, float(rng.uniform(0, 120))
    seams = [x + shift for x in range(-1000, 1001, 125)]
    lines = "".join(f"M{500 + x * 0.55:.0f},{top:.0f}L{500 + x * 1.3:.0f},1000" for x in seams)
    return f'<path d="{lines}" stroke="#a97b46" stroke-width="4"/>'
