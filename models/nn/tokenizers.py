"""Texts to token numbers: CLIP's English BPE, BERT's Chinese WordPiece, and a small closed vocabulary for miniatures.

All three give `Tokens`: numbers [b, L] padded on the right, and the mask [b, L] of real places, start and end tokens
included. A text that is too long is cut before its end token. Captions come from the web: they cannot spell a start or
end token (reference tokenizers let them), and lone surrogates are replaced. Otherwise CLIP's and BERT's numbers are those
of the reference tokenizers; code points that Unicode has not assigned may differ.

Sources: CLIP's `simple_tokenizer.py` (vocabulary from the open_clip package); BERT's `tokenization.py` and its Chinese vocabulary
(Apache-2.0, `bert_chinese_vocab.txt`).
"""

import gzip
import html
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel, WordPiece
from torch import Tensor


class Tokens(NamedTuple):
    """`ids` [b, L] int64 and `mask` [b, L] bool, True where real."""

    ids: Tensor
    mask: Tensor


class TextTokenizer:
    """What models and recipes need to know of a tokenizer; start, end, padding and cutting are the same for all."""

    vocabulary: int
    length: int
    words: tuple[str, ...] = ()
    """The list that it was made with: a model that is trained with it needs the same one. () where there is only one."""
    start: int
    end: int
    pad: int
    backend: Tokenizer
    """What splits and numbers texts, without start and end."""

    def __call__(self, texts: Sequence[str]) -> Tokens:
        ids, mask = [], []
        for numbers in self.encode(texts):
            framed = [self.start, *numbers[: self.length - 2], self.end]
            rest = self.length - len(framed)
            ids.append(framed + [self.pad] * rest)
            mask.append([True] * len(framed) + [False] * rest)
        shape = (len(texts), self.length)
        return Tokens(torch.tensor(ids).long().view(shape), torch.tensor(mask).bool().view(shape))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token numbers without start, end and padding, uncut."""
        return [encoded.ids for encoded in self.backend.encode_batch([self._cleaned(text) for text in texts])]

    def pieces(self, text: str) -> list[str]:
        """What each real place of the text's row shows, to be read by people; start and end in angle or square brackets."""
        inner = self.encode([text])[0][: self.length - 2]
        return [self._piece(number) for number in (self.start, *inner, self.end)]

    def _cleaned(self, text: str) -> str:
        return text.encode("utf-8", "replace").decode("utf-8")

    def _piece(self, number: int) -> str:
        raise NotImplementedError


class ClipTokenizer(TextTokenizer):
    """CLIP's lower-cased byte-pair encoding, 49,408 entries, 77 places. Padded with 0, as CLIP does.

    Raises ModuleNotFoundError when the open_clip_torch package, which holds the vocabulary, is not installed.
    """

    vocabulary, pad = 49408, 0
    start, end = 49406, 49407

    def __init__(self, length: int = 77):
        self.length = length
        alphabet = sorted(
            pre_tokenizers.ByteLevel.alphabet()
        )  # visible Latin-1 characters stand for themselves, and first
        merges = _clip_merges()
        entries = [*alphabet, *(letter + "</w>" for letter in alphabet), *map("".join, merges)]
        self._names = [*entries, "<start>", "<end>"]
        self.backend = Tokenizer(BPE({e: i for i, e in enumerate(entries)}, merges, end_of_word_suffix="</w>"))
        words = Regex(r"(?i)'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
        self.backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(words, "removed", invert=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )

    def _cleaned(self, text: str) -> str:
        """CLIP's cleaning: mend broken encodings, resolve html entities (twice), single spaces, lower case."""
        if not (text.isascii() and text.isprintable() and "&" not in text):  # plain text: nothing to mend
            import ftfy

            text = html.unescape(html.unescape(ftfy.fix_text(super()._cleaned(text))))
        return " ".join(text.split()).lower()

    def _piece(self, number: int) -> str:
        name = self._names[number]
        return name if number >= self.start else decoders.ByteLevel().decode([name.removesuffix("</w>")])


class BertChineseTokenizer(TextTokenizer):
    """BERT's Chinese WordPiece, 21,128 entries, lower-cased, each character a token, [CLS] ... [SEP]; Wukong's 32 places.

    `vocabulary_file` replaces the bundled list: one entry a line, with [PAD], [UNK], [CLS] and [SEP] among them.
    """

    def __init__(self, length: int = 32, vocabulary_file: str | Path | None = None):
        file = Path(vocabulary_file) if vocabulary_file else Path(__file__).with_name("bert_chinese_vocab.txt")
        self.words = tuple(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"))
        numbers = {name: i for i, name in enumerate(self.words)}
        missing = {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} - numbers.keys()
        if missing:
            raise ValueError(f"{file} is not a BERT vocabulary: it lacks {', '.join(sorted(missing))}")
        self.length, self.vocabulary = length, len(self.words)
        self.pad, self.start, self.end = numbers["[PAD]"], numbers["[CLS]"], numbers["[SEP]"]
        self.backend = Tokenizer(WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100))
        self.backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        self.backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()

    def _piece(self, number: int) -> str:
        return self.words[number].removeprefix("##")


class WordTokenizer(TextTokenizer):
    """A closed list of words; Chinese characters stand for themselves. For tiny models on the built-in worlds.

    Text is put into compatibility form (full-width letters become plain ones) and lower case. Unknown words share one number.
    """

    pad, unknown, start, end = 0, 1, 2, 3
    SPECIAL = ("<pad>", "<unknown>", "<start>", "<end>")

    def __init__(self, words: Sequence[str], length: int = 32):
        if len(set(words)) != len(words):
            raise ValueError("the list of words repeats itself")
        self.words, self.length = tuple(words), length
        self._names = self.SPECIAL + self.words
        self.vocabulary = len(self._names)
        numbers = {word: number for number, word in enumerate(self._names)}
        self.backend = Tokenizer(WordLevel(numbers, unk_token=self.SPECIAL[self.unknown]))
        self.backend.normalizer, self.backend.pre_tokenizer = _PLAIN, _APART

    def _piece(self, number: int) -> str:
        return self._names[number]


_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_PLAIN = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
_APART = pre_tokenizers.Split(Regex(f"[{_CHINESE}]|[^\\W{_CHINESE}]+|[^\\w\\s]"), "removed", invert=True)


def split_words(text: str) -> list[str]:
    """Lower-cased words, single Chinese characters and single marks of a text in compatibility form (NFKC)."""
    return [word for word, _ in _APART.pre_tokenize_str(_PLAIN.normalize_str(text))]


def find_phrase(tokenizer: TextTokenizer, text: str, phrase: str) -> list[int]:
    """Places of a phrase's tokens in the text's row, where it first occurs as whole words; empty if it does not."""
    inner, wanted = tokenizer.encode([text, phrase])
    inner = inner[: tokenizer.length - 2]
    for first in range(len(inner) - len(wanted) + 1):
        if wanted and inner[first : first + len(wanted)] == wanted:
            return list(range(first + 1, first + 1 + len(wanted)))
    return []


def _clip_merges() -> list[tuple[str, str]]:
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("CLIP's vocabulary comes with open_clip: pip install 'open_clip_torch>=2.30'")
    packed = Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = [line.split() for line in lines[1 : ClipTokenizer.vocabulary - 2 * 256 - 2 + 1]]
    return [(left, right) for left, right in pairs]
