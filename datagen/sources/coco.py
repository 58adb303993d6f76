"""COCO's published layout: pictures in `<root>/<split>/`, annotations in `<root>/annotations/{instances,captions}_<split>.json`.

The annotation files are read once per run into a cache of one json line a picture, so that a worker that needs a hundred
pictures of train2017 does not parse half a gigabyte for them.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lt.datagen.shards import LtError, Reject, Sample, SampleError
from lt.datagen.shards.captions import texts_of
from lt.datagen.shards.sample import safe_key
from lt.datagen.shards.storage import atomic_file, digest_of, digest_of_file, lt_home
from lt.datagen.sources.pictures import load_picture

_CACHE_VERSION = 1
Record = dict[str, Any]


@dataclass(frozen=True)
class CocoSource:
    """Pictures of one COCO split with instances and captions.

    Args:
        root: folder that holds `annotations/` and the folder of pictures.
        split: such as `val2017`.
        limit: only the first so many pictures, by id (None: all).
        pictures: folder of pictures below `root`, where it is not named like the split.
        per_shard: pictures in one task, hence at most so many samples in one shard.
    """

    root: Path
    split: str
    limit: int | None = None
    pictures: str = ""
    per_shard: int = 100
    name: ClassVar[str] = "coco"

    def settings(self) -> dict[str, Any]:
        return {"split": self.split, "limit": self.limit, "per_shard": self.per_shard}

    def inputs(self) -> list[str]:
        return [digest_of_file(path) for path in self._annotation_files()]

    def licences(self) -> list[str]:
        with self._records_file.open("rb") as file:
            return json.loads(file.readline())["licences"]

    def splits(self) -> list[list[int]]:
        """[first line, count] of the record cache for each task."""
        with self._records_file.open("rb") as file:
            total = json.loads(file.readline())["count"]
        total = min(total, self.limit or total)
        return [[start, min(self.per_shard, total - start)] for start in range(0, total, self.per_shard)]

    def read(self, split: list[int]) -> Iterator[Sample | Reject]:
        start, count = split
        with self._records_file.open("rb") as file:
            file.readline()
            for number, line in enumerate(file):
                if start <= number < start + count:
                    yield self._sample(json.loads(line))
                elif number >= start + count:
                    return

    def _sample(self, record: Record) -> Sample | Reject:
        image, meta = record["image"], record["meta"]
        key = safe_key(Path(str(image["file_name"])).stem)
        try:
            field, data, (width, height) = load_picture(self._path(image), (image["width"], image["height"]))
        except SampleError as error:
            return Reject(key, error.reason, error.detail, error.figure, stage="read", meta=meta)
        fields: dict[str, Any] = {field: data, "json": {**meta, "width": width, "height": height}}
        if captions := meta["captions"].get("en"):
            fields["txt"] = captions[0]
        return Sample(key, fields)

    def _path(self, image: Record) -> Path:
        folder = (self.root / (self.pictures or self.split)).resolve()
        path = (folder / str(image["file_name"])).resolve()
        if not path.is_relative_to(folder):
            raise SampleError("unsafe-path", f"{image['file_name']!r} lies outside {folder.name}/")
        return path

    def _annotation_files(self) -> list[Path]:
        instances = self.root / "annotations" / f"instances_{self.split}.json"
        captions = self.root / "annotations" / f"captions_{self.split}.json"
        if not instances.is_file():
            raise LtError(
                f"No COCO annotations: {instances} is missing.",
                "--root names the folder that holds annotations/ and the pictures; --split its part, such as val2017.",
            )
        return [path for path in (instances, captions) if path.is_file()]

    @cached_property
    def _records_file(self) -> Path:
        files = self._annotation_files()
        stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        cache = lt_home() / "coco" / f"{digest_of([_CACHE_VERSION, stamps])[:32]}.jsonl"
        if not cache.is_file():
            with atomic_file(cache, durable=False) as out:
                for value in _records([_load_json(path) for path in files]):
                    out.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        return cache


def _records(documents: list[Record]) -> Iterator[Record]:
    """First a header {count, licences}, then one record a picture, by id, with its instances and captions."""
    try:
        images = {image["id"]: image for document in reversed(documents) for image in document["images"]}
        instances, captions = _by_image(documents[0]), _by_image(*documents[1:])
        categories = {category["id"]: category for category in documents[0]["categories"]}
        licences = {entry["id"]: entry for entry in documents[0].get("licenses", [])}
        yield {"count": len(images), "licences": sorted({entry.get("name", "") for entry in licences.values()})}
        for number in sorted(images):
            image = images[number]
            licence = licences.get(image.get("license"), {})
            yield {
                "image": image,
                "meta": {
                    "captions": _captions(captions.get(number, [])),
                    "source": _source(image, licence),
                    "instances": [_instance(entry, categories) for entry in instances.get(number, [])],
                },
            }
    except (KeyError, TypeError, AttributeError) as error:
        raise LtError(f"The annotations are not in COCO's format: {type(error).__name__} {error}.") from None


def _by_image(*documents: Record) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = {}
    for document in documents:
        for entry in document["annotations"]:
            found.setdefault(entry["image_id"], []).append(entry)
    return found


def _captions(entries: list[Record]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for entry in entries:
        for text in texts_of(entry["caption"]):
            captions.setdefault(entry.get("language", "en"), []).append(" ".join(text.split()))
    return captions


def _source(image: Record, licence: Record) -> Record:
    source = {
        "dataset": "coco",
        "id": image["id"],
        "url": image.get("coco_url") or image.get("flickr_url") or "",
        "origin": image.get("source", ""),
        "credit": image.get("credit", ""),
        "licence": licence.get("name", ""),
        "licence_url": licence.get("url", ""),
    }
    return {name: value for name, value in source.items() if value != ""}


def _instance(entry: Record, categories: dict[int, Record]) -> Record:
    category = categories.get(entry["category_id"], {})
    return {
        "id": entry["id"],
        "category": category.get("name", str(entry["category_id"])),
        "supercategory": category.get("supercategory", ""),
        "bbox": entry["bbox"],
        "iscrowd": int(entry.get("iscrowd", 0)),
        "segmentation": entry.get("segmentation") or None,
    }


def _load_json(path: Path) -> Record:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LtError(f"{path} is not valid json ({error}).", "Fetch it again: `lt datagen fetch coco`.") from None
    if not isinstance(value, dict):
        raise LtError(f"{path} is not in COCO's format: want an object at the top.")
    return value


def photos_source(limit: int | None = None) -> CocoSource:
    """The photographs that ship with lt: freely licensed, annotated by hand (`photos/README.md` names each one's origin)."""
    return CocoSource(Path(__file__).with_name("photos"), "photos", limit, pictures="images", per_shard=4)
