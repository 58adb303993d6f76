"""Captions of layers and backgrounds from the source's sentences."""

import subprocess
import sys

import numpy as np
import pytest
from known_pictures import sample_of

from lt.datagen.shards import LtError
from lt.datagen.stages.captions import CaptionLayers, article, category_phrase
from lt.datagen.stages.colours import colour_share
from lt.datagen.stages.masks import MASKS, expert
from lt.datagen.stages.nouns import chinese_nouns, names_category, table

RED, BLUE, GREY = (200, 20, 30), (20, 40, 200), (120, 120, 120)


def caption(captions, entities):
    """Caption entities given as (category, colour, joined instances), each a 20-pixel stripe; the sample."""
    picture = np.zeros((60, 20 * len(entities), 3), np.uint8)
    masks = np.zeros((len(entities), *picture.shape[:2]), bool)
    for number, (_, colour, _) in enumerate(entities):
        picture[:, 20 * number : 20 * number + 20] = colour
        masks[number, :, 20 * number : 20 * number + 20] = True
    sample = sample_of(picture, [], captions=captions)
    sample.meta["entities"] = [
        {"category": name, "categories": [name] * count, "instances": list(range(count))} for name, _, count in entities
    ]
    sample[MASKS] = masks
    return CaptionLayers().process(sample)


def texts(captions, entities, lang="en"):
    return [
        (layer["text"].get(lang), layer["from"].get(lang))
        for layer in caption(captions, entities).meta["layer_captions"]
    ]


def test_the_only_entity_gets_its_phrase_with_what_is_worn():
    got = texts({"en": ["A woman in a red ski jacket smiles while skiing."]}, [("person", RED, 1)])
    assert got == [("a woman in a red ski jacket", "phrase")]


def test_colour_decides_between_two_of_a_kind():
    sentence = {"en": ["A boy in a red jersey swings a bat while the catcher in blue waits behind him."]}
    assert texts(sentence, [("person", BLUE, 1), ("person", RED, 1)]) == [
        ("the catcher in blue", "phrase"),
        ("a boy in a red jersey", "phrase"),
    ]


def test_a_phrase_that_nothing_places_is_not_guessed():
    sentence = {"en": ["A baseball player stands near another."]}
    assert texts(sentence, [("person", GREY, 1), ("person", GREY, 1)]) == [("a person", "category")] * 2


def test_a_colour_that_the_entity_does_not_show_is_not_used():
    assert texts({"en": ["A man in a red coat walks."]}, [("person", BLUE, 1)]) == [("a person", "category")]


def test_plurals_name_each_in_the_singular_and_groups_by_their_number():
    sentence = {"en": ["Several cross country skiers climb a snowy hill."]}
    assert texts(sentence, [("person", RED, 1), ("person", BLUE, 2)]) == [
        ("a cross country skier", "singular"),
        ("two cross country skiers", "plural"),
    ]
    assert texts({"en": ["A group of people."]}, [("person", RED, 1)]) == [("a person", "singular")]


def test_each_category_finds_its_own_words():
    sentence = {"en": ["An orange tabby kitten sleeps on a sofa beside a small drum."]}
    entities = [("cat", (230, 130, 30), 1), ("couch", GREY, 1), ("drum", GREY, 1), ("clock", GREY, 1)]
    assert [text for text, _ in texts(sentence, entities)] == [
        "an orange tabby kitten",
        "a sofa",
        "a small drum",
        "a clock",
    ]


def test_chinese_only_where_the_source_has_it():
    assert texts({"en": ["A cat."]}, [("cat", GREY, 1)], "zh") == [(None, None)]
    sentence = {"en": ["A cat."], "zh": ["一只灰色的猫躺在木桌上。"]}
    sample = caption(sentence, [("cat", GREY, 1)])
    assert sample.meta["layer_captions"][0]["text"] == {"en": "a cat", "zh": "一只灰色的猫"}
    assert sample.meta["background"]["caption"]["zh"] == "木桌上"


def test_chinese_falls_to_the_category_or_stays_absent():
    sentence = {"zh": ["天气很好。"]}
    assert texts(sentence, [("dog", GREY, 1), ("gizmo", GREY, 1)], "zh") == [("狗", "category"), (None, None)]


def test_background_is_where_things_stand_without_the_layers():
    sentence = {"en": ["A man in a red shirt on a horse rides along a sandy beach near the sea."]}
    sample = caption(sentence, [("person", RED, 1), ("horse", GREY, 1)])
    assert sample.meta["background"] == {"caption": {"en": "a sandy beach and the sea"}, "from": {"en": "phrase"}}
    nowhere = caption({"en": ["A man smiles."]}, [("person", RED, 1)]).meta["background"]
    assert nowhere == {"caption": {"en": "the background"}, "from": {"en": "none"}}


def test_pictures_without_captions_are_called_by_category():
    sample = caption({}, [("person", RED, 3), ("umbrella", RED, 1), ("skis", RED, 1)])
    assert [layer["text"]["en"] for layer in sample.meta["layer_captions"]] == ["three people", "an umbrella", "skis"]


def test_the_first_caption_becomes_the_txt():
    assert caption({"en": ["One.", "Two."]}, [("cat", GREY, 1)])["txt"] == "One."


@pytest.mark.parametrize("strange", [{"en": 3}, {"en": [None, ""]}, [], None, {"en": "<script>alert(1)</script>"}])
def test_strange_captions_do_no_harm(strange):
    assert caption(strange, [("cat", GREY, 1)]).meta["layer_captions"][0]["text"]["en"] == "a cat"


def test_words():
    assert names_category("puppy", "dog")
    assert names_category("hydrant", "fire hydrant")
    assert names_category("gizmo", "steel gizmo")
    assert not names_category("cat", "dog")
    assert chinese_nouns("dog")[0] == "狗"
    assert len(table()["categories"]) >= 80
    assert (article("umbrella"), article("cup")) == ("an", "a")
    assert category_phrase("bus", 2, "en") == "two buses"


def test_colours():
    share = colour_share(np.array([RED] * 3 + [BLUE], np.uint8))
    assert (share["red"], share["blue"], share["green"]) == (0.75, 0.25, 0)
    assert colour_share(np.array([(250, 250, 250)], np.uint8))["white"] == 1


def test_an_unknown_parser_is_an_error_for_people():
    with pytest.raises(LtError, match="spacy, jieba"):
        expert("parser", "spacey")


def test_parsing_english_loads_no_torch():
    code = (
        "import sys; from lt.models.perception.registry import load;"
        "assert load('parser', 'spacy').parse(['A red cup.'])[0][0].head == 'cup';"
        "assert 'torch' not in sys.modules; import torch"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
