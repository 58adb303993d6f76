"""Tokenizers by the name that the settings give."""

from functools import lru_cache
from pathlib import Path

from lt.datagen.shards.errors import LtError
from lt.models.nn.tokenizers import BertChineseTokenizer, ClipTokenizer, TextTokenizer, WordTokenizer
from lt.recipes.contrastive.settings import TextSettings


def make_tokenizer(settings: TextSettings, length: int) -> TextTokenizer:
    """The tokenizer of the settings, with `length` places unless the settings name another number.

    Raises:
        LtError: a vocabulary file cannot be read or does not fit; the package that holds CLIP's is missing.
    """
    return _make(settings.tokenizer, settings.language, settings.vocabulary, settings.length or length)


@lru_cache(maxsize=8)
def _make(name: str, language: str, vocabulary: str, length: int) -> TextTokenizer:
    try:
        if name == "clip":
            return ClipTokenizer(length)
        if name == "bert-zh":
            return BertChineseTokenizer(length, vocabulary or None)
        return WordTokenizer(world_words(language, vocabulary), length)
    except (OSError, ValueError) as error:
        raise LtError(f"Cannot use the vocabulary {vocabulary or name}: {error}.") from None
    except ModuleNotFoundError as error:
        raise LtError(f"{error}.") from None


def world_words(language: str, vocabulary: str = "") -> list[str]:
    """The closed vocabulary of the built-in worlds (Chinese: characters), or that of a file of one entry a line."""
    path = Path(vocabulary) if vocabulary else Path(__file__).with_name(f"words_{language}.txt")
    return path.read_text(encoding="utf-8").split()
