"""The concepts that scenes are made of: a curated choice of OpenMoji drawings with their words in both languages.

The table is `concepts.json`: drawings that show one recognisable thing (no faces with moods, signs, letters, clocks with times,
landscapes, activities) and that have a plain name in English and Chinese. A line holds

    code        code points of the drawing            en, zh     its name, singular
    plural      where English is irregular            measure    the Chinese measure word: 一只考拉
    category    animal, food, vehicle ...             place      where it belongs: ground, sky or water
    paint       the colour of the drawing's body      colours    the colours that it may be painted, `paint` among them
    backdrop    large enough in life to stand         novel      kept out of training and test: seen only by
                behind other things                              the split `novel`
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("concepts.json")


@dataclass(frozen=True)
class Concept:
    """One thing that can be drawn and named. The fields are those of `concepts.json`."""

    code: str
    en: str
    zh: str
    measure: str
    category: str
    place: str
    plural: str = ""
    paint: str = ""
    colours: tuple[str, ...] = ()
    backdrop: bool = False
    novel: bool = False


@cache
def all_concepts() -> tuple[Concept, ...]:
    """The table, in its order."""
    rows = json.loads(TABLE.read_text("utf-8"))
    return tuple(Concept(**{**row, "colours": tuple(row.get("colours", ()))}) for row in rows)


@cache
def concept_named(name: str) -> Concept:
    """The concept with this English name. Raises KeyError."""
    return {concept.en: concept for concept in all_concepts()}[name]
