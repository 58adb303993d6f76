"""Where every field lies: from our sidecars, or by scanning the headers of a foreign tar (kept in the user's cache).

Foreign folders are never written to: img2dataset, for one, stops working when it meets a json file that is not its own.
"""

import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

from lt.datagen.shards import tar
from lt.datagen.shards.manifest import Sidecar, parse_document
from lt.datagen.shards.remote import Location
from lt.datagen.shards.storage import atomic_file, digest_of, lt_home

Places = dict[str, tuple[int, int, int | None]]
"""Field name to (offset, size, crc32 or None if unknown)."""


@dataclass(slots=True)
class ShardIndex:
    """Samples of one shard in their order, and what must not be passed on. `sidecar` is None for foreign shards."""

    samples: dict[str, Places]
    problems: list[tar.Problem] = field(default_factory=list)
    sidecar: Sidecar | None = None


def load_index(shard: Location) -> ShardIndex:
    """The index of a shard: its sidecar if it has one, else the cached or fresh scan of its headers.

    Raises:
        ShardError: the sidecar is damaged, or the shard cannot be read.
    """
    sidecar = shard.with_suffix(".json")
    if (data := sidecar.read_if_present()) and _is_ours(data):
        document = parse_document(Sidecar, data, str(sidecar))
        return ShardIndex({key: dict(places) for key, places in document.index.items()}, sidecar=document)
    return _cached_scan(shard)


def scan_index(file: BinaryIO, size: int) -> ShardIndex:
    """Scan the headers of a foreign tar of `size` bytes.

    Samples that are cut, whose fields do not lie together, or whose field comes twice are left out and named as problems.
    """
    return group(tar.scan(file, size))


def group(entries: Iterable[tar.Member | tar.Problem]) -> ShardIndex:
    """Group members into samples as they come. A key that returns after another key is refused, both times."""
    index = ShardIndex({})
    refused: set[str] = set()
    current = ""
    last_problem = None
    for entry in entries:
        if isinstance(entry, tar.Problem):
            index.problems.append(entry)
            last_problem = entry
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
    if last_problem is not None and last_problem.reason == "truncated-archive" and current in index.samples:
        _refuse(index, refused, current, "cut-sample", "the archive ends inside or right after this sample")
    return index


def _refuse(index: ShardIndex, refused: set[str], key: str, reason: str, detail: str) -> None:
    if key not in refused:
        refused.add(key)
        index.samples.pop(key, None)
        index.problems.append(tar.Problem(key, reason, detail))


def _is_ours(data: bytes) -> bool:
    return b'"schema_version"' in data[:200]


def _cached_scan(shard: Location) -> ShardIndex:
    size, stamp = shard.stat()
    cache = lt_home() / "index" / f"{digest_of([shard.url, size, stamp])[:32]}.json"
    if stamp:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return _from_json(json.loads(cache.read_bytes()))
    with shard.open() as file:
        index = scan_index(file, size)
    if stamp:  # without a time or tag of change a cached index could be stale
        with contextlib.suppress(Exception), atomic_file(cache, durable=False) as out:
            out.write(_to_json(index))
    return index


def _to_json(index: ShardIndex) -> bytes:
    problems = [[problem.name, problem.reason, problem.detail] for problem in index.problems]
    return json.dumps({"samples": index.samples, "problems": problems}).encode()


def _from_json(value: dict) -> ShardIndex:
    samples = {key: {name: tuple(place) for name, place in places.items()} for key, places in value["samples"].items()}
    return ShardIndex(samples, [tar.Problem(*problem) for problem in value["problems"]])
