"""Where every field lies: from our sidecars, or by scanning the headers of a foreign tar (kept in the user's cache).

Foreign folders are never written to: img2dataset, for one, stops working when it meets a json file that is not its own.
"""

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter

from lt.datagen.shards import tar
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.manifest import Sidecar
from lt.datagen.shards.remote import Location
from lt.datagen.shards.storage import digest_of, digest_of_file, lt_home, write_bytes

_FORMAT = 4  # of cached indexes

Places = dict[str, tuple[int, int, int | None]]
"""Field name to (offset, size, crc32 or None if unknown)."""


@dataclass(slots=True)
class ShardIndex:
    """Samples of one shard in their order, and what must not be passed on. `sidecar` is None for foreign shards."""

    samples: dict[str, Places]
    problems: list[tar.Problem] = field(default_factory=list)
    sidecar: Sidecar | None = None


_CACHED = TypeAdapter(ShardIndex)


def index_of(shard: Location, refresh: bool = False) -> tuple[ShardIndex, str]:
    """The index of a shard and where it is kept: sidecar, cache file, or "" if nowhere. `refresh` scans a foreign one anew.

    Raises:
        ShardError: the sidecar is damaged, or the shard cannot be read.
    """
    sidecar = shard.with_suffix(".json")
    if (data := sidecar.read_if_present()) and is_ours(data):
        document = Sidecar.parse(data, str(sidecar))
        return ShardIndex({key: dict(places) for key, places in document.index.items()}, sidecar=document), str(sidecar)
    path = _cache_path(shard)
    index = None if refresh or path is None else _cached(path)
    if index is None:
        with shard.open() as file:
            index = scan_index(file, shard.stat()[0])
        if path is None or not _keep(index, path):
            return index, ""
    return index, str(path)


def scan_index(file: BinaryIO, size: int) -> ShardIndex:
    """Scan the headers of a foreign tar of `size` bytes.

    Samples that may be cut, that lack a field because it is no regular file, whose fields do not lie together, or whose field
    comes twice are left out and named as problems. A key that returns after another key is refused, both times.
    """
    index = ShardIndex({})
    refused: set[str] = set()
    current = ""
    for entry in tar.scan(file, size):
        if isinstance(entry, tar.Problem):
            index.problems.append(entry)
            if entry.reason == "joined-archive":
                current = ""  # no sample reaches from one archive into the next
            elif entry.reason in tar.ENDS:
                if current in index.samples:
                    _refuse(index, refused, current, "cut-sample", "the archive ends inside or right after this sample")
            elif not tar.unsafe_name(entry.name) and (parts := tar.split_name(entry.name)):
                _refuse(index, refused, parts[0], "unsafe-field", f"{parts[1]} is no regular file")
            continue
        parts = tar.split_name(entry.name)
        if parts is None:
            index.problems.append(tar.Problem(entry.name, "no-key", "the name is not <key>.<field>"))
            continue
        key, name = parts
        is_new_group = key != current
        if is_new_group and key in index.samples:
            _refuse(index, refused, key, "non-contiguous-key", "fields of this key lie in two places")
        elif name in index.samples.get(key, ()):
            _refuse(index, refused, key, "duplicate-field", f"{name} comes twice")
        if key not in refused:
            index.samples.setdefault(key, {})[name] = (entry.offset, entry.size, None)
        current = key
    return index


def _refuse(index: ShardIndex, refused: set[str], key: str, reason: str, detail: str) -> None:
    if key not in refused:
        refused.add(key)
        index.samples.pop(key, None)
        index.problems.append(tar.Problem(key, reason, detail))


def is_ours(data: bytes) -> bool:
    """Whether a json file is a sidecar or manifest of ours. One damaged byte must not hide that, so one mark of two will do."""
    return any(mark in data[:200] for mark in (b'"schema_version":', b'"shard":', b'"pipeline":'))


def foreign_content(shard: Location) -> str:
    """What stands for the content of a shard that states no digest of it.

    A local file's sha256: read once, then known by the file's size and times, so that it may be copied or touched but not
    changed. A remote file goes by URL, size and tag or time of change, since all of it would have to be fetched.
    """
    if not shard.is_local:
        return digest_of([shard.url, *shard.stat()])
    path = _cache_path(shard, "sha256")
    if path is not None and path.exists():
        return path.read_text(encoding="utf-8")
    digest = digest_of_file(shard.path)
    if path is not None:
        with contextlib.suppress(LtError):
            write_bytes(path, digest.encode(), durable=False)
    return digest


def _cache_path(shard: Location, kind: str = "json") -> Path | None:
    """Where the index of a foreign shard is kept; None if its store tells no time or tag of change (it could be stale)."""
    size, stamp = shard.stat()
    name = digest_of([_FORMAT, str(shard.path.absolute()) if shard.is_local else shard.url, size, stamp])[:32]
    return lt_home() / "index" / f"{name}.{kind}" if stamp else None


def _cached(path: Path) -> ShardIndex | None:
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    return _CACHED.validate_json(body) if hashlib.sha256(body).hexdigest().encode() == digest else None


def _keep(index: ShardIndex, path: Path) -> bool:
    """Write an index into the cache; False if that cannot be written."""
    body = _CACHED.dump_json(index)
    try:
        write_bytes(path, hashlib.sha256(body).hexdigest().encode() + b"\n" + body, durable=False)
    except LtError:
        return False
    return True
