"""What a sample's captions are: the one reading of `json.captions`, `json.caption` and `txt` that every command follows; and
what a text and a line of text are, wherever they come from.

| stored | read as |
|---|---|
| `json.captions`: `{"en": "a cat"}`, `{"en": ["a cat", "one cat"], "zh": ...}` | captions of these languages |
| `json.captions`: `["a cat", "one cat"]` or `"a cat"` | captions whose language is not told |
| `txt` | the same, where `json.captions` tells no such captions and does not hold this text already |
| `json.caption`: a text or a list (img2dataset) | the same, where there is nothing else |
"""

from pathlib import Path
from typing import Any

from lt.datagen.shards import codec
from lt.datagen.shards.errors import SampleError
from lt.datagen.shards.sample import Sample

LANGUAGES = ("en", "zh")
UNTOLD = ""


def captions_by_language(sample: Sample) -> dict[str, list[str]]:
    """Every caption by its language as stored, blanks at the ends removed; under `UNTOLD` those whose language is not told."""
    meta = sample.get("json")
    meta = meta if isinstance(meta, dict) else {}
    stored = meta.get("captions")
    stored = stored if isinstance(stored, dict) else {UNTOLD: stored}
    found = {str(language): texts for language, said in stored.items() if (texts := texts_of(said))}
    if UNTOLD not in found:
        listed = [text for texts in found.values() for text in texts]
        main = [text for text in texts_of(sample.get("txt")) if text not in listed]
        if main or not found:
            found |= {UNTOLD: main or texts_of(meta.get("caption"))}
    return {language: texts for language, texts in found.items() if texts}


def captions_of(sample: Sample, language: str | None = None) -> list[str]:
    """The captions in `language`; where there is none, those whose language is not told. Without a language those of all
    `LANGUAGES` in their order; where there is none, those whose language is not told, and last those in any other.

    A `txt` that stands in `json.captions` under another language is therefore never taken for one in `language`.

    Raises:
        SampleError: `no-caption`, or what decoding says.
    """
    found = captions_by_language(sample)
    wanted = [text for name in ([language] if language else LANGUAGES) for text in found.get(name, [])]
    texts = wanted or found.get(UNTOLD, [])
    if language and not texts:
        others = f", but in {', '.join(sorted(found))}" if found else ""
        raise SampleError("no-caption", f"no caption in {language!r}{others}")
    texts = texts or [text for others in found.values() for text in others]
    if not texts:
        raise SampleError("no-caption", "no caption")
    return texts


def main_caption(sample: Sample) -> str:
    """The one caption that stands for the sample in lists and files: English, of no told language, else any; "" for none."""
    found = captions_by_language(sample)
    return next(iter([*found.get("en", []), *found.get(UNTOLD, []), *(texts[0] for texts in found.values())]), "")


def texts_of(said: Any) -> list[str]:
    """The texts in `said`, a text or a list of texts: whole (see `codec.whole_text`), without blanks and byte order marks at
    their ends. What is no text (null, a number, an object) or empty is left out."""
    values = said if isinstance(said, list | tuple) else [said]
    texts = [codec.whole_text(value).strip().strip("\ufeff").strip() for value in values if isinstance(value, str)]
    return [text for text in texts if text]


def lines_of(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends and a byte order mark. Line feeds and carriage returns end lines; what else
    Unicode breaks lines at (U+2028, U+0085, form feeds) stands inside one.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read, or is no UTF-8.
    """
    with path.open(encoding="utf-8-sig") as file:
        return [line.rstrip("\n") for line in file]
