"""What can be told of a drawn figure: the attributes, their values, and how they are read from a sample's `json.figure`."""

from collections.abc import Mapping
from typing import Any

from lt.datagen.shards import Sample, SampleError
from lt.datagen.sources.backgrounds import KINDS
from lt.datagen.sources.figure_body import ACTIONS
from lt.datagen.sources.figure_drawing import GARMENT_COLOURS, HAIR_COLOURS, HAIR_STYLES

SIDES = ("", "left", "right")
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "person": ("person", "child"),
    "action": tuple(ACTIONS),
    "side": SIDES,
    "facing": SIDES,
    "view": ("front", "back", "side"),
    "half": ("", "half"),
    "top": ("shirt", "T-shirt", "dress"),
    "top_colour": tuple(GARMENT_COLOURS),
    "bottom": ("", "trousers", "shorts", "skirt"),
    "bottom_colour": ("", *GARMENT_COLOURS),
    "hat": ("", *GARMENT_COLOURS),
    "place": tuple(KINDS),
    "hair_style": HAIR_STYLES,
    "hair_colour": tuple(HAIR_COLOURS),
}
"""Attribute to its values, "" for none. `side`: the limb (the person's own) that acts; `facing`: to the viewer's side."""

IN_EVERY_WORDING = tuple(name for name in ATTRIBUTES if not name.startswith("hair"))
"""What every caption says of a figure (hat, side, back and half by saying it or not). Only one wording in three says hair."""


def described(sample: Sample) -> dict[str, str]:
    """The attributes of a figure, without those that its picture cannot show: the kind of bottom from the waist up, the style of
    hair under a hat.

    Raises:
        SampleError: `no-figure`.
    """
    figure: Mapping[str, Any] | None = sample.meta.get("figure") if "json" in sample else None
    if figure is None:
        raise SampleError("no-figure", "there is no json.figure: this is no sample of the world `figures`")
    told = {
        "person": "child" if figure["build"] == "child" else "person",
        **{name: figure[name] for name in ("action", "side", "facing", "view", "hat")},
        "half": "half" if figure["half"] else "",
        "top": figure["top"]["kind"],
        "top_colour": figure["top"]["colour"],
        "bottom": figure["bottom"]["kind"],
        "bottom_colour": figure["bottom"]["colour"],
        "place": sample.meta["background"]["kind"],
        "hair_style": figure["hair"]["style"],
        "hair_colour": figure["hair"]["colour"],
    }
    hidden = {"bottom"} if figure["half"] else set()
    hidden |= {"hair_style"} if figure["hat"] else set()
    return {name: value for name, value in told.items() if name not in hidden}
