"""The caption grammar: articles, plurals, colours in their place, measure words, references, and the forms of a caption."""

import pytest

from lt.datagen.sources.concepts import all_concepts, concept_named
from lt.datagen.sources.grammar import Clause, Phrase, article, captions, plural

WHERE = {"en": "on a green meadow", "zh": "绿色的草地上"}


def phrase(name: str, count: int = 1, colour: str = "", size: str = "") -> Phrase:
    return Phrase(concept_named(name), count, colour, size)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("koala", "a"),
        ("orange balloon", "an"),
        ("umbrella", "an"),
        ("unicorn", "a"),
        ("hourglass", "an"),
        ("house", "a"),
        ("ear of corn", "an"),
        ("eucalyptus", "a"),
        ("T-shirt", "a"),
        ("X-ray", "an"),
        ("one-eyed cat", "a"),
        ("Ferris wheel", "a"),
        ("orange unicorn", "an"),
    ],
)
def test_article(words, expected):
    assert article(words) == expected


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("koala", "koalas"),
        ("bus", "buses"),
        ("fox", "foxes"),
        ("peach", "peaches"),
        ("toothbrush", "toothbrushes"),
        ("strawberry", "strawberries"),
        ("monkey", "monkeys"),
        ("tomato", "tomatoes"),
        ("potato", "potatoes"),
        ("kangaroo", "kangaroos"),
        ("flamingo", "flamingos"),
        ("hippopotamus", "hippopotamuses"),
    ],
)
def test_regular_plural(noun, expected):
    assert plural(noun) == expected


@pytest.mark.parametrize(
    ("given", "en", "zh"),
    [
        (phrase("koala"), "a koala", "一只考拉"),
        (phrase("apple", 2, "red"), "two red apples", "两个红苹果"),
        (phrase("apple", 1, "green", "small"), "a small green apple", "一个绿色的小苹果"),
        (phrase("bus", 3, "orange"), "three orange buses", "三辆橙色的公交车"),
        (phrase("umbrella", 1, "orange"), "an orange umbrella", "一把橙色的雨伞"),
        (phrase("mouse", 2), "two mice", "两只老鼠"),
        (phrase("sheep", 4), "four sheep", "四只绵羊"),
        (phrase("wolf", 2), "two wolves", "两只狼"),
        (phrase("maple leaf", 2, "red"), "two red maple leaves", "两片红枫叶"),
        (phrase("pair of socks", 1, "blue"), "a pair of blue socks", "一双蓝袜子"),
        (phrase("pair of socks", 2, "blue", "small"), "two small pairs of blue socks", "两双蓝色的小袜子"),
        (phrase("bunch of grapes", 1, "green"), "a bunch of green grapes", "一串绿葡萄"),
        (phrase("elephant", 1, size="big"), "a big elephant", "一头很大的大象"),
        (phrase("trumpet", 1, size="small"), "a small trumpet", "一把很小的小号"),
        (phrase("cloud"), "a cloud", "一朵云"),
        (phrase("ear of corn"), "an ear of corn", "一根玉米"),
    ],
)
def test_phrases_in_both_languages(given, en, zh):
    assert (given.en, given.zh) == (en, zh)


def test_the_sentence_of_the_issue():
    said = captions(
        [phrase("koala"), phrase("apple", 2, "red"), phrase("cloud")],
        [Clause(0, "left", (1,)), Clause(2, "behind", (0, 1))],
        WHERE,
    )
    assert said == {
        "en": [
            "a koala to the left of two red apples, a cloud behind them, on a green meadow",
            "two red apples to the right of a koala on a green meadow, with a cloud behind them",
            "On a green meadow, a koala is to the left of two red apples. A cloud is behind them.",
        ],
        "zh": [
            "绿色的草地上，一只考拉在两个红苹果的左边，一朵云在它们的后面",
            "绿色的草地上，两个红苹果在一只考拉的右边，一朵云在它们的后面",
            "绿色的草地上有两个红苹果，左边是一只考拉，它们的后面有一朵云。",
        ],
    }


def test_a_second_mention_names_what_tells_the_two_apart():
    phrases = [phrase("balloon", 1, "red"), phrase("balloon", 2, "blue"), phrase("bird", 1, "green")]
    said = captions(phrases, [Clause(0, "above", (1,)), Clause(2, "right", (1,))], WHERE)
    first, second, _ = said["en"][0].split(", ")
    assert (first, second) == (
        "a red balloon above two blue balloons",
        "a green bird to the right of the blue balloons",
    )
    assert said["zh"][0] == "绿色的草地上，一个红气球在两个蓝气球的上方，一只绿鸟在蓝气球的右边"
    phrases[1] = phrase("kite", 2, "blue")
    said = captions(phrases, [Clause(0, "above", (1,)), Clause(2, "right", (1,))], WHERE)
    assert said["en"][0].endswith("a green bird to the right of the kites, on a green meadow")


def test_verbs_agree_with_their_number():
    said = captions([phrase("dog", 2), phrase("cat")], [Clause(0, "left", (1,))], WHERE)
    assert said["en"][2] == "On a green meadow, two dogs are to the left of a cat."
    assert captions([phrase("dog", 3)], [], WHERE)["en"][2] == "There are three dogs on a green meadow."
    assert captions([phrase("dog")], [], WHERE)["en"][2] == "There is a dog on a green meadow."
    assert captions([phrase("dog")], [], WHERE)["zh"][0] == "绿色的草地上有一条狗"


@pytest.mark.parametrize("count", [1, 2])
def test_no_concept_makes_doubled_or_missing_words(count):
    for concept in all_concepts():
        for size in ("", "small", "big"):
            said = Phrase(concept, count, concept.colours[0] if concept.colours else "", size)
            assert said.en.split()[0] == ("two" if count == 2 else article(" ".join(said.en.split()[1:])))
            assert "  " not in said.en
            assert "小小" not in said.zh
            assert "大大" not in said.zh
            assert concept.measure in said.zh
            assert said.zh.endswith(concept.zh)
            if count == 2:
                assert said.en != Phrase(concept, 1, said.colour, size).en.replace(article(concept.en), "two", 1) or (
                    concept.plural == concept.en
                )
