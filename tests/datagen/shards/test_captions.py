"""What a sample's captions are: one reading for every command."""

import json

import pytest

from lt.datagen.shards import Sample, SampleError, captions_of
from lt.datagen.shards.captions import UNTOLD, captions_by_language, lines_of, main_caption, texts_of

BOTH = {"captions": {"zh": "一只猫", "en": ["a cat", " one cat ", "", 7]}}


def read(meta=None, txt=None) -> Sample:
    return Sample("a", {name: value for name, value in (("json", meta), ("txt", txt)) if value is not None})


@pytest.mark.parametrize(
    ("sample", "en", "zh", "both"),
    [
        (read(BOTH), ["a cat", "one cat"], ["一只猫"], ["a cat", "one cat", "一只猫"]),
        (read(BOTH, "a cat"), ["a cat", "one cat"], ["一只猫"], ["a cat", "one cat", "一只猫"]),
        (read({"captions": ["a cat", "猫"]}), *[["a cat", "猫"]] * 3),
        (read({"captions": "a cat"}, "another"), *[["a cat"]] * 3),
        (read({"caption": "a cat"}), *[["a cat"]] * 3),
        (read({"caption": ["a cat", "one cat"]}), *[["a cat", "one cat"]] * 3),
        (read({"caption": "a page's title"}, " a cat\n"), *[["a cat"]] * 3),
        (read({"captions": {}}, "a cat"), *[["a cat"]] * 3),
        (read({"captions": {"zh": ["一只猫"]}}, "a cat"), ["a cat"], ["一只猫"], ["一只猫"]),
        (read({"captions": {"fr": "un chat"}}, "a cat"), *[["a cat"]] * 3),
    ],
)
def test_captions(sample, en, zh, both):
    assert (captions_of(sample, "en"), captions_of(sample, "zh"), captions_of(sample)) == (en, zh, both)


@pytest.mark.parametrize(
    ("sample", "language"),
    [
        (read(), None),
        (read({}, "  "), "en"),
        (read({"captions": {"en": "a cat"}}), "zh"),
        (read({"captions": {"en": "a cat"}, "caption": "a cat"}, "a cat"), "zh"),
        (read({"captions": {"fr": "un chat"}}), "en"),
        (read({"captions": 7, "caption": {}}), "en"),
    ],
)
def test_a_sample_without_a_caption_is_a_bad_sample(sample, language):
    with pytest.raises(SampleError, match="no-caption"):
        captions_of(sample, language)


def test_captions_in_other_languages_alone_serve_who_asks_for_none_and_are_named_to_others():
    sample = read({"captions": {"fr": ["un chat"], "de": "eine Katze"}})
    assert captions_of(sample) == ["un chat", "eine Katze"]
    with pytest.raises(SampleError, match="no caption in 'en', but in de, fr"):
        captions_of(sample, "en")


def test_a_caption_whose_language_is_not_told_stands_apart():
    assert captions_by_language(read({"captions": {"zh": "一只猫"}}, "a cat")) == {"zh": ["一只猫"], UNTOLD: ["a cat"]}
    assert captions_by_language(read({"captions": {"zh": "一只猫"}}, "一只猫")) == {"zh": ["一只猫"]}


def test_the_caption_for_lists_is_english_before_others():
    assert main_caption(read(BOTH, "the cat")) == "a cat"
    assert main_caption(read({"captions": {"zh": ["一只猫"]}}, "the cat")) == "the cat"
    assert main_caption(read({"captions": {"zh": ["一只猫"]}})) == "一只猫"
    assert main_caption(read()) == ""


@pytest.mark.parametrize(
    ("said", "texts"),
    [
        ("a dog", ["a dog"]),
        (["a dog", " one dog\n", ""], ["a dog", "one dog"]),
        (("a dog",), ["a dog"]),
        ([None, 7, {"raw": "a"}, ["a"], "a dog"], ["a dog"]),
        (None, []),
        (7, []),
        ("\ufeffa dog", ["a dog"]),
        ("\ufeff", []),
        ("a cat \ud83d", ["a cat \ufffd"]),
        ("a\u2028dog", ["a\u2028dog"]),
    ],
)
def test_texts(said, texts):
    assert texts_of(said) == texts


def test_json_of_another_shape_tells_no_captions():
    for meta in ([1, 2], 7, "a", None):
        assert captions_of(Sample("a", {"json": json.dumps(meta).encode(), "txt": b"\xef\xbb\xbfa cat"})) == ["a cat"]


def test_half_a_surrogate_pair_in_json_becomes_the_replacement_character():
    data = b'{"captions": {"en": "a cat \\ud83d"}, "emoji": "\\ud83d\\ude00", "\\udc00": [1]}'
    sample = Sample("a", {"json": data})
    assert captions_of(sample) == ["a cat \ufffd"]
    assert (sample.meta["emoji"], sample.meta["\ufffd"]) == ("😀", [1])
    sample.encoded("json").decode()


def test_only_line_feeds_end_lines(tmp_path):
    text = "\ufeffa dog\u2028and a cat\r\na\u0085b\x0cc\x1cd\n\nlast"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert lines_of(tmp_path / "a.txt") == ["a dog\u2028and a cat", "a\u0085b\x0cc\x1cd", "", "last"]
