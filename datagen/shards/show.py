"""One sample for people: what each field is, its captions, its json; and one field as a file."""

from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import codec
from lt.datagen.shards.captions import captions_by_language
from lt.datagen.shards.errors import LtError, SampleError, UsageError
from lt.datagen.shards.sample import Sample, safe_key
from lt.datagen.shards.storage import write_bytes


def summary(sample: Sample) -> dict[str, Any]:
    """The sample as json: `fields` (name, bytes, what), `captions` (language to list), `json` (None if it is damaged)."""
    fields = [{"name": name, "bytes": len(sample.encoded(name)), "what": _what(sample, name)} for name in sample.fields]
    return {"key": sample.key, "fields": fields, "captions": _captions(sample), "json": sample.readable("json")}


def extract(sample: Sample, name: str, out: Path | None = None) -> Path:
    """Write the bytes of a field into the file `out` (`<key>.<field>` in the current folder); returns where they are.

    Raises:
        UsageError: there is no such field.
        OutputError: the file cannot be written.
    """
    if name not in sample:
        raise UsageError(f"{sample.key} has no field {name!r}.", f"It has {', '.join(sample.fields)}.")
    path = out or Path(f"{safe_key(sample.key)}.{Path(name).name}")
    if path.is_dir():
        raise LtError(f"{path} is a folder.", "Name a file.")
    write_bytes(path, sample.encoded(name))
    return path


def _what(sample: Sample, name: str) -> str:
    try:
        value = sample[name]
    except SampleError as error:
        return str(error)
    if codec.is_image(name):
        shape = value.shape
        return f"{shape[1]}x{shape[0]} {'grey' if value.ndim == 2 else {3: 'RGB', 4: 'RGBA'}[shape[2]]}"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    if isinstance(value, str):
        return f"{len(value)} characters"
    return f"{len(value)} entries" if isinstance(value, dict | list) else type(value).__name__


def _captions(sample: Sample) -> dict[str, list[str]]:
    """By language, `txt` for those of which none is told; what is damaged is passed over."""
    values = {name: sample.readable(name) for name in ("json", "txt")}
    readable = Sample(sample.key, {name: value for name, value in values.items() if isinstance(value, dict | str)})
    return {language or "txt": texts for language, texts in captions_by_language(readable).items()}
