"""The world scenes: exact to the bit, the same everywhere, splits apart, and every caption true of the pixels.

The captions are read back by a small parser of this file and held against the layers' alpha, not against the plan that made them.
"""

import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import rng_for
from lt.datagen.shards import Sample, captions_of, open_shards
from lt.datagen.shards.compose import composite, recomposition_error
from lt.datagen.shards.errors import UsageError
from lt.datagen.sources.backgrounds import KINDS, sample_background
from lt.datagen.sources.concepts import all_concepts, concept_named
from lt.datagen.sources.grammar import COLOURS_ZH, NUMBERS, SHORT_COLOURS_ZH, plural
from lt.datagen.sources.held_out import SHARE, is_held_out, split_of
from lt.datagen.sources.scene_layout import is_beside
from lt.datagen.sources.scenes import ScenesSource
from lt.datagen.worlds import world_pipeline

SPLITS = ("train", "test", "novel")
SIZE = 96


def scenes(split: str, count: int = 60, seed: int = 0, size: int = SIZE) -> list[Sample]:
    source = ScenesSource(count, split, seed, size)
    return [source.sample(number) for number in range(count)]


@pytest.fixture(scope="module", params=SPLITS)
def world(request) -> list[Sample]:
    return scenes(request.param)


def digest(sample: Sample) -> str:
    return hashlib.sha256(b"".join(sample.encoded(name) for name in sample.fields)).hexdigest()


def digests(split: str, numbers: list[int]) -> list[str]:
    source = ScenesSource(50, split, 7, SIZE)
    return [digest(source.sample(number)) for number in numbers]


ELSEWHERE = f"""
import hashlib
from lt.datagen.sources.scenes import ScenesSource
source = ScenesSource(50, "train", 7, {SIZE})
for number in (2, 0):
    sample = source.sample(number)
    print(hashlib.sha256(b"".join(sample.encoded(name) for name in sample.fields)).hexdigest())
"""


# Exact, the same everywhere


def test_pictures_are_their_layers_to_the_bit_after_encoding(world):
    for sample in world:
        read = Sample(sample.key, {name: sample.encoded(name) for name in sample.fields})
        layers = [read[name] for name in read.layer_fields]
        assert 1 <= len(layers) <= 4
        assert len(layers) == len(read.meta["layers"])
        assert np.array_equal(composite(read["background.png"], layers), read["png"])
        assert recomposition_error(read["png"], read["background.png"], layers) == 0


def test_the_same_seed_gives_the_same_bytes_in_any_order_and_process():
    here = digests("train", [0, 1, 2, 3])
    assert digests("train", [3, 1, 0, 2]) == [here[i] for i in (3, 1, 0, 2)]
    elsewhere = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=True, timeout=60
    )
    assert elsewhere.stdout.split() == [here[2], here[0]]
    assert len(set(here)) == 4


def test_seeds_and_splits_differ():
    first, other_seed = ScenesSource(1, "train", 0, 64).sample(0), ScenesSource(1, "train", 1, 64).sample(0)
    assert first.key == "scene-train-0-000000"
    assert other_seed.key == "scene-train-1-000000"
    assert digest(first) != digest(other_seed)


@given(seed=st.integers(-(2**40), 2**40), size=st.integers(64, 200), split=st.sampled_from(SPLITS))
@settings(max_examples=20, deadline=None)
def test_any_seed_and_size_is_exact_and_true(seed, size, split):
    sample = ScenesSource(1, split, seed, size).sample(0)
    assert sample["png"].shape == (size, size, 3)
    layers = [sample[name] for name in sample.layer_fields]
    assert np.array_equal(composite(sample["background.png"], layers), sample["png"])
    check_captions(sample)


def test_shards_through_the_engine(tmp_path):
    pipeline = world_pipeline("scenes", count=7, split="test", seed=3, size=64, shard_size=4)
    assert run_pipeline(pipeline, tmp_path / "scenes", workers=0).exit_code == 0
    read = list(open_shards(tmp_path / "scenes"))
    assert [sample.key for sample in read] == [f"scene-test-3-{number:06d}" for number in range(7)]
    source = ScenesSource(7, "test", 3, 64)
    for number, sample in enumerate(read):
        assert sample.encoded("png") == source.sample(number).encoded("png")
        assert captions_of(sample, "zh") == captions_of(source.sample(number), "zh")


# What is said of each layer


def test_layers_are_described_as_they_are(world):
    for sample in world:
        layers = [sample[name] for name in sample.layer_fields]
        assert "CC BY-SA 4.0" in sample.meta["source"]["licence"]
        for z, said in enumerate(sample.meta["layers"]):
            alpha = layers[z][..., 3]
            assert said["z"] == z
            rows, columns = np.nonzero(alpha)
            assert said["bbox"] == [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert said["visible"] == pytest.approx(seen_share(layers, z), abs=1e-4)
            assert said["visible"] >= 0.45
            assert set(said["caption"]) == {"en", "zh"}
            colour = said["attributes"]["colour"]
            assert said["category"] in said["caption"]["en"].replace(f"{colour} " if colour else "", "")


def seen_share(layers: list[np.ndarray], z: int) -> float:
    alpha = layers[z][..., 3] / 255
    through = np.prod([1 - upper[..., 3] / 255 for upper in layers[z + 1 :]], axis=0) if z + 1 < len(layers) else 1
    return float((alpha * through).sum() / alpha.sum())


# Captions against pixels


def test_every_english_caption_is_true(world):
    for sample in world:
        check_captions(sample)


def test_chinese_says_what_english_says(world):
    for sample in world:
        en, zh = sample.meta["captions"]["en"], sample.meta["captions"]["zh"]
        assert len(en) == len(zh) == 3
        if not sample.meta["relations"]:
            assert len({phrase_in(text) for text in zh}) == 1
            continue
        for form, read in enumerate((chinese_claims, chinese_claims, existential_claims)):
            english = [(plain(c.subject), c.relation, plain(c.other)) for c in english_claims(sample, en[form])]
            if form == 2:  # "the apples have a koala to the left" is told in the order of the first form
                english = [(plain(c.subject), c.relation, plain(c.other)) for c in english_claims(sample, en[0])]
            assert read(zh[form]) == english, (sample.key, zh[form])


@dataclass(frozen=True)
class Said:
    """A noun phrase read from a caption."""

    name: str
    count: int
    colour: str
    size: str
    definite: bool = False


THEM = Said("them", 0, "", "", True)


@dataclass(frozen=True)
class Claim:
    subject: Said
    relation: str
    other: Said


RELATION = {
    "to the left of": "left",
    "to the right of": "right",
    "above": "above",
    "below": "below",
    "in front of": "front",
    "behind": "behind",
}
NUMBER = {"a": 1, "an": 1, "two": 2, "three": 3, "four": 4}
NOUNS = {c.en: (c.en, 1) for c in all_concepts()} | {
    (c.plural or plural(c.en)): (c.en, 0) for c in all_concepts() if c.plural != c.en
}
CLAIM = re.compile(rf"(.+?) (?:is |are )?({'|'.join(RELATION)}) (.+)")


def english_claims(sample: Sample, caption: str) -> list[Claim]:
    """All claims of a caption of several phrases, in their order; the place is checked and cut off."""
    text = without_place(sample, caption)
    parts = [part.strip(" ,.;") for part in re.split(r"[,.;] ?| and |with ", text)]
    claims = []
    for part in filter(None, parts):
        match = CLAIM.fullmatch(part[0].lower() + part[1:] if not part.startswith(("T-", "F")) else part)
        assert match, (caption, part)
        claims.append(Claim(noun_phrase(match[1]), RELATION[match[2]], noun_phrase(match[3])))
    return claims


def without_place(sample: Sample, caption: str) -> str:
    """The caption without its one mention of the background."""
    place = sample.meta["background"]["caption"]["en"]
    text, found = re.subn(rf"(, | |^)\w+(?: front of)? {re.escape(place)}(, )?", "; ", caption, flags=re.IGNORECASE)
    assert found == 1, (caption, place)
    return text


def noun_phrase(text: str) -> Said:
    if text == "them":
        return THEM
    determiner, *words = text.split()
    size = words.pop(0) if words[0] in ("small", "big") else ""
    colours = [i for i, word in enumerate(words) if word in COLOURS_ZH and (i == 0 or words[i - 1] == "of")]
    colour = words.pop(colours[0]) if colours else ""
    name, is_one = NOUNS[" ".join(words)]
    if determiner == "the":
        return Said(name, 0, colour, "", True)
    count = NUMBER[determiner]
    assert is_one or count > 1, text
    if determiner in ("a", "an"):
        assert (determiner == "an") == (
            text.split()[1][0].lower() in "aeiou" or "hour" in text.split()[1]
        ) or "uni" in text
    return Said(name, count, colour, size)


def check_captions(sample: Sample) -> None:
    """Hold every English caption against the layers."""
    assert sample["txt"] == sample.meta["captions"]["en"][0]
    layers = [sample[name] for name in sample.layer_fields]
    for caption in sample.meta["captions"]["en"]:
        if not sample.meta["relations"]:
            check_alone(sample, caption)
            continue
        named: dict[Said, list[int]] = {}
        for claim in english_claims(sample, caption):
            groups = []
            for said in (claim.subject, claim.other):
                if said.definite:
                    groups.append(recall(said, named))
                else:
                    groups.append(members(sample, said))
            subject, other = groups
            assert is_true(claim.relation, subject, other, layers), (sample.key, caption, claim)
            named |= {
                said: zs for said, zs in zip((claim.subject, claim.other), groups, strict=True) if not said.definite
            }
        assert sorted(z for zs in named.values() for z in zs) == list(range(len(layers))), "something is not mentioned"


def check_alone(sample: Sample, caption: str) -> None:
    text = re.sub(r"^There (?:is|are) ", "", without_place(sample, caption)).strip(" ,.;")
    said = noun_phrase(text[0].lower() + text[1:])
    assert members(sample, said) == list(range(len(sample.layer_fields))), caption


def members(sample: Sample, said: Said) -> list[int]:
    """The layers that a phrase is about; their count, size and colour are checked on the way."""
    size = sample["png"].shape[0]
    zs = [
        z
        for z, layer in enumerate(sample.meta["layers"])
        if layer["category"] == said.name and (not said.colour or layer["attributes"]["colour"] == said.colour)
    ]
    assert len(zs) == said.count, (sample.key, said)
    for z in zs:
        rows, columns = np.nonzero(sample[f"layer-{z:02d}.png"][..., 3])
        side = (max(np.ptp(rows), np.ptp(columns)) + 1) / size
        assert said.size != "small" or side < 0.25, (sample.key, said, side)
        assert said.size != "big" or side > 0.42, (sample.key, said, side)
        assert said.size or side > 0.2, (sample.key, said, side)
    return zs


def recall(said: Said, named: dict[Said, list[int]]) -> list[int]:
    """What `them` or `the apples` stands for: all that was named, or the one phrase that fits."""
    if said == THEM:
        return [z for zs in named.values() for z in zs]
    fitting = [zs for before, zs in named.items() if before.name == said.name and said.colour in ("", before.colour)]
    assert len(fitting) == 1, (said, named)
    return fitting[0]


def is_true(relation: str, subject: list[int], other: list[int], layers: list[np.ndarray]) -> bool:
    """A relation between two groups of layers, from their alpha alone."""
    a, b = (np.any([layers[z][..., 3] > 0 for z in zs], axis=0) for zs in (subject, other))
    (ay, ax), (by, bx) = np.nonzero(a), np.nonzero(b)
    if relation in ("left", "right"):
        return ax.max() < bx.min() if relation == "left" else ax.min() > bx.max()
    if relation in ("above", "below"):
        return ay.max() < by.min() if relation == "above" else ay.min() > by.max()
    upper, lower = (subject, other) if relation == "front" else (other, subject)
    meet = all(((layers[i][..., 3] > 127) & (layers[j][..., 3] > 127)).any() for i in upper for j in lower)
    return meet and min(upper) > max(lower)


RELATION_ZH = {"左边": "left", "右边": "right", "上方": "above", "下方": "below", "前面": "front", "后面": "behind"}
NAMES_ZH = {c.zh: c for c in all_concepts()}


def chinese_claims(caption: str) -> list[tuple]:
    claims = []
    for clause in caption.split("，")[1:]:
        match = re.fullmatch(rf"(.+)在(.+)的({'|'.join(RELATION_ZH)})", clause)
        assert match, clause
        claims.append((parse_zh(match[1]), RELATION_ZH[match[3]], parse_zh(match[2])))
    return claims


def existential_claims(caption: str) -> list[tuple]:
    """Claims of `草地上有两个苹果，左边是一只考拉，它们的后面有一朵云。`"""
    head, first, *rest = caption.rstrip("。").split("，")
    anchor = parse_zh(re.sub(r"^.*有(?=[一两三四])", "", head))
    relation, subject = first.split("是", 1)
    claims = [(parse_zh(subject), RELATION_ZH[relation], anchor)]
    for clause in rest:
        match = re.fullmatch(rf"(.+)的({'|'.join(RELATION_ZH)})有(.+)", clause)
        assert match, clause
        claims.append((parse_zh(match[3]), RELATION_ZH[match[2]], parse_zh(match[1])))
    return claims


def phrase_in(caption: str) -> tuple:
    """The one phrase of a Chinese caption without relations."""
    match = re.search(r"(?:有([一两三四].+?)。?$)|(?:^([一两三四].+?)在)", caption)
    assert match, caption
    return parse_zh(match[1] or match[2])


def parse_zh(text: str) -> tuple:
    """(name, count, colour, size) of a Chinese phrase; its measure word is checked."""
    if text == "它们":
        return ("them", 0, "", "")
    name = max((name for name in NAMES_ZH if text.endswith(name)), key=len)
    rest = text[: -len(name)]
    count, size = 0, ""
    if rest and rest[0] in "一两三四":
        count = {zh: number for number, (_, zh) in NUMBERS.items()}[rest[0]]
        assert rest[1] == NAMES_ZH[name].measure, text
        rest = rest[2:]
    for word, english in (("小", "small"), ("大", "big")):
        if rest.startswith(f"很{word}的"):
            size, rest = english, rest[3:]
        elif rest.endswith(word):
            size, rest = english, rest[:-1]
    long = {zh + "的": en for en, zh in COLOURS_ZH.items()}
    short = {zh: en for en, zh in SHORT_COLOURS_ZH.items()}
    return (NAMES_ZH[name].en, count, (long | short)[rest] if rest else "", size)


def plain(said: Said) -> tuple:
    return (said.name, said.count, said.colour, said.size)


# Splits


def pairs_of(sample: Sample) -> set[tuple[str, str]]:
    """The combinations in a picture, from its layers."""
    layers = sample.meta["layers"]
    groups = {layer["phrase"]: layer for layer in layers}
    names = [layer["category"] for layer in groups.values()]
    pairs = {(a, b) for i, a in enumerate(names) for b in names[:i]}
    pairs |= {(g["attributes"]["colour"], g["category"]) for g in groups.values() if g["attributes"]["colour"]}
    counts = {p: sum(layer["phrase"] == p for layer in layers) for p in groups}
    return pairs | {(str(counts[p]), g["category"]) for p, g in groups.items() if counts[p] > 1}


def test_train_and_test_are_apart_by_combination():
    train, test, novel = (scenes(split, 120, size=64) for split in SPLITS)
    known = {c.en for c in all_concepts() if not c.novel}
    for sample in train:
        assert not any(is_held_out(*pair) for pair in pairs_of(sample))
    for sample in test:
        assert any(is_held_out(*pair) for pair in pairs_of(sample))
    for sample in (*train, *test):
        assert {layer["category"] for layer in sample.meta["layers"]} <= known
        assert sample.meta["novel"] == []
    for sample in novel:
        shown = {layer["category"] for layer in sample.meta["layers"]}
        assert set(sample.meta["novel"]) == {name for name in shown if concept_named(name).novel} != set()
    assert not {s["txt"] for s in train} & {s["txt"] for s in test}


def test_the_held_out_pairs_are_a_fixed_fifth():
    names = [c.en for c in all_concepts()]
    held = [is_held_out(a, b) for i, a in enumerate(names) for b in names[:i]]
    assert np.mean(held) == pytest.approx(SHARE, abs=0.01)
    assert is_held_out("koala", "apple") == is_held_out("apple", "koala")
    fixed = [("red", "apple"), ("koala", "apple"), ("2", "koala"), ("2", "bear"), ("cat", "dog"), ("blue", "fish")]
    assert [split_of([pair]) for pair in fixed] == ["train", "train", "train", "test", "test", "test"]


def test_splits_and_sizes_that_do_not_exist_are_named():
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        ScenesSource(1, "trian")
    with pytest.raises(UsageError, match="size is 8"):
        ScenesSource(1, size=8)
    with pytest.raises(UsageError, match="count is 0"):
        ScenesSource(0)


# Variety


def test_the_world_is_rich():
    many = scenes("train", 200, seed=5, size=64)
    metas = [sample.meta for sample in many]
    assert {m["background"]["kind"] for m in metas} == set(KINDS)
    assert {r["relation"] for m in metas for r in m["relations"]} == {
        "left",
        "right",
        "above",
        "below",
        "front",
        "behind",
    }
    assert {len(m["layers"]) for m in metas} == {1, 2, 3, 4}
    assert {layer["attributes"]["size"] for m in metas for layer in m["layers"]} == {"", "small", "big"}
    assert len({layer["category"] for m in metas for layer in m["layers"]}) > 120
    assert any(min(layer["visible"] for layer in m["layers"]) < 0.9 for m in metas)
    assert len({sample["txt"] for sample in many}) > 195


def test_backgrounds_are_opaque_and_differ():
    for kind in KINDS:
        one, other = (sample_background(rng_for(seed, kind), (kind,)) for seed in (0, 1))
        picture = one.render(48)
        assert picture.shape == (48, 48, 3)
        assert one.kind == kind
        assert not np.array_equal(picture, other.render(48)) or one == other
        assert one.where()["en"].endswith(one.en)
        assert one.where()["zh"].startswith(one.zh)


def test_what_flies_is_above_the_ground_not_on_it():
    meadow = sample_background(rng_for(0), ("meadow",))
    assert meadow.where()["en"] == "on a green meadow under a blue sky"
    assert meadow.where(in_sky=True) == {"en": "above a green meadow under a blue sky", "zh": "蓝天下的绿色草地上空"}


def test_is_beside_wants_a_gap_and_a_common_height():
    box = (0, 0, 10, 10)
    assert is_beside("left", [box], [(10, 0, 5, 10)])
    assert is_beside("right", [(10, 0, 5, 10)], [box])
    assert not is_beside("left", [box], [(9, 0, 5, 10)])
    assert not is_beside("left", [box], [(20, 8, 5, 10)])
    assert is_beside("above", [box], [(0, 12, 10, 3)])
    assert not is_beside("below", [box], [(0, 12, 10, 3)])
    assert not is_beside("left", [box, (30, 0, 2, 2)], [(15, 0, 5, 10)])
