"""COCO's published layout: pictures in `<root>/<split>/`, annotations in `<root>/annotations/{instances,captions}_<split>.json`.

Pictures may also lie in `images/<split>/`, `images/` or where `file_name` says from the root on. What is wrong with an entry
costs the pictures that it speaks of, by name, and no others.

The annotation files are read once per run into a cache of one json line a picture, so that a worker that needs a hundred
pictures of train2017 does not parse half a gigabyte for them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from lt.datagen.engine.stage import SampleSource
from lt.datagen.shards import LtError, Sample, SampleError
from lt.datagen.shards.captions import texts_of
from lt.datagen.shards.sample import safe_key
from lt.datagen.shards.storage import atomic_file, digest_of, digest_of_file, lt_home
from lt.datagen.sources.pictures import load_picture, unique_keys

_CACHE_VERSION = 2
Record = dict[str, Any]


@dataclass(frozen=True)
class CocoSource(SampleSource):
    """Pictures of one COCO split with instances and captions.

    Rejects: `missing-file`, `unsafe-path`, what `load_picture` says; `same-image-id`, `unknown-image-id`, `bad-annotation`.

    Args:
        root: folder that holds `annotations/` and the folder of pictures.
        split: such as `val2017`.
        limit: only the first so many pictures, by id (None: all).
        pictures: folder of pictures below `root`, where it is not one of the usual.
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
        return self._header["licences"]

    def splits(self) -> list[list[int]]:
        """[first line, count] of the record cache for each task; what belongs to no picture comes last."""
        pictures, others = self._header["count"], self._header["others"]
        total = pictures + others if self.limit is None else min(pictures, self.limit)
        return [[start, min(self.per_shard, total - start)] for start in range(0, total, self.per_shard)]

    def items(self, split: list[int]) -> Iterator[tuple[Sample, Callable[[], Sample]]]:
        start, count = split
        with self._records_file.open("rb") as file:
            for line in islice(file, 1 + start, 1 + start + count):
                record = json.loads(line)
                yield Sample(record["key"], {"json": record["meta"]}), partial(self._sample, record)

    def _sample(self, record: Record) -> Sample:
        if fault := record.get("fault"):
            raise SampleError(*fault)
        image, meta = record["image"], record["meta"]
        field, data, (width, height) = load_picture(self._path(image["file_name"]), _size(image))
        fields: dict[str, Any] = {field: data, "json": {**meta, "width": width, "height": height}}
        if captions := meta["captions"].get("en"):
            fields["txt"] = captions[0]
        return Sample(record["key"], fields)

    def _path(self, name: str) -> Path:
        """The picture in the first of the usual places that has it."""
        usual = [self.split, f"images/{self.split}", "images", "."]
        places = [(folder, name) for folder in ([self.pictures] if self.pictures else usual)]
        places.insert(1, (places[0][0], name.removeprefix(f"{self.split}/")))
        tops = [((self.root / folder).resolve(), its) for folder, its in places]
        inside = [path for top, its in tops if (path := (top / its).resolve()).is_relative_to(top)]
        if not inside:
            raise SampleError("unsafe-path", f"{name!r} lies outside {self.root.name}/")
        if (found := next((path for path in inside if path.exists()), None)) is None:
            looked = ", ".join(dict.fromkeys(folder for folder, _ in places))
            raise SampleError("missing-file", f"{name}, looked in {looked} of {self.root}")
        return found

    def _annotations(self, kind: str) -> Path:
        """Where a kind of annotations lies: `<kind>_<split>.json`, or `<kind>.json`, as `lt shards export` writes it."""
        folder = self.root / "annotations"
        of_split, of_all = folder / f"{kind}_{self.split}.json", folder / f"{kind}.json"
        return of_all if of_all.is_file() and not of_split.is_file() else of_split

    def _annotation_files(self) -> list[Path]:
        instances, captions, panoptic = map(self._annotations, ("instances", "captions", "panoptic"))
        if not instances.is_file():
            what = f" ({panoptic.name} has segments, not instances)" if panoptic.is_file() else ""
            raise LtError(
                f"No COCO annotations: {instances} is missing{what}.",
                "--root names the folder that holds annotations/ and the pictures; --split its part, such as val2017.",
            )
        return [path for path in (instances, captions) if path.is_file()]

    @cached_property
    def _header(self) -> Record:
        with self._records_file.open("rb") as file:
            return json.loads(file.readline())

    @cached_property
    def _records_file(self) -> Path:
        files = self._annotation_files()
        stamps = [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        cache = lt_home() / "coco" / f"{digest_of([_CACHE_VERSION, stamps])[:32]}.jsonl"
        if not cache.is_file():
            with atomic_file(cache, durable=False) as out:
                for value in _records({path: _load_json(path) for path in files}):
                    out.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        return cache


def _records(documents: dict[Path, Record]) -> Iterator[Record]:
    """First a header {count, others, licences}, then a record a picture, by id, then one for each entry that has no picture.

    A record is {key, image, meta}; `fault` says why there can be no sample of it: reason, detail, figure.
    """
    images: dict[str, list[Record]] = {}
    others: list[Record] = []
    for path, document in reversed(documents.items()):
        named, nameless = _images(path, document)
        images |= named
        others += nameless
    instances, captions = {}, {}
    for place, (path, document) in enumerate(documents.items()):
        belonging, strange = _by_image(path, document, images.keys())
        others += strange
        captions, instances = (captions | belonging, instances) if place else (captions, belonging)
    first = next(iter(documents.values()))
    categories = {_id(entry.get("id")): entry for entry in _entries(first.get("categories"))}
    licences = {_id(entry.get("id")): entry for entry in _entries(first.get("licenses"))}
    pictures = [(number, image) for number in sorted(images, key=_by_number) for image in images[number]]
    names = sorted({str(entry.get("name") or "") for entry in licences.values()})
    yield {"count": len(pictures), "others": len(others), "licences": names}
    paths = [image["file_name"] for _, image in pictures]
    for (number, image), key in zip(pictures, unique_keys([Path(path).stem for path in paths], paths), strict=True):
        meta = {
            "captions": _captions(captions.get(number, [])),
            "source": _source(image, licences.get(_id(image.get("license")), {})),
            "instances": [_instance(entry, categories) for entry in instances.get(number, [])],
        }
        alike = [other["file_name"] for other in images[number]]
        fault = ["same-image-id", f"{', '.join(alike)} all have the id {number}: whose annotations are whose?"]
        yield {"key": key, "image": image, "meta": meta} | ({"fault": fault} if len(alike) > 1 else {})
    yield from others


def _images(path: Path, document: Record) -> tuple[dict[str, list[Record]], list[Record]]:
    """The pictures of a document by their id, and the entries that name none."""
    named: dict[str, list[Record]] = {}
    nameless = []
    for place, image in enumerate(_listed(path, document, "images")):
        number = _id(image.get("id")) if isinstance(image, dict) else ""
        if not number or not isinstance(image.get("file_name"), str):
            detail = f"images[{place}] of {path.name} has no id or no file_name"
            nameless.append(_other(f"images-{place}", "bad-annotation", detail))
        elif image["file_name"] not in [other["file_name"] for other in named.get(number, [])]:
            named.setdefault(number, []).append(image)
    return named, nameless


def _by_image(path: Path, document: Record, known: Any) -> tuple[dict[str, list[Record]], list[Record]]:
    """The annotations of a document by the id of their picture, and a record for each id that no picture has."""
    found: dict[str, list[Record]] = {}
    for entry in _listed(path, document, "annotations"):
        if isinstance(entry, dict) and "segments_info" in entry:
            raise LtError(
                f"{path} is in COCO's panoptic format, which tells segments, not instances.",
                "Use the instances_*.json of the same split.",
            )
        number = _id(entry.get("image_id")) if isinstance(entry, dict) else ""
        found.setdefault(number, []).append(entry)
    strange = [
        _other(f"image-{number}", "unknown-image-id", f"{_names(found[number])} of {path.name}", len(found[number]))
        for number in sorted(found.keys() - known, key=_by_number)
    ]
    return {number: entries for number, entries in found.items() if number in known}, strange


def _names(entries: list[Any]) -> str:
    names = [str(entry.get("id")) if isinstance(entry, dict) else str(entry)[:20] for entry in entries]
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"annotation {', '.join(names[:5])}{more}"


def _other(key: str, reason: str, detail: str, figure: float | None = None) -> Record:
    return {"key": safe_key(key), "meta": {}, "fault": [reason, detail, figure]}


def _listed(path: Path, document: Record, name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise LtError(f"{path} is not in COCO's format: want a list {name!r}.")
    return value


def _entries(value: Any) -> list[Record]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _id(value: Any) -> str:
    """An id as text, so that 7, 7.0 and "7" are one; "" for what is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, int | str) else ""


def _by_number(number: str) -> tuple[bool, int, str]:
    return (False, int(number), "") if number.isdecimal() else (True, 0, number)


def _size(image: Record) -> tuple[int, int] | None:
    """The (width, height) that an entry states, if it does."""
    try:
        size = int(image["width"]), int(image["height"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def _captions(entries: list[Record]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for entry in entries:
        for text in texts_of(entry.get("caption")):
            captions.setdefault(str(entry.get("language") or "en"), []).append(" ".join(text.split()))
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


def _instance(entry: Record, categories: dict[str, Record]) -> Record:
    """One annotation as a sample carries it; `choose-entities` checks it."""
    number = _id(entry.get("category_id"))
    category = categories.get(number, {})
    return {
        "id": entry.get("id"),
        "category": category.get("name") or number,
        "supercategory": category.get("supercategory") or "",
        "bbox": entry.get("bbox"),
        "iscrowd": entry.get("iscrowd") or 0,
        "segmentation": entry.get("segmentation") or None,
    }


def _load_json(path: Path) -> Record:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise LtError(f"{path} is not valid json ({error}).", "It may be cut short: copy or write it again.") from None
    except OSError as error:
        raise LtError(f"{path} cannot be read: {error.strerror}.") from None
    if not isinstance(value, dict):
        raise LtError(f"{path} is not in COCO's format: want an object at the top.")
    return value


def photos_source(limit: int | None = None) -> CocoSource:
    """The photographs that ship with lt: freely licensed, annotated by hand (`photos/README.md` names each one's origin)."""
    return CocoSource(Path(__file__).with_name("photos"), "photos", limit, pictures="images", per_shard=4)
