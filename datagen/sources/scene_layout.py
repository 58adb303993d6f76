"""Where the things of a scene stand: a plan of what is said, and boxes and depths that make it true.

Coordinates are parts of the canvas' side (0..1), y downwards; a box is (x, y, width, height). Depth is the order of painting:
what comes later lies in front. A plan is made first (which things, how many, which relations); then it is laid out; a layout
that does not fit is thrown away and another tried, so that everything that a caption says holds; it is checked again on
pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, combinations, product

import numpy as np

from lt.datagen.sources.backgrounds import Background
from lt.datagen.sources.concepts import Concept, all_concepts
from lt.datagen.sources.drawings import ink_box
from lt.datagen.sources.grammar import Clause, Phrase
from lt.datagen.sources.held_out import split_of

Box = tuple[float, float, float, float]

SPLITS = ("train", "test", "novel")
MARGIN = 0.02
MIN_OVERLAP = 0.3
"""Things are beside each other if their boxes share this part of the lower one's height (above: of the narrower one's width)."""

LONG_SIDE = {"small": (0.18, 0.22), "": (0.27, 0.38), "big": (0.47, 0.58)}
"""The longer side of a thing that is called small, nothing, or big."""
BACKDROP_SIDE = (0.6, 0.75)
_CROWDED_SIDE = (0.24, 0.3)  # of an unsized thing where three or four are in the picture
_CATEGORIES = {
    "room": ("food", "object", "clothing", "furniture", "instrument"),
    "under water": ("animal",),
}
"""Backgrounds before which only these categories are drawn."""


class DoesNotFit(Exception):
    """This try found no layout."""


@dataclass(frozen=True)
class Plan:
    """What a scene shows, in the order of mention: `phrases[0]` and `phrases[1]` are related by `clauses[0]`."""

    phrases: tuple[Phrase, ...]
    clauses: tuple[Clause, ...]
    backdrop: int | None = None
    """The phrase that stands large behind all others."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """What decides the split: concept with concept, colour with concept, count with concept."""
        pairs = []
        for index, phrase in enumerate(self.phrases):
            name = phrase.concept.en
            pairs += [(name, other.concept.en) for other in self.phrases[:index]]
            pairs += [(word, name) for word in (phrase.colour, str(phrase.count) if phrase.count > 1 else "") if word]
        return pairs

    @property
    def is_unambiguous(self) -> bool:
        """Whether every two phrases differ in kind, or are of one kind in two named colours."""
        alike = [(a.colour, b.colour) for a, b in combinations(self.phrases, 2) if a.concept == b.concept]
        return all(a and b and a != b for a, b in alike)

    @property
    def in_sky(self) -> bool:
        """Whether everything belongs into the sky."""
        return all(phrase.concept.place == "sky" for phrase in self.phrases)

    @property
    def novel(self) -> list[str]:
        return [phrase.concept.en for phrase in self.phrases if phrase.concept.novel]

    @property
    def split(self) -> str:
        """Which split a scene of this plan belongs to: `novel` before `test` before `train`."""
        return "novel" if self.novel else split_of(self.pairs)


# Planning


def sample_plan(rng: np.random.Generator, background: Background, split: str) -> Plan:
    """A plan of 1 to 4 things that belongs to `split` and could stand before `background`."""
    candidates = _candidates(background.kind, background.places, split == "novel")
    sizes = list(rng.choice(_COUNTS, p=_COUNTS_WEIGHT))
    for _ in range(2000):
        plan = _try_plan(rng, background, candidates, [int(count) for count in sizes if count])
        if plan.split == split and plan.is_unambiguous:
            return plan
    raise RuntimeError(f"no {split} scene on {background.kind}: the table of concepts is too small for it")


_COUNTS = np.array(
    [(1, 0, 0, 0), (2, 0, 0, 0), (3, 0, 0, 0), (1, 1, 0, 0), (1, 2, 0, 0), (2, 1, 0, 0), (1, 3, 0, 0), (2, 2, 0, 0)]
    + [(1, 1, 1, 0), (1, 2, 1, 0), (2, 1, 1, 0), (1, 1, 1, 1)]
)
"""How many things each phrase stands for."""
_COUNTS_WEIGHT = np.array([8, 4, 3, 22, 12, 8, 5, 4, 16, 8, 4, 6]) / 100


@cache
def _candidates(kind: str, places: tuple[str, ...], with_novel: bool) -> tuple[Concept, ...]:
    concepts = (c for c in all_concepts() if c.place in places and (with_novel or not c.novel))
    return tuple(c for c in concepts if c.category in _CATEGORIES.get(kind, (c.category,)))


def _try_plan(
    rng: np.random.Generator, background: Background, candidates: Sequence[Concept], counts: Sequence[int]
) -> Plan:
    total = sum(counts)
    phrases = [_phrase(rng, candidates, count, total) for count in counts]
    if len(phrases) > 1 and phrases[0].colour and rng.random() < 0.25:  # a red car and a blue car
        phrases[1] = replace(phrases[0], colour=_other_colour(rng, phrases[0]), count=counts[1])
    backdrop = None
    if len(phrases) > 1 and counts[-1] == 1 and rng.random() < 0.3:
        large = [c for c in candidates if c.backdrop and (c.place == "ground" or not background.horizon)]
        if large:
            backdrop = len(phrases) - 1
            phrases[-1] = Phrase(large[int(rng.integers(len(large)))])
    clauses = [_clause(rng, background, phrases, index, backdrop) for index in range(1, len(phrases))]
    return Plan(tuple(phrases), tuple(clauses), backdrop)


def _phrase(rng: np.random.Generator, candidates: Sequence[Concept], count: int, total: int) -> Phrase:
    concept = candidates[int(rng.integers(len(candidates)))]
    colour = size = ""
    if concept.colours and rng.random() < 0.75:
        colour = concept.colours[int(rng.integers(len(concept.colours)))]
    if rng.random() < 0.3:
        size = "big" if rng.random() < 0.5 and total < 3 and count == 1 else "small"
    return Phrase(concept, count, colour, size)


def _other_colour(rng: np.random.Generator, phrase: Phrase) -> str:
    colours = [colour for colour in phrase.concept.colours if colour != phrase.colour]
    return colours[int(rng.integers(len(colours)))] if colours else phrase.colour


def _clause(
    rng: np.random.Generator, background: Background, phrases: Sequence[Phrase], index: int, backdrop: int | None
) -> Clause:
    """How phrase `index` is tied to those before it. The first clause has phrase 0 for its subject: `0 left of 1`."""
    if index == 1:
        relation = "front" if backdrop == 1 else _relation(rng, background, phrases[0], phrases[1])
        return Clause(0, relation, (1,))
    if index == backdrop:
        return Clause(index, "behind", tuple(range(index)))
    if rng.random() < 0.5:
        objects = tuple(range(index))
        place = phrases[0].concept.place if len({phrases[i].concept.place for i in objects}) == 1 else "mixed"
    else:
        objects = (int(rng.integers(index)),)
        place = phrases[objects[0]].concept.place
    relations = _relations(background, phrases[index].concept.place, place)
    return Clause(index, relations[int(rng.integers(len(relations)))], objects)


def _relation(rng: np.random.Generator, background: Background, subject: Phrase, other: Phrase) -> str:
    relations = list(_relations(background, subject.concept.place, other.concept.place))
    if subject.count == other.count == 1 and {"small", "big"} & {subject.size, other.size}:
        smaller_first = subject.size == "small" or other.size == "big"
        relations += ["front"] * 2 if smaller_first else ["behind"] * 2
    return relations[int(rng.integers(len(relations)))]


def _relations(background: Background, place: str, other: str) -> tuple[str, ...]:
    """What may be said before this background: nothing hovers over a meadow but what belongs into the sky."""
    if not background.is_landscape or place == other == "sky":
        return ("left", "right", "above", "below")
    if place == other:
        return ("left", "right")
    return ("above",) if place == "sky" else ("below",)


# Layout


def lay_out(rng: np.random.Generator, plan: Plan, background: Background) -> list[tuple[int, Box]]:
    """Every thing of the plan, lowest first: which phrase it belongs to, and where its ink is.

    Raises:
        DoesNotFit: no place was found in this try.
    """
    total = sum(phrase.count for phrase in plan.phrases)
    groups = [
        _arrange(rng, phrase, total, index == plan.backdrop, background) for index, phrase in enumerate(plan.phrases)
    ]
    placed: dict[int, list[Box]] = {}
    for clause in plan.clauses:
        for index in (clause.objects[0], clause.subject):
            if not placed:
                placed[index] = groups[index]
            elif index not in placed:
                placed[index] = _put(rng, groups[index], clause, placed, background)
    placed = placed or {0: groups[0]}
    _check_apart(plan, placed)
    right, down = _fit(rng, plan, placed, background)
    order = _painting_order(plan, placed)
    return [(index, (x + right, y + down, width, height)) for index in order for x, y, width, height in placed[index]]


def _arrange(
    rng: np.random.Generator, phrase: Phrase, total: int, is_backdrop: bool, background: Background
) -> list[Box]:
    """The boxes of one phrase's things, the first at the origin: in a row, or a pyramid where nothing has to stand."""
    low, high = LONG_SIDE[phrase.size]
    if is_backdrop:
        low, high = BACKDROP_SIDE
    elif not phrase.size and total > 2:
        low, high = _CROWDED_SIDE
    side = float(rng.uniform(low, high))
    _, _, ink_width, ink_height = ink_box(phrase.concept.code)
    width, height = side * ink_width / max(ink_width, ink_height), side * ink_height / max(ink_width, ink_height)
    step = width + float(rng.uniform(0.015, 0.04))
    if phrase.count == 3 and not background.is_landscape and rng.random() < 0.4:
        return [(0, 0, width, height), (step, 0, width, height), (step / 2, -height - 0.015, width, height)]
    jitter = rng.uniform(-0.01, 0.01, phrase.count)
    return [(step * i, float(jitter[i]), width, height) for i in range(phrase.count)]


def _put(
    rng: np.random.Generator, group: list[Box], clause: Clause, placed: dict[int, list[Box]], background: Background
) -> list[Box]:
    """Move a group so that it stands in the clause's relation to what is there."""
    target = union([box for index in clause.objects if index in placed for box in placed[index]])
    x, y, width, height = union(group)
    tx, ty, target_width, target_height = target
    gap = float(rng.uniform(0.03, 0.1))
    sway = float(rng.uniform(-0.5, 0.5))
    stands = background.is_landscape
    base = ty + target_height - height  # both on the same ground
    beside = base + float(rng.uniform(-0.02, 0.02)) if stands else ty + (target_height - height) / 2 + sway * 0.15
    over = tx + (target_width - width) / 2 + sway * 0.3 * max(target_width, width)
    positions: dict[str, Callable[[], tuple[float, float]]] = {
        "left": lambda: (tx - gap - width, beside),
        "right": lambda: (tx + target_width + gap, beside),
        "above": lambda: (over, ty - gap - height),
        "below": lambda: (over, ty + target_height + gap),
        "front": lambda: (tx + (target_width - width) * (0.5 + sway), base + height * float(rng.uniform(0.15, 0.3))),
        "behind": lambda: (
            tx + (target_width - width) * (0.5 + sway * 0.6),
            base - height * float(rng.uniform(0.1, 0.25)),
        ),
    }
    new_x, new_y = positions[clause.relation]()
    return [(bx - x + new_x, by - y + new_y, bw, bh) for bx, by, bw, bh in group]


def _check_apart(plan: Plan, placed: dict[int, list[Box]]) -> None:
    """Things touch only where the caption says that one is in front of the other."""
    meeting = {frozenset((c.subject, o)) for c in plan.clauses if c.relation in ("front", "behind") for o in c.objects}
    if plan.backdrop is not None:
        meeting |= {frozenset((plan.backdrop, index)) for index in placed}
    apart = [pair for pair in combinations(placed, 2) if frozenset(pair) not in meeting]
    for a, b in chain.from_iterable(product(placed[first], placed[second]) for first, second in apart):
        if _overlap(a, b, 0) > -0.01 and _overlap(a, b, 1) > -0.01:
            raise DoesNotFit


def _fit(
    rng: np.random.Generator, plan: Plan, placed: dict[int, list[Box]], background: Background
) -> tuple[float, float]:
    """How far to move everything so that it lies in the canvas, feet on the ground and wings in the sky."""
    x, y, width, height = union([box for boxes in placed.values() for box in boxes])
    left, right = MARGIN - x, 1 - MARGIN - (x + width)
    top, bottom = MARGIN - y, 1 - MARGIN - (y + height)
    if background.is_landscape:
        for index, boxes in placed.items():
            for _, by, _, bh in boxes:
                if plan.phrases[index].concept.place == "sky":
                    bottom = min(bottom, background.horizon - (by + bh))
                else:
                    top = max(top, background.horizon + 0.04 - (by + bh))
    if left > right or top > bottom:
        raise DoesNotFit
    return float(rng.uniform(left, right)), float(rng.uniform(top, bottom))


def _painting_order(plan: Plan, placed: dict[int, list[Box]]) -> list[int]:
    """The phrases, lowest first: the backdrop, `front` after `behind`, else by where the feet are."""
    order = sorted(
        placed, key=lambda index: (index != plan.backdrop, union(placed[index])[1] + union(placed[index])[3])
    )
    for clause in plan.clauses:
        if clause.relation in ("front", "behind") and clause.subject != plan.backdrop:
            order.remove(clause.subject)
            spots = [order.index(index) for index in clause.objects]
            order.insert(max(spots) + 1 if clause.relation == "front" else min(spots), clause.subject)
    return order


# What is true of boxes


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box round all `boxes`."""
    x, y = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    return x, y, right - x, bottom - y


def is_beside(relation: str, subject: Sequence[Box], other: Sequence[Box]) -> bool:
    """Whether `left`, `right`, `above` or `below` holds between two groups of boxes (of any unit).

    The groups lie apart in that direction, and across it share at least `MIN_OVERLAP` of the smaller one's extent.
    """
    axis = 0 if relation in ("left", "right") else 1
    first, second = (subject, other) if relation in ("left", "above") else (other, subject)
    a, b = union(first), union(second)
    across = 1 - axis
    return a[axis] + a[axis + 2] <= b[axis] and _overlap(a, b, across) >= MIN_OVERLAP * min(
        a[across + 2], b[across + 2]
    )


def _overlap(a: Box, b: Box, axis: int) -> float:
    """How far two boxes overlap along an axis; negative is the gap between them."""
    return min(a[axis] + a[axis + 2], b[axis] + b[axis + 2]) - max(a[axis], b[axis])
