"""Which nouns name a category, in English and Chinese (`nouns.json`): COCO's 80 and those of the photographs that ship with lt.

The first Chinese word is the category's name there. A category that is not listed is named by its own last word, in English only.
"""

import json
from functools import lru_cache
from importlib.resources import files
from typing import Any


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """The words: {"categories": {name: {"en": [...], "zh": [...]}}, "worn": [...], "not_places": [...]}."""
    return json.loads(files("lt.datagen.stages").joinpath("nouns.json").read_text("utf-8"))


def chinese_nouns(category: str) -> list[str]:
    """Words that name `category`, its usual name first; empty where the table does not have it."""
    known = table()["categories"].get(category)
    return known["zh"] if known else []


def names_category(noun: str, category: str) -> bool:
    """Whether the English `noun` (a lemma, lower case) names `category`."""
    known = table()["categories"].get(category)
    return noun in [category, *(known["en"] if known else category.split()[-1:])]
