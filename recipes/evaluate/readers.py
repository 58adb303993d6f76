"""Pictures with captions from the files that retrieval benchmarks are published in, and from shards.

| file | looks like |
|---|---|
| Karpathy's splits (COCO, Flickr30k, Flickr8k) | `{"images": [{"filename", "filepath"?, "split", "sentences": [{"raw"}]}]}` |
| COCO captions | `{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}` |
| Flickr30k `.token`, COCO-CN, Flickr30k-CNA | lines `picture#number<tab>caption` or `picture<tab>caption` |
| Flickr8k-CN | lines `picture#zhc#number caption` |
| Chinese-CLIP's Flickr30k-CN, COCO-CN, MUGE | `*_texts.jsonl` or `*_queries.jsonl` beside `*_imgs.tsv` (id, tab, base64) |
| shards | folder, tar, pattern or URL |

The files are not shipped; each is told by what it holds, not by its name. An entry that says nothing (a blank caption, a picture
that nothing is known of, a broken line) is counted by its reason, named, and left out; it never costs its neighbours.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.shards import LtError, Sample, SampleError, Shards, UsageError, captions_of, open_shards
from lt.datagen.shards.captions import lines_of, texts_of
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.datagen.shards.storage import digest_of

_LINE = re.compile(r"(?P<picture>[^\t#]+?)(?:#(?:\w+#)?\d+)?(?:\t+|(?<=\d) +)(?P<caption>.*)")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # both alphabets are in use
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass
class PassedOver:
    """What could not be used: how much of it by reason, and the first of each reason by name."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, name: str, count: int = 1) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + count
        self.first.setdefault(reason, name)

    def __or__(self, other: "PassedOver") -> "PassedOver":
        both = PassedOver()
        for part in (self, other):
            for reason, count in part.counts.items():
                both.add(reason, part.first[reason], count)
        return both

    def __str__(self) -> str:
        return ", ".join(f"{count:,} {reason} (first: {self.first[reason]})" for reason, count in self.counts.items())


@dataclass(frozen=True)
class Item:
    """A picture with its captions: the bytes of a file, or a sample of shards."""

    key: str
    captions: tuple[str, ...]
    content: Sample | Callable[[], bytes]

    @property
    def sample(self) -> Sample | None:
        """The sample, where it comes from shards."""
        return self.content if isinstance(self.content, Sample) else None

    def picture(self) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises SampleError where it cannot be read."""
        if isinstance(self.content, Sample):
            return self.content.picture
        return to_rgb(decode_image(self.content()))


@dataclass(frozen=True)
class Collection:
    """`items()` come in order; `passed_over` holds what the last pass over them left out.

    `language` is that of the captions; None where none were asked for. `shards`: where the items come from, if from shards.
    """

    name: str
    items: Callable[[], Iterable[Item]]
    language: str | None
    passed_over: PassedOver
    shards: Shards | None = None

    def digest(self, limit: int | None = None) -> str:
        """Of captions and bytes of the first `limit` pictures; of shards as a whole."""
        if self.shards is not None:
            return self.shards.digest()
        return digest_of([[item.key, item.captions, _content_digest(item)] for item in islice(self.items(), limit)])


def _content_digest(item: Item) -> str:
    assert not isinstance(item.content, Sample)
    try:
        return sha256(item.content()).hexdigest()
    except SampleError as error:
        return error.reason


def open_collection(
    where: str, pictures: Path | None = None, language: str | None = "en", split: str = "", only: Path | None = None
) -> Collection:
    """Open any of the above.

    Args:
        where: a file of captions, or shards.
        pictures: the folder of the pictures that the file names; the file's own folder if not given.
        language: which captions of shards are read; None = none are wanted, and pictures without any are taken.
        split: keep this split (Karpathy's files; the other files hold one split each).
        only: a file of picture names, one a line: keep these (COCO-CN's lists of its splits).

    Raises:
        LtError: the file is none of these, or nothing is left of it.
    """
    path = Path(where)
    if not path.is_file() or path.suffix == ".tar":
        return _from_shards(where, language)
    passed_over = PassedOver()
    try:
        captions, embedded = _read(path, split, passed_over)
        wanted = {Path(line.strip()).stem for line in lines_of(only) if line.strip()} if only else None
    except OSError as error:
        raise LtError(f"Cannot read {error.filename}: {error.strerror}.") from None
    if wanted is not None:
        captions = {name: said for name, said in captions.items() if Path(name).stem in wanted}
    if not captions:
        of_split, left_out = f" of split {split!r}" if split else "", f" ({passed_over})" if passed_over.counts else ""
        raise LtError(f"{path} holds no captions{of_split}{left_out}.", "Look at --split and --only.")
    items = _found(captions, embedded or _in_folder(pictures or path.parent), passed_over)
    if not items:
        raise LtError(
            f"None of the {len(captions):,} pictures can be used: {passed_over}.", "Name their folder: --pictures DIR."
        )
    return Collection(path.name, lambda: items, language, passed_over)


def _from_shards(where: str, language: str | None) -> Collection:
    shards, passed_over = open_shards(where), PassedOver()

    def items() -> Iterator[Item]:
        passed_over.counts.clear()
        passed_over.first.clear()
        for sample in shards.samples(on_bad=lambda reject: passed_over.add(reject.reason, reject.key)):
            try:
                yield Item(sample.key, tuple(captions_of(sample, language)) if language else (), sample)
            except SampleError as error:
                passed_over.add(error.reason, f"{sample.key}, {error.detail}" if error.detail else sample.key)

    return Collection(str(where), items, language, passed_over, shards)


Captions = dict[str, list[str]]
Find = Callable[[str], Callable[[], bytes]]
"""A picture's name to what reads it. Raises SampleError where it is not there."""


def _found(captions: Captions, find: Find, passed_over: PassedOver) -> list[Item]:
    items = []
    for name, said in captions.items():
        try:
            items.append(Item(Path(name).stem, tuple(said), find(name)))
        except SampleError as error:
            passed_over.add(error.reason, error.detail or name)
    return items


Said = Iterator[tuple[str, str, Any]]
"""Entries of a file: the entry's own name, that of its picture, and its caption."""


def _read(path: Path, split: str, passed_over: PassedOver) -> tuple[Captions, Find | None]:
    """Picture name to captions, and where the pictures are if the file says it."""
    find = _beside(path) if path.suffix == ".jsonl" else None
    try:
        if path.suffix == ".jsonl":
            entries = _chinese_clip(path, passed_over)
        elif path.suffix == ".json":
            entries = _json(path, split, passed_over)
        else:
            entries = _token(path, passed_over)
        found: Captions = {}
        for entry, picture, caption in entries:
            if texts := texts_of(caption):
                found.setdefault(picture, []).extend(texts)
            else:
                passed_over.add("no-caption", entry)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LtError(f"{path} is none of the known caption files: {error}.") from None
    return found, find


def _json(path: Path, split: str, passed_over: PassedOver) -> Said:
    value = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        raise LtError(f"{path} is none of the known caption files: it has no list of images.")
    images = [image if isinstance(image, dict) else {} for image in value["images"]]
    if isinstance(value.get("annotations"), list):
        return _coco(images, value["annotations"], passed_over)
    splits = {image["split"] for image in images if isinstance(image.get("split"), str)}
    if split and split not in splits:
        raise UsageError(f"{path} has no split {split!r}.", f"It has {', '.join(sorted(splits))}.")
    return _karpathy([image for image in images if not split or image.get("split") == split], passed_over)


def _coco(images: list[dict[str, Any]], annotations: list[Any], passed_over: PassedOver) -> Said:
    names = {str(image.get("id")): image["file_name"] for image in images if isinstance(image.get("file_name"), str)}
    for number, annotation in enumerate(annotations):
        told = annotation if isinstance(annotation, dict) else {}
        entry, image = f"annotation {told.get('id', f'number {number}')}", str(told.get("image_id"))
        if image in names:
            yield entry, names[image], told.get("caption")
        else:
            passed_over.add("unknown-image", f"{entry}, image {image}")


def _karpathy(images: list[dict[str, Any]], passed_over: PassedOver) -> Said:
    for number, image in enumerate(images):
        folder, file, sentences = image.get("filepath"), image.get("filename"), image.get("sentences")
        if not isinstance(file, str):
            passed_over.add("no-filename", f"image number {number}")
            continue
        name = f"{folder}/{file}" if folder else file
        for sentence in sentences if isinstance(sentences, list) and sentences else [None]:
            yield name, name, sentence.get("raw") if isinstance(sentence, dict) else None


def _token(path: Path, passed_over: PassedOver) -> Said:
    for number, line in enumerate(lines_of(path), 1):
        if match := _LINE.fullmatch(line.lstrip()):
            yield f"line {number}", match["picture"].strip(), match["caption"]
        elif line.strip():
            passed_over.add(
                "no-caption-line", f"line {number}: {line[:60]!r}, want picture#number, a tab and a caption"
            )


def _chinese_clip(path: Path, passed_over: PassedOver) -> Said:
    """Texts name the pictures that they belong to; queries (MUGE) do so under other names."""
    for number, line in enumerate(lines_of(path), 1):
        if not line.strip():
            continue
        try:
            value: dict[str, Any] = json.loads(line)
            text, images = value.get("text", value.get("query_text")), value.get("image_ids", value.get("item_ids"))
            named = [str(image) for image in images or ()]
        except (json.JSONDecodeError, AttributeError, TypeError):
            passed_over.add("no-caption-line", f"line {number}: {line[:60]!r}")
            continue
        if not named:
            passed_over.add("unknown-image", f"line {number}")
        for image in named:
            yield f"line {number}", image, text


def _beside(path: Path) -> Find:
    """The pictures of Chinese-CLIP's files: base64 in a table that stands beside."""
    table = path.with_name(f"{re.sub(r'_(texts|queries)$', '', path.stem)}_imgs.tsv")
    if not table.is_file():
        raise LtError(f"{path} needs its pictures beside it: {table} is not there.")
    offsets = _offsets(table)

    def find(name: str) -> Callable[[], bytes]:
        if name not in offsets:
            raise SampleError("picture-missing", name)
        return partial(_from_table, table, offsets[name])

    return find


def _offsets(table: Path) -> dict[str, tuple[int, int]]:
    """Where each picture's base64 text stands in the table: id to (offset, length)."""
    found, position = {}, 0
    with table.open("rb") as file:
        for line in file:
            name, _, data = line.removeprefix(b"\xef\xbb\xbf").partition(b"\t")
            found[name.decode("utf-8", "replace")] = (position + line.index(data), len(data.rstrip()))
            position += len(line)
    return found


def _from_table(table: Path, place: tuple[int, int]) -> bytes:
    with table.open("rb") as file:
        file.seek(place[0])
        try:
            return base64.urlsafe_b64decode(file.read(place[1]).translate(_URL_SAFE))
        except binascii.Error as error:
            raise SampleError("undecodable-image", str(error)) from None


def _in_folder(folder: Path) -> Find:
    """Pictures by the path that the file names, else by their name, else by that without suffix, anywhere below the folder."""
    below: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES:
            for name in {path.name, path.stem}:
                below.setdefault(name, []).append(path)

    def find(name: str) -> Callable[[], bytes]:
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()) and path.is_file():
            return partial(_from_file, path)
        candidates = below.get(Path(name).name) or below.get(Path(name).stem) or []
        if len(candidates) != 1:
            raise SampleError("picture-ambiguous" if candidates else "picture-missing", name)
        return partial(_from_file, candidates[0])

    return find


def _from_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SampleError("unreadable-picture", error.strerror or str(error)) from None
