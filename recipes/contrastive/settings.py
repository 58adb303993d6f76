"""Settings that all contrastive systems share, and what is made by them: a tokenizer, the built-in world `scenes`."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from lt.datagen.shards.errors import LtError
from lt.models.nn.tokenizers import BertChineseTokenizer, ClipTokenizer, TextTokenizer, WordTokenizer
from lt.recipes.config import Section, Settings, free
from lt.recipes.system import Note
from lt.recipes.words import word_list
from lt.recipes.worlds import scenes


class PictureSettings(Section):
    """How pictures reach the model."""

    augment: Literal["none", "crop", "autoaugment"] = "none"
    """`autoaugment`: torchvision's ImageNet policy (arXiv 1805.09501), as FILIP; `crop`: a random 90 to 100 % of the area."""


class TextSettings(Section):
    """How captions reach the model."""

    language: Literal["en", "zh"] = "en"
    """Which captions of the samples are read; shards with `txt` alone are taken as they are."""
    tokenizer: Literal["words", "clip", "bert-zh"] = "words"
    """`words`: the built-in worlds' own vocabulary; `clip`: English BPE; `bert-zh`: BERT's Chinese WordPiece."""
    words: str = ""
    """With `words`: a list that comes with lt, or a file of one entry a line; empty = the scenes' in this language. With
    `bert-zh`: a vocabulary file of your own."""
    length: int = Field(default=0, ge=0)
    """Places for tokens, start and end included; 0 = the text tower's."""
    candidates: Literal["any", "first"] = "any"
    """`any`: draw one of a caption's stored wordings (FILIP's back-translations) every epoch; `first`: always the first."""
    merge_equal: bool = True
    """Pairs with the same text in one batch hold for one another and share the target, instead of contradicting each other."""


class HeadSettings(Section):
    """The shared space and the similarity. Systems add which towers."""

    dim: int = Field(default=0, ge=0)
    """Width of the shared space; 0 = the paper's for this head."""
    ends: bool = True
    """Start and end tokens count as words in a token-wise similarity."""
    colder: float = Field(default=0.0, ge=0)
    """Give image-to-text its own temperature, this many times colder; 0 = one shared temperature, as in the papers."""
    scale_start: float = Field(default=1 / 0.07, gt=0)
    """Where the learned inverse temperature begins."""
    count_pads: bool = False
    """Let padding compete as words, as ColBERT does: only to show why FILIP masks it."""
    reduce: Literal["mean", "sum"] = "mean"
    """`mean` of the best matches (FILIP) or their `sum` (ColBERT), which wants a smaller `scale_start`, such as 1."""
    keep: float = Field(default=1.0, gt=0, le=1)
    """Share of the tokens that is sent to the far side of the similarity (FILIP: 0.25)."""
    half: bool = False
    """Tokens travel, and are multiplied, in fp16 (FILIP)."""
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    """Of the transformers' blocks, as the weights that they start from want it: `quick_gelu` is OpenAI's CLIP's, `gelu` that of
    most models of open_clip."""
    checkpointing: bool = free(False)
    """Recompute each block in the backward pass: less memory, a third more time."""


class WorldSettings(Section):
    """The built-in world that is made when no data is named."""

    train: int = Field(default=12000, ge=1)
    """Training scenes."""
    test: int = Field(default=1000, ge=1)
    """Test scenes; each shows a combination that no training scene shows."""
    size: int = Field(default=64, ge=64)
    """Side of the scenes in pixels."""


class ContrastiveSettings(Settings):
    """What a contrastive run needs beside `model`, which each system adds."""

    picture: PictureSettings = PictureSettings()
    text: TextSettings = TextSettings()
    world: WorldSettings = WorldSettings()


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


def scenes_world(settings: ContrastiveSettings, note: Note) -> tuple[list[str], str]:
    """(training folders, test folder) of scenes under `data/`, made on the first call and found again later."""
    world = settings.world
    train = scenes("train", world.train, world.size, note)
    return [str(train)], str(test_scenes(settings, note))


def test_scenes(settings: ContrastiveSettings, note: Note) -> Path:
    """The folder of the world's test scenes."""
    return scenes("test", settings.world.test, settings.world.size, note)
