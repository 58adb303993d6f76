"""Tokenizers by the name that the settings give."""

from lt.datagen.shards.errors import LtError
from lt.models.nn.tokenizers import BertChineseTokenizer, ClipTokenizer, TextTokenizer, WordTokenizer
from lt.recipes.contrastive.settings import TextSettings
from lt.recipes.words import word_list


def make_tokenizer(settings: TextSettings, length: int) -> TextTokenizer:
    """The tokenizer of the settings, with `length` places unless the settings name another number.

    Raises:
        LtError: a vocabulary file cannot be read or does not fit; the package that holds CLIP's is missing.
    """
    name, length = settings.tokenizer, settings.length or length
    try:
        if name == "clip":
            return ClipTokenizer(length)
        if name == "bert-zh":
            return BertChineseTokenizer(length, settings.words or None)
        return WordTokenizer(word_list(settings.words or f"scenes-{settings.language}"), length)
    except (OSError, ValueError) as error:
        raise LtError(f"Cannot use the vocabulary {settings.words or name}: {error}.") from None
    except ModuleNotFoundError as error:
        raise LtError(f"{error}.") from None
