"""Captions in English and Chinese: noun phrases with count, size and colour, and clauses that relate them.

    Phrase(koala), "left", Phrase(apple, count=2, colour="red")
        a koala to the left of two red apples        一只考拉在两个红苹果的左边

English needs a/an, plurals and the place of a colour in "a pair of blue socks"; Chinese needs measure words (一只, 两辆) and the
order number, measure word, colour, size, noun. A caption says the same in both languages, and mentions everything in the
picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lt.datagen.sources.concepts import Concept

RELATIONS = {
    "left": ("to the left of", "左边"),
    "right": ("to the right of", "右边"),
    "above": ("above", "上方"),
    "below": ("below", "下方"),
    "front": ("in front of", "前面"),
    "behind": ("behind", "后面"),
}
"""What can be said of where one thing is to another: English preposition and Chinese noun of place."""

CONVERSE = {"left": "right", "right": "left", "above": "below", "below": "above", "front": "behind", "behind": "front"}

COLOURS_ZH = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "grey": "灰色",
    "black": "黑色",
    "white": "白色",
}
SHORT_COLOURS_ZH = {"red": "红", "yellow": "黄", "green": "绿", "blue": "蓝", "purple": "紫", "grey": "灰"}
"""Colours that go straight before a noun of one or two characters: 红苹果, but 橙色的苹果 and 红色的公交车."""
SIZES_ZH = {"small": "小", "big": "大"}
NUMBERS = {1: ("", "一"), 2: ("two", "两"), 3: ("three", "三"), 4: ("four", "四")}

_SILENT_H = ("hour", "honest", "heir")
_CONSONANT_VOWEL = ("uni", "use", "eu", "one", "ukulele")
_SPELT_VOWEL = ("x-ray", "mp3", "f-", "l-", "n-", "s-")


def article(words: str) -> str:
    """`a` or `an`, by the sound that the words begin with."""
    start = words.lower()
    if start.startswith(_SILENT_H) or start.startswith(_SPELT_VOWEL):
        return "an"
    if start.startswith(_CONSONANT_VOWEL):
        return "a"
    return "an" if start.startswith(("a", "e", "i", "o", "u")) else "a"


def plural(noun: str) -> str:
    """The regular plural of a noun (irregular ones stand in the table of concepts)."""
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith(("s", "x", "z", "ch", "sh", "tato", "mato")):
        return noun + "es"
    return noun + "s"


@dataclass(frozen=True)
class Phrase:
    """One or several like things: what is said of them in a caption.

    Args:
        count: 1 to 4.
        colour: a key of `COLOURS_ZH`, or empty where the colour is not mentioned.
        size: `small`, `big`, or empty.
    """

    concept: Concept
    count: int = 1
    colour: str = ""
    size: str = ""

    @property
    def en(self) -> str:
        """`a koala`, `two small red apples`, `a big pair of blue socks`."""
        words = self._en_words(self.size)
        return f"{NUMBERS[self.count][0] or article(words)} {words}"

    @property
    def zh(self) -> str:
        """`一只考拉`, `两个红色的小苹果`."""
        return f"{NUMBERS[self.count][1]}{self.concept.measure}{self._zh_words(self.size)}"

    def the(self, with_colour: bool) -> tuple[str, str]:
        """The phrase, en and zh, when it was mentioned before: `the apples`; `with_colour` tells it from others of its kind."""
        return f"the {self._en_words('', with_colour)}", self._zh_words("", with_colour)

    @property
    def is_are(self) -> str:
        return "is" if self.count == 1 else "are"

    def _en_words(self, size: str, with_colour: bool = True) -> str:
        noun = self.concept.en if self.count == 1 else self.concept.plural or plural(self.concept.en)
        if self.colour and with_colour:
            head, of, rest = noun.partition(" of ")  # a pair of blue socks, not a blue pair of socks
            noun = f"{head} of {self.colour} {rest}" if of else f"{self.colour} {noun}"
        return f"{size} {noun}".strip()

    def _zh_words(self, size: str, with_colour: bool = True) -> str:
        noun, colour = self.concept.zh, f"{COLOURS_ZH[self.colour]}的" if self.colour and with_colour else ""
        if not size:
            is_short = colour and len(noun) <= 2
            return (SHORT_COLOURS_ZH.get(self.colour, colour) if is_short else colour) + noun
        if noun[0] in "大小":  # 小小鸡 and 大大象 are wrong
            return f"很{SIZES_ZH[size]}的{colour}{noun}"
        return f"{colour}{SIZES_ZH[size]}{noun}"


@dataclass(frozen=True)
class Clause:
    """`phrases[subject]` stands in `relation` to `phrases[objects]`: to one, or to all that were named before (`them`)."""

    subject: int
    relation: str
    objects: tuple[int, ...]


Told = tuple[Phrase, tuple[str, str], tuple[str, str]]
"""A clause's subject, its relation and its object, en and zh; the first clause of a caption names its object in full."""


def captions(phrases: Sequence[Phrase], clauses: Sequence[Clause], where: dict[str, str]) -> dict[str, list[str]]:
    """Three ways to say it in each language, the plainest first; the i-th of both languages say the same.

    The first clause names two phrases, each further clause one more; a single phrase needs no clause.

    Args:
        where: the background's phrase in both languages, `on a green meadow` and `绿色的草地上`.
    """
    if not clauses:
        return _alone(phrases[0], where)
    first = clauses[0]
    turned = Clause(first.objects[0], CONVERSE[first.relation], (first.subject,))
    told, told_turned = _told(phrases, clauses), _told(phrases, [turned, *clauses[1:]])
    return {"en": _english(told, told_turned, where["en"]), "zh": _chinese(told, told_turned, where["zh"])}


def _alone(phrase: Phrase, where: dict[str, str]) -> dict[str, list[str]]:
    en, zh = phrase.en, phrase.zh
    return {
        "en": [f"{en} {where['en']}", f"{where['en']}, {en}", f"There {phrase.is_are} {en} {where['en']}."],
        "zh": [f"{where['zh']}有{zh}", f"{zh}在{where['zh']}", f"图中{where['zh']}有{zh}。"],
    }


def _told(phrases: Sequence[Phrase], clauses: Sequence[Clause]) -> list[Told]:
    first = phrases[clauses[0].objects[0]]
    objects = [(first.en, first.zh), *(_object(phrases, clause) for clause in clauses[1:])]
    return [(phrases[c.subject], RELATIONS[c.relation], thing) for c, thing in zip(clauses, objects, strict=True)]


def _english(told: Sequence[Told], turned: Sequence[Told], where: str) -> list[str]:
    compact, (opening, *rest) = (
        [f"{subject.en} {relation} {thing}" for subject, (relation, _), (thing, _) in clauses]
        for clauses in (told, turned)
    )
    sentences = [f"{subject.en} {subject.is_are} {relation} {thing}." for subject, (relation, _), (thing, _) in told]
    sentences[0] = f"{where}, {sentences[0]}"
    return [
        ", ".join([*compact, where]),
        f"{opening} {where}" + (f", with {' and '.join(rest)}" if rest else ""),
        " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences),
    ]


def _chinese(told: Sequence[Told], turned: Sequence[Told], where: str) -> list[str]:
    compact = [
        "，".join([where, *(f"{subject.zh}在{thing}的{relation}" for subject, (_, relation), (_, thing) in clauses)])
        for clauses in (told, turned)
    ]
    (subject, (_, relation), (_, thing)), *rest = told
    parts = [f"{where}有{thing}，{relation}是{subject.zh}"]
    parts += [f"{thing}的{relation}有{subject.zh}" for subject, (_, relation), (_, thing) in rest]
    return [*compact, "，".join(parts) + "。"]


def _object(phrases: Sequence[Phrase], clause: Clause) -> tuple[str, str]:
    """What a further clause relates to, en and zh; with its colour where `the balloon` alone would not say which."""
    if len(clause.objects) != 1:
        return "them", "它们"
    phrase = phrases[clause.objects[0]]
    return phrase.the(sum(other.concept == phrase.concept for other in phrases) > 1)
