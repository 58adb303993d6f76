"""Captions: the scene's from the source, a layer's from the phrase that names it there, the background's from where things stand.

Which phrase belongs to which of several entities of one category is decided by colour alone: "a boy in a red jersey" goes to
the entity with the most red pixels, if no other has half as many. A phrase that colour does not place is used only where it
cannot be wrong: for the only entity of its category, or in the singular where it names all of them ("several skiers" -> "a
skier"). Otherwise the layer is called by its category.

Chinese captions are made only where the source has Chinese captions.

Writes `json.layer_captions`: one {"text": {lang: text}, "from": {lang: "phrase" | "singular" | "plural" | "category"}} an
entity, and `json.background`: {"caption": {lang: text}, "from": {lang: "phrase" | "none"}}; sets `txt` where there is none.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from lt.datagen.engine.stage import SampleStage
from lt.datagen.shards import Sample
from lt.datagen.shards.captions import LANGUAGES, captions_by_language
from lt.datagen.sources.grammar import article, plural
from lt.datagen.stages.colours import NAMES, colour_share
from lt.datagen.stages.masks import MASKS, expert, expert_class
from lt.datagen.stages.nouns import chinese_nouns, names_category, table
from lt.models.perception.phrases import Phrase

_JOINT = re.compile(r"\s+(in|wearing|with)\s+$")
_PLACE = re.compile(
    r"\b(on|in|at|by|near|along|down|up|across|against|over|beside|through|under|above|behind|front of|next to|into|onto)\s+$",
    re.I,
)
_PLACE_ZH = re.compile(
    r"在(.{1,14}?)(上面|下面|里面|旁边|前面|后面|上|下|里|旁|前|中|边)(?!面|边)|^(.{1,10}?)(上|里)(?:放|摆|有|停|站|坐)"
)
_PARSERS = {"en": "spacy", "zh": "jieba"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_HOW_MANY = {*NUMBERS, "a", "an", "the", "several", "many", "some", "few", "both", "all", "his", "her", "their"}
_PAIRS = ("skis", "scissors")
_IRREGULAR = {"person": "people", "mouse": "mice", "sheep": "sheep", "knife": "knives"} | {
    pair: pair for pair in _PAIRS
}
"""Plurals of COCO's categories that `plural` does not know."""


@dataclass(frozen=True)
class Candidate:
    """A phrase that names a category: as written, in the singular, without its number, and the colours it states."""

    text: str
    singular: str
    bare: str
    plural: bool
    colours: tuple[str, ...]


@dataclass(frozen=True)
class CaptionLayers(SampleStage):
    """A caption per layer and one for the background, in each language the source has (English and Chinese)."""

    least_colour: float = 0.08
    """Share of an entity that must show a phrase's colour."""
    name: ClassVar[str] = "caption-layers"
    made_by: ClassVar[tuple[str, ...]] = tuple(expert_class("parser", name) for name in _PARSERS.values())

    def process(self, sample: Sample) -> Sample:
        meta = sample.meta
        told = captions_by_language(sample)
        captions = {lang: told[lang] for lang in LANGUAGES if lang in told}
        if "txt" not in sample and "en" in captions:
            sample["txt"] = captions["en"][0]
        entities = meta["entities"]
        meta["layer_captions"] = [{"text": {}, "from": {}} for _ in entities]
        meta["background"] = {"caption": {}, "from": {}}
        for lang in captions or {"en": []}:
            self._caption(sample, lang, captions.get(lang, []))
        return sample

    def _caption(self, sample: Sample, lang: str, texts: list[str]) -> None:
        entities, meta = sample.meta["entities"], sample.meta
        phrases = expert("parser", _PARSERS[lang]).parse(texts) if texts else []
        for category in dict.fromkeys(entity["category"] for entity in entities):
            members = [number for number, entity in enumerate(entities) if entity["category"] == category]
            named = named_by(texts, phrases, category, lang)
            shares = [colour_share(sample.picture[sample[MASKS][number]]) for number in members]
            counts = [sum(name == category for name in entities[number]["categories"]) for number in members]
            areas = [int(sample[MASKS][number].sum()) for number in members]
            chosen = assign(named, shares, areas, counts, self.least_colour, lang)
            for number, count, found in zip(members, counts, chosen, strict=True):
                text, origin = found or (category_phrase(category, count, lang), "category")
                if text:
                    meta["layer_captions"][number]["text"][lang] = text
                    meta["layer_captions"][number]["from"][lang] = origin
        taken = {name for entity in entities for name in entity["categories"]}
        place = background_phrase(texts, phrases, taken) if lang == "en" else background_phrase_zh(texts, taken)
        if place or lang == "en":
            meta["background"]["caption"][lang] = place or "the background"
            meta["background"]["from"][lang] = "phrase" if place else "none"


def named_by(texts: list[str], phrases: list[list[Phrase]], category: str, lang: str) -> list[Candidate]:
    """The phrases of all captions that name `category`, with what is worn and said of its colour."""
    find = _english if lang == "en" else _chinese
    return [
        candidate
        for text, its in zip(texts, phrases, strict=True)
        for number, phrase in enumerate(its)
        if (candidate := find(text, its, number, category))
    ]


def assign(
    named: list[Candidate],
    shares: list[dict[str, float]],
    areas: list[int],
    counts: list[int],
    least: float,
    lang: str,
) -> list[tuple[str, str] | None]:
    """For each entity (its colour shares; its pixels; how many instances it joins) its caption and where that is from, or None.

    Colour first, the most certain pair first; then what cannot be wrong (see the head of this file).
    """
    chosen: list[tuple[str, str] | None] = [None] * len(shares)
    fits = [
        (min(share.get(colour, 0) for colour in candidate.colours) * areas[number], number, candidate)
        for candidate in named
        for number, share in enumerate(shares)
        if candidate.colours and not candidate.plural and counts[number] == 1
    ]
    used: set[str] = set()
    for pixels, number, candidate in sorted(fits, key=lambda fit: (-fit[0], fit[1])):
        rivals = [fit[0] for fit in fits if fit[2] is candidate and fit[1] != number]
        is_clear = pixels >= least * areas[number] and pixels >= 2 * max(rivals, default=0)
        if is_clear and not chosen[number] and candidate.text not in used:
            chosen[number] = candidate.text, "phrase"
            used.add(candidate.text)
    plain = [candidate for candidate in named if candidate.text not in used]
    single = max((c for c in plain if not c.plural and not c.colours), key=lambda c: len(c.text), default=None)
    several = max((c for c in plain if c.plural), key=lambda c: len(c.text), default=None)
    for number, count in enumerate(counts):
        if chosen[number]:
            continue
        if len(shares) == 1 and count == 1 and single:
            chosen[number] = single.text, "phrase"
        elif several and count == 1:
            chosen[number] = several.singular, "singular"
        elif several and lang == "en":
            chosen[number] = f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {several.bare}", "plural"
    return chosen


def _english(text: str, phrases: list[Phrase], number: int, category: str) -> Candidate | None:
    phrase = phrases[number]
    words = phrase.text.split()
    head, plural = phrase.head, phrase.plural
    if not names_category(head, category):  # "a skier smiles": a verb that looks like a plural noun
        if len(words) < 2 or not words[-1].endswith("s") or not names_category(words[-2].lower(), category):
            return None
        words, head, plural = words[:-1], words[-2].lower(), False
    worn = "" if len(words) < len(phrase.text.split()) else _worn(text, phrases, number)
    said = " ".join(words) + worn
    body = [word for word in words if word.lower() not in _HOW_MANY]
    several = head in ("people", "group", "crowd", "couple", "team", "family")
    one = " ".join([*body[:-1], "person" if several else head])
    return Candidate(
        said if said[:2].isupper() and said[1:2].isalpha() else said[:1].lower() + said[1:],
        f"{article(one)} {one}{worn}",
        " ".join(body) + worn,
        plural or several,
        tuple(sorted({NAMES[word] for word in re.findall(r"[a-z]+", said.lower()) if word in NAMES})),
    )


def _worn(text: str, phrases: list[Phrase], number: int) -> str:
    """ " in a red jacket" where the phrase that follows says what is worn, or in which colour; else nothing."""
    end = phrases[number].end
    for following in phrases[number + 1 : number + 2]:
        between, words = text[end : following.start], following.text.split()
        while words and words[-1].lower() not in table()["worn"]:
            words.pop()
        if words and _JOINT.fullmatch(between):
            return between + " ".join(words)
    found = re.match(r"\s+in\s+([a-z]+)\b", text[end:])
    return found.group(0) if found and found.group(1) in NAMES else ""


def _chinese(text: str, phrases: list[Phrase], number: int, category: str) -> Candidate | None:
    phrase = phrases[number]
    if not any(phrase.text.endswith(word) for word in chinese_nouns(category)):
        return None
    colours = tuple(sorted({NAMES[sign] for sign in phrase.text if sign in NAMES}))
    return Candidate(phrase.text, phrase.head, phrase.head, phrase.plural, colours)


def category_phrase(category: str, count: int, lang: str) -> str | None:
    """What an entity is called that no phrase names: "a person", "two people", "人"; None where no Chinese name is known."""
    if lang == "zh":
        return next(iter(chinese_nouns(category)), None)
    if count == 1:
        return category if category in _PAIRS else f"{article(category)} {category}"
    return f"{NUMBERS[count] if count < len(NUMBERS) else 'many'} {_IRREGULAR.get(category) or plural(category)}"


def background_phrase(texts: list[str], phrases: list[list[Phrase]], taken: set[str]) -> str | None:
    """Where things stand, by the first caption that says so: its phrases after "on", "in", "near" ... that name no layer."""
    banned = {*table()["not_places"], *table()["worn"], *NAMES}
    for text, its in zip(texts, phrases, strict=True):
        places = [
            phrase.text
            for phrase in its
            if _PLACE.search(text[: phrase.start])
            and phrase.head not in banned
            and not (
                phrase.text.split()[0] in NAMES and len(phrase.text.split()) == 2
            )  # "in blue waits": tagged wrongly
            and not set(table()["worn"]) & set(phrase.text.lower().split())
            and not any(names_category(phrase.head, category) for category in taken)
            and not names_category(phrase.head, "person")
        ]
        if places:
            return " and ".join(dict.fromkeys(places))
    return None


def background_phrase_zh(texts: list[str], taken: set[str]) -> str | None:
    """Where things stand in Chinese: what lies between 在 and 上, 里, 旁 ..., if it names no layer."""
    names = {word for category in taken for word in chinese_nouns(category) if len(word) > 1}
    for text in texts:
        for found in _PLACE_ZH.finditer(text):
            place = (found.group(1) or found.group(3) or "") + (found.group(2) or found.group(4) or "")
            if not any(name in place for name in names):
                return place
    return None
