"""The world `figures`: an articulated drawn person with exact key points, the miniature of pose and edge control.

A sample holds the picture `png`, `background.png` and the person as `layer-00.png` (exact to the bit), `pose.png` (the
skeleton in the OpenPose convention), `edge.png` (OpenCV's Canny on the picture, as edge-controlled models are trained),
`txt`, and `json` with captions in both languages, COCO-17 key points and what is drawn. Left and right of limbs are the
person's own; "walking to the left" is the viewer's left. A soft shadow lies in the person's layer, but outside its bbox.

Train and test are apart by combination (`held_out`): pairs of action and colour, and of two garments' colours.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lt.datagen.engine.stage import rng_for
from lt.datagen.pose import COCO_KEYPOINTS, draw_openpose
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import alpha_box
from lt.datagen.sources.backgrounds import OUTDOOR, Background, sample_background
from lt.datagen.sources.drawings import drawn_layer, drawn_sample, render_svg
from lt.datagen.sources.figure_body import ACTIONS, BUILDS, Point, Stance, joints, sample_stance
from lt.datagen.sources.figure_drawing import (
    GARMENT_COLOURS,
    HAIR_COLOURS,
    HAIR_STYLES,
    OUTLINE,
    SKINS,
    Looks,
    Shape,
    part_of,
    shapes,
    visibility,
)
from lt.datagen.sources.grammar import COLOURS_ZH, article
from lt.datagen.sources.held_out import split_of
from lt.datagen.sources.numbered import NumberedSource
from lt.datagen.sources.openmoji import package_inputs

_KINDS = ("plain", "plain", "fading", "fading", "room", "room", *OUTDOOR)
_MARGIN = 0.03
_SHADOW_ALPHA = 0.22
_HAIR_ZH = {"black": "黑色", "brown": "棕色", "blond": "金色", "red": "红色", "grey": "灰色"}
_STYLE_EN = {"short": "short {} hair", "long": "long {} hair", "curly": "curly {} hair", "bun": "{} hair in a bun"}
_STYLE_ZH = {"short": "留着{}短发", "long": "留着{}长发", "curly": "留着{}卷发", "bun": "扎着{}发髻"}
_GARMENT_ZH = {
    "shirt": "长袖衬衫",
    "T-shirt": "T恤",
    "dress": "连衣裙",
    "trousers": "长裤",
    "shorts": "短裤",
    "skirt": "裙子",
}
_SIDE_ZH = {"left": "左", "right": "右"}


@dataclass(frozen=True)
class Figure:
    """A person on a canvas of side 1 (x right, y down). `half` shows it from the waist up."""

    stance: Stance
    looks: Looks
    half: bool
    points: dict[str, Point]
    drawn: tuple[Shape, ...]
    scale: float
    ground: float

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What decides the split."""
        top = f"{self.looks.top_colour} top"
        pairs = [(f"{self.stance.action} {self.stance.side}", top)]
        return pairs + ([(top, f"{self.looks.bottom_colour} bottom")] if self.looks.bottom else [])

    def keypoints(self, size: int) -> list[list[float]]:
        """COCO-17 in pixels of a picture of side `size`: [x, y, visibility]."""
        found = []
        for name in COCO_KEYPOINTS:
            x, y = self.points[name]
            seen = visibility(name, part_of(name), self.stance, self.drawn, self.points)
            is_inside = 0 <= x < 1 and 0 <= y < 1
            found.append([round(x * size, 2), round(y * size, 2), seen] if is_inside else [0, 0, 0])
        return found

    def render(self, size: int) -> np.ndarray:
        """The person and its shadow, uint8 RGBA [size, size, 4]."""
        body = "".join(shape.svg(OUTLINE * self.scale) for shape in self.drawn)
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1">{self._shadow()}{body}</svg>'
        return render_svg(svg, size, size)

    def _shadow(self) -> str:
        if self.half:
            return ""
        feet = [self.points[f"{side}_ankle"][0] for side in ("left", "right")]
        x, spread = (min(feet) + max(feet)) / 2, (max(feet) - min(feet)) / 2 + 0.09 * self.scale
        ellipse = f'cx="{x:.4f}" cy="{self.ground:.4f}" rx="{spread:.4f}" ry="{0.022 * self.scale:.4f}"'
        return f'<ellipse {ellipse} fill="#000" fill-opacity="{_SHADOW_ALPHA}"/>'


def sample_figure(rng: np.random.Generator) -> Figure:
    """A figure of any split."""
    action = list(ACTIONS)[int(rng.integers(len(ACTIONS)))]
    stance, looks = sample_stance(rng, action), _sample_looks(rng)
    half = ACTIONS[action].is_upright and rng.random() < 0.2
    return _place(rng, stance, looks, half)


def _sample_looks(rng: np.random.Generator) -> Looks:
    colours = list(GARMENT_COLOURS)
    top_colour, bottom_colour, hat = (str(colour) for colour in rng.choice(colours, 3, replace=False))
    top = ("shirt", "T-shirt", "dress")[int(rng.choice(3, p=[0.42, 0.42, 0.16]))]
    bottom = "" if top == "dress" else ("trousers", "shorts", "skirt")[int(rng.choice(3, p=[0.5, 0.28, 0.22]))]
    return Looks(
        build=BUILDS[int(rng.integers(len(BUILDS)))],
        skin=SKINS[int(rng.integers(len(SKINS)))],
        hair=list(HAIR_COLOURS)[int(rng.integers(len(HAIR_COLOURS)))],
        hair_style=HAIR_STYLES[int(rng.integers(len(HAIR_STYLES)))],
        top=top,
        top_colour=top_colour,
        bottom=bottom,
        bottom_colour=bottom_colour if bottom else "",
        hat=hat if rng.random() < 0.25 else "",
    )


def _place(rng: np.random.Generator, stance: Stance, looks: Looks, half: bool) -> Figure:
    """Choose size and place: all of the figure in the canvas, its lowest foot on the ground (or its lap at the lower edge)."""
    body = joints(stance, looks.build)
    drawn = shapes(stance, looks, body)
    bounds = np.array([shape.bounds() for shape in drawn])
    left, top, right = bounds[:, 0].min(), bounds[:, 1].min(), bounds[:, 2].max()
    feet = bounds[[shape.part.endswith("leg") for shape in drawn], 3].max() + stance.lift
    bottom = 0.07 if half else feet
    ground = 1.0 if half else float(rng.uniform(0.88, 0.95))
    largest = min((1 - 2 * _MARGIN) / (right - left), (ground - _MARGIN) / (bottom - top))
    wanted = float(rng.uniform(1.2, 1.5)) if half else float(rng.uniform(0.74, 0.9)) * looks.build.scale
    scale = min(wanted, largest)
    leftmost, rightmost = _MARGIN - left * scale, 1 - _MARGIN - right * scale
    shift = (leftmost + float(rng.random()) * (rightmost - leftmost), ground - bottom * scale)
    points = {name: (x * scale + shift[0], y * scale + shift[1]) for name, (x, y) in body.items()}
    return Figure(stance, looks, half, points, tuple(shape.moved(scale, shift) for shape in drawn), scale, ground)


@dataclass(frozen=True)
class FiguresSource(NumberedSource):
    """Figures by number; see `NumberedSource` for the settings. Splits: `train`, `test`."""

    name: ClassVar[str] = "figures"
    thing: ClassVar[str] = "figure"

    def inputs(self) -> list[str]:
        return package_inputs("resvg-py", "opencv-python-headless")

    def licences(self) -> list[str]:
        return ["CC0-1.0: drawn by lt"]

    def sample(self, number: int) -> Sample:
        """The figure of this number. It is the same figure at every size."""
        from lt.models.perception.opencv import Canny

        rng = rng_for(self.seed, "figures", self.split, str(number))
        figure = sample_figure(rng)
        while split_of(figure.pairs) != self.split:
            figure = sample_figure(rng)
        scenery = sample_background(rng, _KINDS)
        background, layer = scenery.render(self.size), figure.render(self.size)
        keypoints = figure.keypoints(self.size)
        who, who_zh = _who(figure)
        box = alpha_box(layer[:, :, 3] > 255 * _SHADOW_ALPHA + 1)
        meta = {
            "split": self.split,
            "seed": self.seed,
            "keypoints": [keypoints],
            "figure": _describe(figure),
            "background": {"kind": scenery.kind, "caption": scenery.captions},
            "layers": [drawn_layer({"en": who, "zh": who_zh}, "person", box, visible=1.0, z=0)],
            "source": {"name": "figures", "licence": "CC0-1.0"},
        }
        sample = drawn_sample(self.key(number), background, [layer], captions(figure, scenery), meta)
        sample["pose.png"] = draw_openpose([keypoints], self.size, self.size)
        (sample["edge.png"],) = Canny().edges([sample["png"]])
        return sample


# Captions


def captions(figure: Figure, scenery: Background) -> dict[str, list[str]]:
    """Three ways to say it in each language; the i-th of both say the same."""
    where, action = scenery.where(), ACTIONS[figure.stance.action]
    words = {"side": figure.stance.side, "way": "left" if figure.stance.facing < 0 else "right"}
    does = action.en.format(**words)
    does_zh = action.zh.format(**{key: _SIDE_ZH.get(value, "") for key, value in words.items()})
    view, view_zh = (", seen from behind", "背对着我们") if figure.stance.view == "back" else ("", "")
    half, half_zh = (", shown from the waist up", "，只看得到上半身") if figure.half else ("", "")
    (who, who_zh), hair = _who(figure), _STYLE_EN[figure.looks.hair_style].format(figure.looks.hair)
    hair_zh = _STYLE_ZH[figure.looks.hair_style].format(_HAIR_ZH[figure.looks.hair])
    person, person_zh = _person(figure)
    place = f"{where['en'][0].upper()}{where['en'][1:]}"
    return {
        "en": [
            f"{who} {does}{view}{half}, {where['en']}",
            f"{place}, {who} is {does}{view}{half}.",
            f"a {person} with {hair} {does} {where['en']}{view}{half}, wearing {_clothes(figure)}",
        ],
        "zh": [
            f"{where['zh']}，{who_zh}{view_zh}{does_zh}{half_zh}",
            f"{where['zh']}有{who_zh}，{view_zh}{does_zh}{half_zh}。",
            f"一个{hair_zh}的{person_zh}在{where['zh']}{view_zh}{does_zh}，{_clothes_zh(figure, '，')}{half_zh}",
        ],
    }


def _person(figure: Figure) -> tuple[str, str]:
    return ("child", "孩子") if figure.looks.build.name == "child" else ("person", "人")


def _who(figure: Figure) -> tuple[str, str]:
    person, person_zh = _person(figure)
    return f"a {person} in {_clothes(figure)}", f"一个{_clothes_zh(figure, '、')}的{person_zh}"


def _clothes(figure: Figure) -> str:
    """`a red shirt and blue trousers`, `an orange dress and a black cap`."""
    looks = figure.looks
    items = [f"{article(looks.top_colour)} {looks.top_colour} {looks.top}"]
    if looks.bottom:
        one = f"{article(looks.bottom_colour)} " if looks.bottom == "skirt" else ""
        items.append(f"{one}{looks.bottom_colour} {looks.bottom}")
    if looks.hat:
        items.append(f"{article(looks.hat)} {looks.hat} cap")
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _clothes_zh(figure: Figure, comma: str) -> str:
    looks = figure.looks
    worn = f"穿着{COLOURS_ZH[looks.top_colour]}{_GARMENT_ZH[looks.top]}"
    if looks.bottom:
        worn += f"和{COLOURS_ZH[looks.bottom_colour]}{_GARMENT_ZH[looks.bottom]}"
    return worn + (f"{comma}戴着{COLOURS_ZH[looks.hat]}帽子" if looks.hat else "")


def _describe(figure: Figure) -> dict[str, Any]:
    """`json.figure`: everything that was chosen."""
    looks, stance = figure.looks, figure.stance
    return {
        "action": stance.action,
        "view": stance.view,
        "facing": {-1: "left", 0: "", 1: "right"}[stance.facing],
        "side": stance.side,
        "half": figure.half,
        "build": looks.build.name,
        "skin": looks.skin,
        "hair": {"style": looks.hair_style, "colour": looks.hair},
        "top": {"kind": looks.top, "colour": looks.top_colour},
        "bottom": {"kind": looks.bottom, "colour": looks.bottom_colour},
        "hat": looks.hat,
    }
