"""Read shards in order or by key: our folders, foreign WebDataset tars, local or remote.

A broken sample is never passed on: bytes are checked against the sidecar's crc32, fields must lie together, keys must be unique.
What cannot be trusted is raised as a ShardError, or handed to `on_bad` as a Reject where the caller wants to go on.
"""

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from lt.datagen.shards import codec, tar
from lt.datagen.shards.errors import LtError, ShardError
from lt.datagen.shards.index import Places, ShardIndex, foreign_content, index_of, is_ours
from lt.datagen.shards.manifest import MANIFEST, REJECTS_NAME, Manifest, rejects_beside
from lt.datagen.shards.remote import Location, RangeReader
from lt.datagen.shards.sample import Reject, Sample
from lt.datagen.shards.storage import digest_of

OnBad = Callable[[Reject], None]
_READ_AHEAD = 4 * 2**20
_GAP = 4096  # headers and padding between two samples that lie next to each other


class Shard:
    """One tar with its index."""

    def __init__(self, location: Location):
        self.location = location
        self._ranges = RangeReader(location)

    @property
    def name(self) -> str:
        return self.location.name

    @cached_property
    def index(self) -> ShardIndex:
        return index_of(self.location)[0]

    @cached_property
    def keys(self) -> list[str]:
        """Keys in the order of the tar."""
        return list(self.index.samples)

    def __len__(self) -> int:
        return len(self.index.samples)

    def read(self, key: str) -> Sample:
        """One sample by key. Raises KeyError if it is not here, ShardError if its bytes are not what was written."""
        places = self.index.samples[key]
        start, stop = span(places)
        return self._cut(key, places, self._ranges.read(start, stop - start), start)

    def samples(self, on_bad: OnBad | None = None) -> Iterator[Sample]:
        """All samples in order; `on_bad` gets what must not be passed on, without it the first such raises ShardError.

        What costs no sample (`tar.HARMLESS`: a README, say) is passed over, as stock readers do.
        """
        for problem in self.index.problems:
            if problem.reason in tar.HARMLESS and (on_bad is None or problem.reason != "no-key"):
                continue
            if on_bad is None:
                raise ShardError(f"{self.location}: {problem.name or 'archive'}: {problem.reason} ({problem.detail}).")
            on_bad(Reject(problem.name or self.name, problem.reason, problem.detail, stage="read"))
        yield from self.read_many(self.index.samples, on_bad)

    def read_many(self, keys: Iterable[str], on_bad: OnBad | None = None) -> Iterator[Sample]:
        """Samples by key, in the order asked for; neighbours in the tar that follow each other are read in one piece."""
        for run in self._runs(keys):
            start, stop = span(self.index.samples[run[0]])[0], span(self.index.samples[run[-1]])[1]
            window = self._ranges.read(start, stop - start)
            for key in run:
                try:
                    yield self._cut(key, self.index.samples[key], window, start)
                except ShardError as error:
                    if on_bad is None:
                        raise
                    on_bad(Reject(key, "damaged-bytes", error.message, stage="read"))

    def _runs(self, keys: Iterable[str]) -> Iterator[list[str]]:
        run, run_start, run_stop = [], 0, -1
        for key in keys:
            start, stop = span(self.index.samples[key])
            if run and (not run_stop <= start <= run_stop + _GAP or stop - run_start > _READ_AHEAD):
                yield run
                run = []
            run_start = run_start if run else start
            run.append(key)
            run_stop = stop
        if run:
            yield run

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        self._ranges.close()

    def _cut(self, key: str, places: Places, window: bytes, window_start: int) -> Sample:
        sample = Sample(key)
        for name, (offset, size, checksum) in places.items():
            data = window[offset - window_start : offset - window_start + size]
            if len(data) != size or (checksum is not None and crc32(data) != checksum):
                what = "is cut short" if len(data) != size else "does not match its checksum"
                raise ShardError(f"{self.location}: {key}.{name} {what}.", "Make this shard again, or fetch it again.")
            sample[name] = data
        return sample


class Shards:
    """A set of shards, in order. Iterate it, ask it by key, or ask for its manifest (None if foreign).

    >>> shards = open_shards("data/scenes")                           # doctest: +SKIP
    >>> len(shards), shards["scene-000001"]["json"]["captions"]["en"]  # doctest: +SKIP
    """

    def __init__(self, locations: list[Location], manifest: Manifest | None = None, root: Location | None = None):
        self.shards = [Shard(location) for location in locations]
        self.manifest = manifest
        self.root = root

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    def __iter__(self) -> Iterator[Sample]:
        return self.samples()

    def samples(self, on_bad: OnBad | None = None) -> Iterator[Sample]:
        """All samples of all shards in order; see `Shard.samples` for `on_bad`."""
        for shard in self.shards:
            passing = shard if "index" in vars(shard) else Shard(shard.location)  # keep no index that nobody asked for
            yield from passing.samples(on_bad)
            passing.close()

    def samples_and_rejects(self) -> Iterator[Sample | Reject]:
        """All samples in order, and in their place what must not be passed on."""
        bad: list[Reject] = []
        for sample in self.samples(on_bad=bad.append):
            yield from bad
            bad.clear()
            yield sample
        yield from bad

    def keys(self) -> Iterator[str]:
        for shard in self.shards:
            yield from shard.keys

    @cached_property
    def _shards_of(self) -> dict[str, list[Shard]]:
        found: dict[str, list[Shard]] = {}
        for shard in self.shards:
            for key in shard.keys:
                found.setdefault(key, []).append(shard)
        return found

    def __contains__(self, key: str) -> bool:
        return key in self._shards_of

    def __getitem__(self, key: str) -> Sample:
        """The sample of that key. Raises ShardError if there is none, or more than one shard holds the key."""
        holding = self._shards_of.get(key, [])
        if not holding:
            raise ShardError(f"No sample {key!r} in {self}.", "`lt shards ls` lists the keys.")
        if len(holding) > 1:
            names = ", ".join(shard.name for shard in holding)
            raise ShardError(f"{key!r} is in {len(holding)} shards of {self}: {names}.", "Name one of these shards.")
        return holding[0].read(key)

    def __str__(self) -> str:
        return str(self.root or "these shards")

    def rejects(self, key: str | None = None, on_bad: OnBad | None = None) -> Iterator[tuple[str, Reject]]:
        """(name of the rejects file, reject) of all that was dropped on the way, or only of one key.

        Raises:
            LtError: a rejects file is damaged, and there is no `on_bad` to hear of it.
        """
        from lt.datagen.shards.writer import read_rejects

        for location in self._reject_files():
            try:
                found = read_rejects(location, key)
            except LtError as error:
                if on_bad is None:
                    raise
                on_bad(Reject(location.name, "damaged-rejects", error.message, stage="read"))
                continue
            yield from ((location.name, reject) for reject in found)

    def _reject_files(self) -> list[Location]:
        if self.root is not None and not self.root.name.endswith(".tar"):
            return [self.root / name for name in self.root.list_names() if REJECTS_NAME.fullmatch(name)]
        found = []
        for shard in self.shards:
            sidecar = shard.index.sidecar
            if sidecar is not None and sidecar.rejected:
                found.append(shard.location.sibling(rejects_beside(shard.name)))
        return found

    def digest(self) -> str:
        """sha256 over names and contents' digests: what checkpoints and numbers store as their data."""
        return digest_of([shard_identity(shard) for shard in self.shards])

    def webdataset(self):
        """The same shards as a stock `webdataset.WebDataset` pipeline, for code that is built on it."""
        from webdataset.compat import WebDataset

        return WebDataset([shard.location.url for shard in self.shards], shardshuffle=False)

    def hugging_face(self, streaming: bool = True, **options: Any):
        """The same shards through `datasets.load_dataset("webdataset", ...)`, with the features of all fields stated.

        By itself that function infers the features from five samples, and refuses sets whose samples differ in their fields
        (in the number of layers, say). A field that a sample lacks comes out as None.

        Raises:
            LtError: the package is missing, or too old to hold json of any shape.
        """
        try:
            import datasets
            from datasets import Json
        except ImportError as error:
            raise LtError(f"This needs Hugging Face datasets ({error}).", "pip install 'datasets>=5.2'") from None
        kinds = {"txt": datasets.Value("string"), "json": Json()}
        features: dict[str, Any] = {"__key__": datasets.Value("string"), "__url__": datasets.Value("string")}
        for name in sorted(
            {name for shard in self.shards for places in shard.index.samples.values() for name in places}
        ):
            kind = kinds.get(codec.kind_of(name), datasets.Value("binary"))
            features[name] = datasets.Image() if codec.is_image(name) else kind
        urls = [shard.location.url for shard in self.shards]
        options = {"split": "train", "streaming": streaming, "features": datasets.Features(features), **options}
        return datasets.load_dataset("webdataset", data_files=urls, **options)


def shard_identity(shard: Shard) -> list[str]:
    """Name of a shard and the digest of what it holds, without lineage; see `index.foreign_content` for a foreign one."""
    sidecar = shard.index.sidecar
    return [shard.name, sidecar.content if sidecar is not None else foreign_content(shard.location)]


def open_shards(where: str | Path) -> Shards:
    """Open a folder of shards, one tar, a pattern (`part-{000..009}.tar`, `part-[01]*.tar`) or a URL.

    Raises:
        ShardError: nothing is there, or the manifest is damaged.
    """
    root = Location(str(where))
    if (named := expanded(str(where))) != [str(where)]:
        tars = [[one] if one.name.endswith(".tar") else one.list_tars() or [one] for one in map(Location, named)]
        return Shards([tar for several in tars for tar in several])
    if root.name.endswith(".tar"):
        root.stat()
        return Shards([root], root=root)
    manifest = _load_manifest(root)
    tars = [root / entry.name for entry in manifest.shards] if manifest and manifest.complete else root.list_tars()
    if not tars and not (manifest and manifest.complete):
        raise ShardError(f"No shards (*.tar) in {where}.", "Name a folder that holds .tar files, or one .tar file.")
    return Shards(tars, manifest, root)


def expanded(where: str) -> list[str]:
    """What a pattern stands for, in order. What exists is itself whatever its characters, and so is the folder that it lies in.

    Raises:
        ShardError: braces that do not close, or wildcards that fit nothing.
    """
    import braceexpand

    is_local = Location(where).is_local
    folder, name = os.path.split(where) if is_local and Path(where).parent.is_dir() else ("", where)
    if is_local and Path(where).exists():
        return [where]
    try:
        found = [os.path.join(folder, one) for one in braceexpand.braceexpand(name)]  # noqa: PTH118 - URLs, too
    except ValueError as error:
        raise ShardError(f"The braces of {where} do not close.", "As in part-{000..009}.tar.") from error
    if is_local and glob.has_magic(name):
        found = [path for one in found for path in sorted(glob.glob(glob.escape(folder) + one[len(folder) :]))]  # noqa: PTH207
        if not found:
            raise ShardError(f"Nothing fits {where}.", "Name a folder of shards, one .tar file, or a pattern.")
    return found


def _load_manifest(root: Location) -> Manifest | None:
    data = (root / MANIFEST).read_if_present() if not root.is_local or root.path.is_dir() else None
    if data is None or not is_ours(data):
        return None
    return Manifest.parse(data, str(root / MANIFEST))


def span(places: Places) -> tuple[int, int]:
    """First byte of the first field and the byte after the last one."""
    return min(place[0] for place in places.values()), max(place[0] + place[1] for place in places.values())
