"""A folder of pictures, each with an optional caption `<name>.txt` and an optional `<name>.json` beside it."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

from lt.datagen.engine.stage import SampleSource, ranges
from lt.datagen.shards import LtError, Sample, SampleError, codec
from lt.datagen.shards.captions import UNTOLD, captions_by_language, texts_of
from lt.datagen.shards.storage import digest_of
from lt.datagen.sources.pictures import OTHER_SUFFIXES, PICTURE_SUFFIXES, load_picture, unique_keys


@dataclass(frozen=True)
class FolderSource(SampleSource):
    """Every picture below `root`, by path, or `root` itself where it is a picture.

    The json may hold `captions`, `instances` (as COCO's) and anything else. What cannot be taken is rejected by name: pictures of
    other formats (`unsupported-format`), folders that may not be opened (`unreadable-folder`).

    Args:
        limit: only the first so many pictures (None: all).
        per_shard: pictures in one task, hence at most so many samples in one shard.
    """

    root: Path
    limit: int | None = None
    per_shard: int = 100
    name: ClassVar[str] = "folder"

    def settings(self) -> dict[str, Any]:
        return {"limit": self.limit, "per_shard": self.per_shard}

    def inputs(self) -> list[str]:
        """One digest over paths, sizes and times of change: contents are not read for it."""
        return [digest_of([self._stamp(path) for path in self._files])]

    def splits(self) -> list[list[list[str]]]:
        """Lists of [key, path below the root]."""
        names = [str(Path(path).with_suffix("")).replace(os.sep, "_") for path in self._files]
        keyed = [[key, path] for key, path in zip(unique_keys(names, self._files), self._files, strict=True)]
        return [keyed[start:end] for start, end in ranges(len(keyed), self.per_shard)]

    def items(self, split: list[list[str]]) -> Iterator[tuple[Sample, Callable[[], Sample]]]:
        for key, path in split:
            known = Sample(key, {"json": {"source": {"file": path}}})
            yield known, partial(self._sample, key, self._folder / path, path)

    @property
    def _folder(self) -> Path:
        return self.root.parent if self.root.is_file() else self.root

    @cached_property
    def _files(self) -> list[str]:
        if self.root.is_file():
            return [self.root.name]
        if not self.root.is_dir():
            raise LtError(f"{self.root} is not a folder.", "Name the folder that holds the pictures.")
        locked: list[str] = []
        found = [
            os.path.relpath(Path(folder) / name, self.root)
            for folder, _, names in os.walk(self.root, onerror=lambda error: locked.append(error.filename))
            for name in names
            if not name.startswith(".")
        ]
        pictures = sorted(path for path in found if Path(path).suffix.lower() in PICTURE_SUFFIXES)
        others = sorted(path for path in found if Path(path).suffix.lower() in OTHER_SUFFIXES)
        if not pictures:
            raise LtError(
                f"No pictures in {self.root}.",
                f"Looked for {' '.join(PICTURE_SUFFIXES)}, also in its folders."
                + (f" Passed over {len(others)} of other formats, such as {others[0]}." if others else "")
                + (f" Not permitted to open {locked[0]}." if locked else ""),
            )
        return pictures[: self.limit] + others + sorted(os.path.relpath(folder, self.root) for folder in locked)

    def _stamp(self, path: str) -> list[Any]:
        stats = [(self._folder / path).with_suffix(suffix) for suffix in (Path(path).suffix, ".txt", ".json")]
        return [path] + [[file.stat().st_size, file.stat().st_mtime_ns] for file in stats if file.is_file()]

    def _sample(self, key: str, path: Path, shown: str) -> Sample:
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise SampleError("unsafe-path", f"{shown} links to a file outside the folder")
        if path.is_dir():
            raise SampleError("unreadable-folder", f"{shown}: not permitted to open it")
        if path.suffix.lower() in OTHER_SUFFIXES:
            raise SampleError("unsupported-format", f"{shown}: want one of {' '.join(PICTURE_SUFFIXES)}")
        field, data, (width, height) = load_picture(path)
        meta = _beside(path, ".json") or {}
        if not isinstance(meta, dict):
            raise SampleError("invalid-json", f"{path.with_suffix('.json').name}: want an object")
        caption = "".join(texts_of(_beside(path, ".txt")))
        captions = captions_by_language(Sample(key, {"json": meta}))
        english = [caption, *captions.pop(UNTOLD, []), *captions.get("en", [])]
        if said := [text for text in dict.fromkeys(english) if text]:
            captions["en"] = said
        source = meta.get("source", {})
        meta |= {
            "captions": captions,
            "width": width,
            "height": height,
            "source": {"file": shown, **(source if isinstance(source, dict) else {"source": source})},
        }
        fields = {field: data, "json": meta}
        return Sample(key, fields | ({"txt": caption} if caption else {}))


def _beside(path: Path, suffix: str) -> Any:
    """What a file of the same name holds; None where there is none."""
    beside = path.with_suffix(suffix)
    try:
        return codec.decode(suffix[1:], beside.read_bytes()) if beside.is_file() else None
    except OSError as error:
        raise SampleError("unreadable-file", f"{beside.name}: {error.strerror}") from None
