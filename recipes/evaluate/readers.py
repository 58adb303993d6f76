"""Pictures with captions from the files that retrieval benchmarks are published in, and from shards.

| file | looks like |
|---|---|
| Karpathy's splits (COCO, Flickr30k, Flickr8k) | `{"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}` |
| COCO captions | `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}` |
| Flickr30k `.token`, COCO-CN, Flickr30k-CNA | lines `picture#number<tab>caption` or `picture<tab>caption` |
| Flickr8k-CN | lines `picture#zhc#number caption` |
| Chinese-CLIP's Flickr30k-CN, COCO-CN, MUGE | `*_texts.jsonl` or `*_queries.jsonl` beside `*_imgs.tsv` (id, tab, base64) |
| shards | folder, tar, pattern or URL |

The files are not shipped; each is told by what it holds, not by its name.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, Sample, SampleError, UsageError, captions_of, open_shards
from lt.datagen.shards.captions import lines_of
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.datagen.shards.storage import digest_of, digest_of_file

_LINE = re.compile(r"(?P<picture>[^\t#]+?)(?:#(?:\w+#)?\d+)?(?:\t+|(?<=\d) +)(?P<caption>.+)")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # both alphabets are in use
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Item:
    """A picture with its captions. `picture()` gives uint8 RGB [h, w, 3] or raises SampleError."""

    key: str
    captions: tuple[str, ...]
    picture: Callable[[], np.ndarray]
    sample: Sample | None = None
    """The sample, where it comes from shards."""


@dataclass(frozen=True)
class Collection:
    """`items()` come in order; `digest` names pictures' places and captions; `passed_over` counts what is unusable, by reason."""

    name: str
    digest: str
    items: Callable[[], Iterable[Item]]
    passed_over: Counter[str] = field(default_factory=Counter)


def open_collection(
    where: str, pictures: Path | None = None, language: str = "en", split: str = "", only: Path | None = None
) -> Collection:
    """Open any of the above.

    Args:
        where: a file of captions, or shards.
        pictures: the folder of the pictures that the file names; the file's own folder if not given.
        language: which captions of shards are read.
        split: keep this split (Karpathy's files; the other files hold one split each).
        only: a file of picture names, one a line: keep these (COCO-CN's lists of its splits).

    Raises:
        LtError: the file is none of these, or nothing is left of it.
    """
    path = Path(where)
    if not path.is_file() or path.suffix == ".tar":
        return _from_shards(where, language)
    captions, embedded = _read(path, split)
    if only:
        wanted = {Path(line.strip()).stem for line in lines_of(only) if line.strip()}
        captions = {name: said for name, said in captions.items() if Path(name).stem in wanted}
    if not captions:
        raise LtError(
            f"{path} holds no captions{f' of split {split!r}' if split else ''}.", "Look at --split and --only."
        )
    find = embedded or _in_folder(pictures or path.parent)
    passed_over: Counter[str] = Counter()
    items = []
    for name, said in captions.items():
        load = find(name)
        if load is None:
            passed_over["picture-missing"] += 1
        else:
            items.append(Item(Path(name).stem, tuple(said), load))
    if not items:
        first = next(iter(captions))
        raise LtError(
            f"None of the {len(captions):,} pictures is there, such as {first}.", "Name their folder: --pictures DIR."
        )
    digest = digest_of([digest_of_file(path), [[item.key, *item.captions] for item in items]])
    return Collection(path.name, digest, lambda: items, passed_over)


def _from_shards(where: str, language: str) -> Collection:
    shards = open_shards(where)
    passed_over: Counter[str] = Counter()

    def items() -> Iterator[Item]:
        passed_over.clear()
        for sample in shards.samples(on_bad=lambda reject: passed_over.update([reject.reason])):
            try:
                yield Item(
                    sample.key, tuple(captions_of(sample, language)), partial(getattr, sample, "picture"), sample
                )
            except SampleError as error:
                passed_over[error.reason] += 1

    return Collection(str(where), shards.digest(), items, passed_over)


Captions = dict[str, list[str]]
Find = Callable[[str], Callable[[], np.ndarray] | None]


def _read(path: Path, split: str) -> tuple[Captions, Find | None]:
    """Picture name to captions, and where the pictures are if the file says it."""
    try:
        if path.suffix == ".jsonl":
            return _chinese_clip(path)
        if path.suffix == ".json":
            return _json(path, split), None
        return _lines(path), None
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise LtError(f"{path} is none of the known caption files: {type(error).__name__} {error}.") from None


def _json(path: Path, split: str) -> Captions:
    value = json.loads(path.read_text(encoding="utf-8"))
    found: Captions = {}
    if "annotations" in value:
        names = {image["id"]: image["file_name"] for image in value["images"]}
        for annotation in value["annotations"]:
            found.setdefault(names[annotation["image_id"]], []).append(annotation["caption"].strip())
        return found
    splits = {image["split"] for image in value["images"]}
    if split and split not in splits:
        raise UsageError(f"{path} has no split {split!r}.", f"It has {', '.join(sorted(splits))}.")
    for image in value["images"]:
        if not split or image["split"] == split:
            name = "/".join(part for part in (image.get("filepath", ""), image["filename"]) if part)
            found[name] = [sentence["raw"].strip() for sentence in image["sentences"]]
    return found


def _lines(path: Path) -> Captions:
    found: Captions = {}
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        if not match:
            raise LtError(f"{path}, line {number}: want picture#number, a tab and a caption, got {line[:60]!r}.")
        found.setdefault(match["picture"].strip(), []).append(match["caption"].strip())
    return found


def _chinese_clip(path: Path) -> tuple[Captions, Find]:
    """Texts name the pictures that they belong to; queries (MUGE) do so under other names."""
    found: Captions = {}
    for line in lines_of(path):
        if line.strip():
            value: dict[str, Any] = json.loads(line)
            text = value.get("text") or value["query_text"]
            for image in value.get("image_ids") or value["item_ids"]:
                found.setdefault(str(image), []).append(text.strip())
    stem = re.sub(r"_(texts|queries)$", "", path.stem)
    table = path.with_name(f"{stem}_imgs.tsv")
    if not table.is_file():
        raise LtError(f"{path} needs its pictures beside it: {table} is not there.")
    offsets = _offsets(table)

    def find(name: str) -> Callable[[], np.ndarray] | None:
        return partial(_from_table, table, offsets[name]) if name in offsets else None

    return found, find


def _offsets(table: Path) -> dict[str, tuple[int, int]]:
    """Where each picture's base64 text stands in the table: id to (offset, length)."""
    found, position = {}, 0
    with table.open("rb") as file:
        for line in file:
            name, _, data = line.partition(b"\t")
            found[name.decode()] = (position + len(name) + 1, len(data.rstrip()))
            position += len(line)
    return found


def _from_table(table: Path, place: tuple[int, int]) -> np.ndarray:
    with table.open("rb") as file:
        file.seek(place[0])
        try:
            data = base64.urlsafe_b64decode(file.read(place[1]).translate(_URL_SAFE))
        except binascii.Error as error:
            raise SampleError("undecodable-image", str(error)) from None
    return to_rgb(decode_image(data))


def _in_folder(folder: Path) -> Find:
    """Pictures by the path that the file names, else by their name without suffix anywhere below the folder."""
    by_stem = {path.stem: path for path in sorted(folder.rglob("*")) if path.suffix.lower() in _PICTURES}

    def find(name: str) -> Callable[[], np.ndarray] | None:
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        chosen = path if inside and path.is_file() else by_stem.get(Path(name).stem)
        return partial(_from_file, chosen) if chosen else None

    return find


def _from_file(path: Path) -> np.ndarray:
    return to_rgb(decode_image(path.read_bytes()))
