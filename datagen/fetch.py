"""Download data sets that others host: resumable, with the size checked, unpacked without trusting the archive.

COCO 2017 is fetched from its own site; another address (a mirror, a test server) can be given.
"""

import json
import shutil
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import atomic_file, writing

COCO_SITE = "http://images.cocodataset.org"
COCO_SPLITS = {"val2017": "0.8 GB", "train2017": "19 GB"}
"""Splits with captions and instances, with the size of their pictures; the annotations of both add 0.25 GB."""


class Step(NamedTuple):
    """How far a download is: `done` of `total` (0 if unknown) bytes of one file, or files of a folder."""

    what: str
    done: int
    total: int
    unit: Literal["bytes", "files"]


Progress = Callable[[Step], None]

_CHUNK = 2**20
_MAX_UNPACKED_MEMBER = 2 * 2**30
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
_CONNECTIONS = 4


@dataclass(frozen=True)
class Fetched:
    """What `fetch_coco` did: files now in place, and how many of them it had to download."""

    root: Path
    pictures: int
    downloaded: int


def download(url: str, path: Path, progress: Progress | None = None) -> bool:
    """Download `url` to `path`; False if it is there already.

    An interrupted download leaves `<name>.part` and goes on from there; the server's entity tag makes sure that both parts are
    of one file. The file gets its name only when it has the size that the server stated.

    Raises:
        LtError: the server cannot be reached, refuses, or sends another size than it said.
    """
    if path.is_file():
        return False
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        expected = _continue_download(url, part, tag, progress)
        if expected is not None and part.stat().st_size != expected:
            raise LtError(
                f"{url}: got {part.stat().st_size:,} of {expected:,} bytes.",
                "Run the same command again: it continues from there.",
            )
        part.replace(path)
        tag.unlink(missing_ok=True)
    return True


def _continue_download(url: str, part: Path, tag: Path, progress: Progress | None) -> int | None:
    """Append what is missing to `part`; the size the whole file should have, if the server tells."""
    import requests

    start = part.stat().st_size if part.is_file() and tag.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": tag.read_text()}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
            if response.status_code == 416:  # nothing is missing
                return start
            response.raise_for_status()
            if response.status_code != 206:
                start = 0
            if identity := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                tag.write_text(identity)
            length = response.headers.get("Content-Length")
            total = start + int(length) if length else None
            with part.open("ab" if start else "wb") as file:
                for chunk in response.iter_content(_CHUNK):
                    file.write(chunk)
                    if progress:
                        progress(Step(part.stem, file.tell(), total or 0, "bytes"))
            return total
    except requests.RequestException as error:
        raise LtError(
            f"Cannot download {url}: {_reason(error)}.", "Run the same command again: it continues."
        ) from None


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    return type(error).__name__.replace("ConnectionError", "no connection")


def fetch_coco(
    root: Path, split: str, limit: int | None, site: str = COCO_SITE, progress: Progress | None = None
) -> Fetched:
    """Fetch a COCO 2017 split into `root`: annotations always, then the first `limit` pictures one by one or all as one archive.

    Raises:
        LtError: unknown split, or as `download`.
    """
    if split not in COCO_SPLITS:
        raise LtError(f"No COCO split {split!r} has captions and instances.", f"Known: {', '.join(COCO_SPLITS)}.")
    downloaded = fetch_coco_annotations(root, split, site, progress)
    names = coco_picture_names(root, split)
    if limit is None:
        downloaded += _fetch_archive(f"{site}/zips/{split}.zip", root, {f"{split}/{name}" for name in names}, progress)
        return Fetched(root, sum(1 for _ in (root / split).glob("*.jpg")), downloaded)
    names = names[:limit]
    downloaded += _fetch_each_picture(f"{site}/{split}", names, root / split, progress)
    return Fetched(root, len(names), downloaded)


def fetch_coco_annotations(root: Path, split: str, site: str, progress: Progress | None) -> int:
    wanted = {f"annotations/{kind}_{split}.json" for kind in ("instances", "captions", "person_keypoints")}
    return _fetch_archive(f"{site}/annotations/annotations_trainval2017.zip", root, wanted, progress)


def _fetch_each_picture(address: str, names: list[str], folder: Path, progress: Progress | None) -> int:
    downloaded = 0
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        for done, was_new in enumerate(pool.map(lambda name: download(f"{address}/{name}", folder / name), names), 1):
            downloaded += was_new
            if progress:
                progress(Step(folder.name, done, len(names), "files"))
    return downloaded


def _fetch_archive(url: str, root: Path, wanted: set[str], progress: Progress | None) -> int:
    """Download an archive and unpack the `wanted` members below `root`, unless all are there; 1 if it was downloaded, else 0."""
    if all((root / name).is_file() for name in wanted):
        return 0
    archive = root / PurePosixPath(url).name
    downloaded = download(url, archive, progress)
    unpack(archive, root, wanted.__contains__)
    archive.unlink()
    return int(downloaded)


def coco_picture_names(root: Path, split: str) -> list[str]:
    """File names of a split's pictures, by id, from its annotations. Names with folders in them are left out."""
    document = json.loads((root / "annotations" / f"instances_{split}.json").read_bytes())
    names = [str(image["file_name"]) for image in sorted(document["images"], key=lambda image: image["id"])]
    return [name for name in names if PurePosixPath(name).name == name and name not in (".", "..")]


def unpack(archive: Path, root: Path, is_wanted: Callable[[str], bool]) -> None:
    """Unpack the wanted members below `root`. Each file appears whole or not at all.

    Raises:
        LtError: not a zip archive, a damaged one, or a member that would land outside `root` or is a bomb.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                if not is_wanted(member.filename):
                    continue
                target = (root / member.filename).resolve()
                if not target.is_relative_to(root.resolve()):
                    raise LtError(
                        f"{archive.name}: member {member.filename!r} would land outside {root}.",
                        "Nothing of it was written.",
                    )
                if member.file_size > _MAX_UNPACKED_MEMBER:
                    raise LtError(f"{archive.name}: member {member.filename!r} says it has {member.file_size:,} bytes.")
                if not (target.is_file() and target.stat().st_size == member.file_size):
                    with opened.open(member) as source, atomic_file(target, durable=False) as out:
                        shutil.copyfileobj(source, out, _CHUNK)
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink(missing_ok=True)
        raise LtError(
            f"{archive} is damaged ({error}); it was removed.", "Run the same command again to fetch it anew."
        ) from None
