"""Closed lists of words for small models: one entry a line, Chinese by characters. They may grow.

A list is named by `text.words`. The words that a model was trained with go with its checkpoints (`checkpoints.with_words`), so a
list that grows changes no trained model.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from lt.datagen.shards.errors import LtError
from lt.recipes.config import Section, nearest

FOLDER = Path(__file__).parent


class WordSettings(Section):
    """How texts become numbers."""

    words: str = Field(default="worlds", min_length=1)
    """The words that are known: a list that comes with lt (`worlds`: both built-in worlds), or a file of one entry a line."""


def word_list(name: str) -> tuple[str, ...]:
    """The entries of a list that comes with lt, by its name, or of a file.

    Raises:
        LtError: there is neither, or an entry comes twice.
    """
    ours = {path.stem: path for path in FOLDER.glob("*.txt")}
    try:
        words = ours.get(name, Path(name)).read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LtError(f"No list of words {name!r}: {reason}.", nearest(name, ours)) from None
    if len(set(words)) != len(words):
        raise LtError(f"The list of words {name} repeats itself.", "Every entry stands once, one a line.")
    return tuple(words)


def unknown_words(words: Iterable[str], texts: Iterable[str]) -> tuple[float, list[str]]:
    """Which share (0..1) of the texts' words a list does not hold, and these words, the most frequent first.

    Words are cut as `WordTokenizer` does: lower case, Chinese by characters. A model reads all unknown ones alike.
    """
    from lt.models.nn.tokenizers import split_words  # torch comes with it

    counts, known = Counter(word for text in texts for word in split_words(text)), set(words)
    unknown = Counter({word: count for word, count in counts.items() if word not in known})
    return unknown.total() / max(1, counts.total()), [word for word, _ in unknown.most_common()]
