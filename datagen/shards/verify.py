"""Check a folder of shards against everything it claims.

| level | checks |
|---|---|
| folder | manifest readable, complete, its counts and digests those of the sidecars; shards missing, unlisted or left over |
| archive | size, sha256, content, every header and crc32 as the sidecar says; members safe; keys contiguous, unique and short |
| sample | the fields that all samples of the set have; pictures decode and are what their name says; the layer invariant |

What a shard's sidecar says that lt itself encoded or decoded is not decoded again while its bytes are those that were written,
nor are layers whose recomposition the sample tells; `decode=True` looks at everything.

Foreign shards state nothing, so theirs is what the archive itself shows.
"""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from zlib import crc32

from lt.datagen.shards import codec, tar
from lt.datagen.shards.contents import content_problems, is_settled
from lt.datagen.shards.errors import LtError, SampleError, ShardError
from lt.datagen.shards.index import Places, ShardIndex, index_of, is_ours, scan_index
from lt.datagen.shards.manifest import (
    MANIFEST,
    SHARD_NAME,
    ContentDigest,
    Manifest,
    ShardEntry,
    Sidecar,
    rejects_beside,
)
from lt.datagen.shards.reader import open_shards, span
from lt.datagen.shards.remote import Location, RangeReader
from lt.datagen.shards.sample import FOREIGN_KEY, Sample, check_field, check_key, is_known_field, is_numbered
from lt.datagen.shards.storage import TEMP_MARK
from lt.datagen.shards.writer import read_rejects

_WINDOW = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `what` is a stable slug; `figure` the number that shows it, where there is one."""

    shard: str
    key: str
    what: str
    detail: str = ""
    figure: float | None = None


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found. `decoded`: the contents of all fields (True), of none (False), or of those that no
    record vouches for (None)."""

    where: str
    shards: int
    samples: int
    bytes: int
    decoded: bool | None
    findings: list[Finding]
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not self.findings


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for every shard of a set.

    `ours`: sidecars are expected. `required`: fields that every sample has; those of our vocabulary that the manifest names, or,
    where there is none (None), those that most samples of a shard have.
    """

    ours: bool
    required: frozenset[str] | None
    tolerance: float
    decode: bool | None


@dataclass(slots=True)
class ShardResult:
    """What a shard turned out to hold."""

    name: str
    bytes: int = 0
    keys: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def verify(
    where: str | Path,
    *,
    decode: bool | None = None,
    workers: int = 1,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check a folder, tar, brace pattern or URL of shards.

    Args:
        decode: True: decode every field and recompute the layer invariant; False: check bytes only; None: decode what no record
            vouches for.
        workers: processes; 1 works in this one.
        on_progress: called with (bytes done, bytes in all).

    Raises:
        ShardError: there is nothing there to check. All else becomes a finding.
    """
    start = time.perf_counter()
    findings: list[Finding] = []
    locations, manifest, root = _locate(str(where), findings)
    rules = _rules(locations, manifest, decode)
    if root is not None and not str(where).endswith(".tar"):
        findings += _folder_findings(root, manifest, rules.ours)
    entries = {entry.name: entry for entry in manifest.shards} if manifest and manifest.complete else {}
    jobs = [(location, entries.get(location.name), rules) for location in locations]
    results = _run(jobs, workers, on_progress)
    holder: dict[str, str] = {}
    for result in results:
        findings += result.findings
        for key in result.keys:
            first = holder.setdefault(key, result.name)
            if first != result.name:
                findings.append(Finding(result.name, key, "duplicate-key", f"{first} holds this key too"))
    return Report(
        where=str(where),
        shards=len(results),
        samples=sum(len(result.keys) for result in results),
        bytes=sum(result.bytes for result in results),
        decoded=decode,
        findings=findings,
        seconds=time.perf_counter() - start,
    )


def _locate(where: str, findings: list[Finding]) -> tuple[list[Location], Manifest | None, Location | None]:
    """The shards to check; a damaged manifest is a finding, and the folder is then taken as it lies."""
    try:
        shards = open_shards(where)
        return [shard.location for shard in shards.shards], shards.manifest, shards.root
    except ShardError as error:
        root = Location(where)
        tars = root.list_tars()
        if not tars or where.endswith(".tar"):
            raise
        findings.append(Finding(MANIFEST, "", "damaged-manifest", error.message))
        return tars, None, root


def _rules(locations: list[Location], manifest: Manifest | None, decode: bool | None) -> Rules:
    beside = (location.with_suffix(".json") for location in locations if SHARD_NAME.fullmatch(location.name))
    ours = manifest is not None or any(is_ours(sidecar.read_if_present() or b"") for sidecar in beside)
    required = None
    if manifest and manifest.complete:
        required = frozenset(name for name in manifest.fields if is_known_field(name) and _is_required(name))
    return Rules(ours, required, (manifest.tolerance if manifest else None) or 0.0, decode)


def _is_required(name: str) -> bool:
    """Pictures come in one of several formats, layers and latents in any number; a picture may have no caption, a sample has
    mostly kept its key."""
    return name not in (*codec.PICTURE_FIELDS, "txt", FOREIGN_KEY) and not is_numbered(name)


# --- the folder


def _folder_findings(root: Location, manifest: Manifest | None, ours: bool) -> Iterator[Finding]:
    if not ours:
        return
    names = root.list_names()
    for name in names:
        if TEMP_MARK in name:
            yield Finding(name, "", "leftover", "a temporary file of a run that was stopped")
    if manifest is None:
        if MANIFEST not in names:
            yield Finding(MANIFEST, "", "missing-manifest", "sidecars without it: the run has not ended")
        elif not is_ours((root / MANIFEST).read_if_present() or b""):
            yield Finding(MANIFEST, "", "damaged-manifest", "it is not a manifest of shards")
        return
    if not manifest.complete:
        present = sum(SHARD_NAME.fullmatch(name) is not None for name in names)
        yield Finding(
            "", "", "incomplete", f"{present} of {manifest.tasks} shards; run the same command again", present
        )
        return
    yield from _manifest_findings(root, manifest, names)


def _manifest_findings(root: Location, manifest: Manifest, names: list[str]) -> Iterator[Finding]:
    """A complete manifest against the sidecars and files that are there."""
    listed = {entry.name for entry in manifest.shards}
    fields: set[str] = set()
    rejected = 0
    expected_rejects: set[str] = set()
    for name in names:
        if SHARD_NAME.fullmatch(name) and name not in listed:
            yield Finding(name, "", "unlisted-shard", f"{MANIFEST} does not name it")
        if name.endswith(".json") and SHARD_NAME.fullmatch(name.removesuffix(".json") + ".tar"):
            try:
                sidecar = Sidecar.parse((root / name).read_if_present() or b"", name)
            except ShardError:
                continue  # the shard's own check says what is wrong with it
            fields.update(sidecar.fields)
            rejected += sidecar.rejected
            if sidecar.rejected:
                rejects = rejects_beside(name.removesuffix(".json"))
                expected_rejects.add(rejects)
                yield from _rejects_findings(root / rejects, sidecar)
    for name in names:
        if name.startswith("rejects-") and name.endswith(".parquet") and name not in expected_rejects:
            yield Finding(name, "", "leftover", "no sidecar tells of these rejects")
    yield from _differences(
        MANIFEST,
        ("samples", manifest.count, sum(entry.count for entry in manifest.shards)),
        ("rejects", sum(manifest.rejected.values()), rejected),
        ("fields", manifest.fields, sorted(fields)),
    )


def _rejects_findings(location: Location, sidecar: Sidecar) -> Iterator[Finding]:
    data = location.read_if_present()
    if data is None:
        yield Finding(location.name, "", "missing-rejects", f"the sidecar tells of {sidecar.rejected} rejects")
    elif sidecar.rejects_sha256 and hashlib.sha256(data).hexdigest() != sidecar.rejects_sha256:
        yield Finding(location.name, "", "damaged-rejects", "the sha256 is not that of the sidecar")
    else:
        try:
            yield from _differences(location.name, ("rejects", sidecar.rejected, len(read_rejects(location))))
        except LtError as error:
            yield Finding(location.name, "", "damaged-rejects", error.message)


def _differences(shard: str, *claims: tuple[str, object, object]) -> Iterator[Finding]:
    for what, stated, found in claims:
        if stated != found:
            figure = float(found) if isinstance(found, int) else None
            yield Finding(shard, "", "wrong-count", f"{what}: {stated} stated, {found} found", figure)


# --- shards, in this process or in several


def _run(
    jobs: list[tuple[Location, ShardEntry | None, Rules]], workers: int, on_progress: Callable[[int, int], None] | None
) -> list[ShardResult]:
    total = sum(_size(location) for location, _, _ in jobs)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, total)

    if workers <= 1 or len(jobs) <= 1:
        return [check_shard(*job, advance) for job in jobs]
    results = []
    with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=get_context("spawn")) as pool:
        for result in pool.map(check_shard, *zip(*jobs, strict=True)):
            advance(result.bytes)
            results.append(result)
    return results


def _size(location: Location) -> int:
    try:
        return location.stat()[0]
    except ShardError:
        return 0


def check_shard(
    location: Location, entry: ShardEntry | None, rules: Rules, on_bytes: Callable[[int], None] = lambda count: None
) -> ShardResult:
    """Check one shard. `entry` is what the manifest says of it; `on_bytes` hears how far the work has come."""
    check = _ShardCheck(location, rules, on_bytes)
    try:
        check.run(entry)
    except ShardError as error:
        check.found("", "unreadable", error.message)
    return check.result


class _ShardCheck:
    def __init__(self, location: Location, rules: Rules, on_bytes: Callable[[int], None]):
        self.location = location
        self.rules = rules
        self.on_bytes = on_bytes
        self.result = ShardResult(location.name)
        self._has_stated_headers = True  # and nothing between them
        self._position = 0
        self._settled: dict[tuple[str, ...], bool] = {}

    def found(self, key: str, what: str, detail: str = "", figure: float | None = None) -> None:
        self.result.findings.append(Finding(self.location.name, key, what, detail, figure))

    def run(self, entry: ShardEntry | None) -> None:
        index = self._index()
        if index.sidecar is not None:
            self._compare_sidecar(index, index.sidecar, entry)
            if index.sidecar.count == 0:
                return
        self.result.bytes = self.location.stat()[0]
        self._check(index)

    def _index(self) -> ShardIndex:
        """Our sidecar's index; without a good one what a fresh scan shows: verify trusts no cache."""
        if self.rules.ours:
            try:
                data = self.location.with_suffix(".json").read_if_present()
                if data is None:
                    detail = "the run that makes this shard has not ended, or the file is lost"
                    self.found("", "missing-sidecar", detail)
                elif is_ours(data):
                    return index_of(self.location)[0]
                else:
                    self.found("", "damaged-sidecar", "the json file beside the shard is not a sidecar")
            except ShardError as error:
                self.found("", "damaged-sidecar", error.message)
        return self._scan()

    def _scan(self) -> ShardIndex:
        with self.location.open() as file:
            return scan_index(file, self.location.stat()[0])

    def _compare_sidecar(self, index: ShardIndex, sidecar: Sidecar, entry: ShardEntry | None) -> None:
        claims = [
            ("name", sidecar.shard, self.location.name),
            ("samples", sidecar.count, len(index.samples)),
            ("fields", sidecar.fields, sorted({name for places in index.samples.values() for name in places})),
        ]
        if entry is not None:
            claims += [
                (f"{what} in {MANIFEST}", getattr(entry, what), getattr(sidecar, what))
                for what in ("count", "bytes", "sha256", "content")
            ]
        if sidecar.count:
            claims.append(("bytes", sidecar.bytes, self.location.stat()[0]))
        self.result.findings += _differences(self.location.name, *claims)

    def _check(self, index: ShardIndex) -> None:
        self.result.keys = list(index.samples)
        for problem in index.problems:
            self.found(problem.name, problem.reason, problem.detail)
        self._check_keys(index)
        required = _fields_of_most(index) if self.rules.required is None else self.rules.required
        vouched = frozenset(index.sidecar.decoded if index.sidecar and self.rules.decode is None else ())
        digest, content = hashlib.sha256(), ContentDigest()
        with ThreadPoolExecutor(1) as hasher:
            for start, data, keys in self._windows(index):
                hashing = hasher.submit(digest.update, data if index.sidecar else b"")
                for key in keys:
                    sample = self._sample(key, index.samples[key], data, start)
                    if index.sidecar is not None:
                        content.add(key, index.sidecar.index[key], sample.encoded("json") if "json" in sample else None)
                    self._check_sample(sample, index.samples[key], required, vouched)
                hashing.result()
                self.on_bytes(len(data))
        if index.sidecar is not None:
            self._compare_digests(index.sidecar, digest.hexdigest(), content.hexdigest())
            if not self._has_stated_headers:
                self._compare_scan(index)

    def _compare_digests(self, sidecar: Sidecar, sha256: str, content: str) -> None:
        for what, stated, seen in (("sha256", sidecar.sha256, sha256), ("content", sidecar.content, content)):
            if stated != seen:
                self.found("", f"wrong-{what}", f"{stated[:12]}... stated, {seen[:12]}... found")
                return

    def _check_keys(self, index: ShardIndex) -> None:
        """What commands of ours that write shards would change (keys) or refuse (fields)."""
        for key, places in index.samples.items():
            for check, name in ((check_key, key), *((check_field, name) for name in places)):
                try:
                    check(name)
                except SampleError as error:
                    self.found(key, error.reason, error.detail, error.figure)

    def _windows(self, index: ShardIndex) -> Iterator[tuple[int, bytes, list[str]]]:
        """The whole file in pieces (start, bytes, keys of the samples that lie wholly inside)."""
        ranges = RangeReader(self.location)
        start, keys, end = 0, [], 0
        for key, places in index.samples.items():
            first, last = span(places)
            if keys and (last - start > _WINDOW or first < end):
                yield start, ranges.read(start, end - start), keys
                start, keys = end, []
            if first < start:  # an index out of order: read this sample by itself, the digest will tell
                yield first, ranges.read(first, last - first), [key]
                continue
            keys.append(key)
            end = last
        yield start, ranges.read(start, end - start), keys
        while data := ranges.read(end, _WINDOW):
            yield end, data, []
            end += len(data)
        ranges.close()

    def _sample(self, key: str, places: Places, window: bytes, start: int) -> Sample:
        """A sample with its undamaged fields; headers and checksums are checked. `window` holds the file from byte `start`."""
        sample = Sample(key)
        for name, (offset, size, checksum) in places.items():
            data = window[offset - start : offset - start + size]
            if checksum is not None:
                head = tar.header(f"{key}.{name}", size)
                before = window[offset - start - len(head) : offset - start]
                self._has_stated_headers &= self._position + len(head) == offset and before == head
                self._position = offset + size + -size % tar.BLOCK
            if len(data) != size:
                self.found(key, "cut-field", f"{name}: {len(data)} of {size} bytes are there", len(data))
            elif checksum is not None and crc32(data) != checksum:
                self.found(key, "damaged-bytes", f"{name} does not match its crc32")
            else:
                sample[name] = data
        return sample

    def _check_sample(self, sample: Sample, places: Places, required: frozenset[str], vouched: frozenset[str]) -> None:
        """The set of fields of a sample and what they hold."""
        key = sample.key
        if missing := sorted(required - places.keys()):
            self.found(key, "missing-field", f"no {', '.join(missing)}")
        fields = tuple(places)
        if fields not in self._settled:
            self._settled[fields] = self.rules.decode is False or is_settled(fields, vouched)
        if not self._settled[fields] and len(sample.fields) == len(
            places
        ):  # else its bytes are no longer what was written
            for what, detail, figure in content_problems(sample, self.rules.tolerance, vouched):
                self.found(key, what, detail, figure)

    def _compare_scan(self, index: ShardIndex) -> None:
        """A header was not as the index implies: walk the archive itself and name what differs."""
        scanned = self._scan()
        for problem in scanned.problems:
            self.found(problem.name, problem.reason, problem.detail)
        for key in {**index.samples, **scanned.samples}:
            stated, there = _offsets(index, key), _offsets(scanned, key)
            if stated != there:
                detail = f"{stated or 'nothing'} in the sidecar, {there or 'nothing'} in the archive"
                self.found(key, "wrong-index", detail)


def _offsets(index: ShardIndex, key: str) -> dict[str, tuple[int, int]]:
    return {name: (offset, size) for name, (offset, size, _) in index.samples.get(key, {}).items()}


def _fields_of_most(index: ShardIndex) -> frozenset[str]:
    counts = Counter(name for places in index.samples.values() for name in places)
    return frozenset(name for name, count in counts.items() if 2 * count > len(index.samples) and _is_required(name))
