"""A folder of pictures, each with an optional caption `<name>.txt` and an optional `<name>.json` beside it."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lt.datagen.engine.stage import Source
from lt.datagen.shards import LtError, Reject, Sample, SampleError, codec
from lt.datagen.shards.captions import UNTOLD, captions_by_language, texts_of
from lt.datagen.shards.sample import safe_key
from lt.datagen.shards.storage import digest_of
from lt.datagen.sources.pictures import PICTURE_SUFFIXES, load_picture


@dataclass(frozen=True)
class FolderSource(Source):
    """Every picture below `root`, by path, or `root` itself where it is a picture.

    The json may hold `captions`, `instances` (as COCO's) and anything else.

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
        keyed = list(_with_keys(self._files))
        return [keyed[start : start + self.per_shard] for start in range(0, len(keyed), self.per_shard)]

    def read(self, split: list[list[str]]) -> Iterator[Sample | Reject]:
        for key, path in split:
            try:
                yield self._sample(key, self._folder / path, path)
            except SampleError as error:
                yield Reject(key, error.reason, error.detail, error.figure, "read", {"source": {"file": path}})

    @property
    def _folder(self) -> Path:
        return self.root.parent if self.root.is_file() else self.root

    @cached_property
    def _files(self) -> list[str]:
        if self.root.is_file():
            return [self.root.name]
        if not self.root.is_dir():
            raise LtError(f"{self.root} is not a folder.", "Name the folder that holds the pictures.")
        found = [
            os.path.relpath(Path(folder) / name, self.root)
            for folder, _, names in os.walk(self.root)
            for name in names
            if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith(".")
        ]
        if not found:
            raise LtError(
                f"No pictures in {self.root}.", f"Looked for {' '.join(PICTURE_SUFFIXES)}, also in its folders."
            )
        return sorted(found)[: self.limit]

    def _stamp(self, path: str) -> list[Any]:
        stats = [(self._folder / path).with_suffix(suffix) for suffix in (Path(path).suffix, ".txt", ".json")]
        return [path] + [[file.stat().st_size, file.stat().st_mtime_ns] for file in stats if file.is_file()]

    def _sample(self, key: str, path: Path, shown: str) -> Sample:
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise SampleError("unsafe-path", f"{shown} links to a file outside the folder")
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
    beside = path.with_suffix(suffix)
    return codec.decode(suffix[1:], beside.read_bytes()) if beside.is_file() else None


def _with_keys(paths: list[str]) -> Iterator[list[str]]:
    """[key, path] for each; where two paths would share a key, all of these keys close with a digest of the path."""
    plain = [safe_key(str(Path(path).with_suffix("")).replace(os.sep, "_")) for path in paths]
    uses = Counter(plain)
    for key, path in zip(plain, paths, strict=True):
        yield [key if uses[key] == 1 else f"{key[:70]}-{digest_of(path)[:12]}", path]
