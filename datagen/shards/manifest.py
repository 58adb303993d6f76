"""The two json files that make a folder of tars trustworthy: a sidecar beside every shard, one manifest over all.

layers-coco/
  manifest.json            pipeline, settings, digests, counts, fields, totals of every stage's metrics
  shard-000000.tar         plain WebDataset
  shard-000000.json        sidecar: task digest, count, sha256, content, byte offsets, seconds and items per stage
  rejects-000000.parquet   every sample dropped: key, stage, reason, figure, metadata
"""

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from lt.datagen.shards import codec
from lt.datagen.shards.errors import SampleError, ShardError
from lt.datagen.shards.storage import write_bytes, write_json
from lt.datagen.shards.tar import unsafe_name

SCHEMA = 2
MANIFEST = "manifest.json"
_DIGEST = b'"digest":"'
SHARD_NAME = re.compile(r"shard-(\d{6})\.tar")
REJECTS_NAME = re.compile(r"rejects-(\d{6})\.parquet")


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def rejects_beside(shard: str) -> str:
    """The name of the file with a shard's rejects: `rejects-000000.parquet` for `shard-000000.tar`."""
    return f"rejects-{shard.removeprefix('shard-').removesuffix('.tar')}.parquet"


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")
    schema_version: int = Field(default=SCHEMA, ge=1)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check the file. Raises ShardError naming what is wrong."""
        try:
            return cls.parse(Path(path).read_bytes(), str(path))
        except FileNotFoundError:
            raise ShardError(
                f"{path} is missing.", "Run the command that makes this folder again: it continues."
            ) from None

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        """Parse the bytes of the file. Raises ShardError naming the field that is wrong."""
        try:
            document = cls.model_validate_json(data)
        except ValidationError as error:
            _refuse_other_schema(data, where)
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"][:3])
            raise ShardError(
                f"{where}: {field + ': ' if field else ''}{first['msg']}.", "The file is damaged or not ours."
            ) from None
        _refuse_other_schema(data, where)
        return document


def _refuse_other_schema(data: bytes, where: str) -> None:
    match = re.match(rb'\s*\{\s*"schema_version"\s*:\s*(\d{1,9})', data)
    if match and int(match[1]) > SCHEMA:
        raise ShardError(
            f"{where} has schema version {int(match[1])}; this lt knows up to {SCHEMA}.", "Update lt-toolkit."
        )
    if match and 0 < int(match[1]) < SCHEMA:
        raise ShardError(
            f"{where} was written by an older lt (schema version {int(match[1])}, now {SCHEMA}).",
            "Make the folder anew; or move its json files away and write the shards again with `lt shards reshard`.",
        )


class StageMetrics(BaseModel):
    """What one stage did. Metrics of several shards add up.

    `seconds` is the stage's own time; `model_seconds` the part of it spent inside models.
    """

    model_config = ConfigDict(extra="forbid")
    name: str
    kept: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    seconds: float = 0.0
    model_seconds: float = 0.0

    def add(self, other: "StageMetrics") -> None:
        self.kept += other.kept
        self.seconds += other.seconds
        self.model_seconds += other.model_seconds
        for reason, count in other.rejected.items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count


Stated = Mapping[str, tuple[int, int, int]]
"""Field name to (offset, size, crc32)."""


class ContentDigest:
    """What a shard holds, whatever made it: sha256 over every key and the name, size and crc32 of its fields, in order.

    `json` counts without `lineage`, which tells of code and settings: equal samples made by two versions of the code are equal.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, key: str, places: Stated, meta: bytes | None) -> None:
        """The next sample. `meta`: the bytes of its field `json`, if it has one."""
        facts = {name: (size, checksum) for name, (_, size, checksum) in places.items()}
        if meta is not None and b'"lineage"' in meta:
            meta = _without_lineage(meta)
            facts["json"] = len(meta), crc32(meta)
        self._hash.update(f"{key} {facts}\n".encode())

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _without_lineage(meta: bytes) -> bytes:
    with contextlib.suppress(SampleError):  # not json: it counts as it is
        value = codec.decode_json("json", meta)
        if isinstance(value, dict) and "lineage" in value:
            return codec.encode("json", {name: part for name, part in value.items() if name != "lineage"})
    return meta


class _Sealed(_Document):
    """A document whose `digest` is the sha256 of all bytes of its file that follow it: no damaged byte goes unnoticed."""

    digest: str = ""

    @classmethod
    def parse(cls, data: bytes, where: str) -> Self:
        document = super().parse(data, where)
        rest = data.partition(_DIGEST)[2][len(document.digest) :]
        if document.digest and hashlib.sha256(rest).hexdigest() != document.digest:
            raise ShardError(
                f"{where}: some bytes are not those that were written.", "The file is damaged: make its shard again."
            )
        return document

    def save(self, path: str | Path, durable: bool = True) -> None:
        self.digest = ""
        head, mark, rest = self.model_dump_json().encode().partition(_DIGEST)
        self.digest = hashlib.sha256(rest).hexdigest()
        write_bytes(path, head + mark + self.digest.encode() + rest, durable)


class Sidecar(_Sealed):
    """What is known of one shard. `index[key][field]` = [offset, size, crc32] of the field's bytes in the tar.

    `sha256` is of the tar's bytes, `content` of what they say (`ContentDigest`): runs and numbers name their data by it.
    `decoded` names the fields that lt itself encoded or decoded in every sample: while the bytes are those, they are good.
    `rejects_sha256` is the digest of the rejects file beside it, "" where nothing was rejected.
    """

    shard: str
    task: str = ""
    count: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str
    content: str
    fields: list[str]
    decoded: list[str] = Field(default_factory=list)
    rejected: NonNegativeInt = 0
    rejects_sha256: str = ""
    stages: list[StageMetrics] = Field(default_factory=list)
    index: dict[str, dict[str, tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt]]]

    @model_validator(mode="after")
    def _index_is_safe(self) -> Self:
        """Keys may become paths and offsets become reads: neither is taken on trust."""
        for key, places in self.index.items():
            if not places or unsafe_name(key):
                raise ValueError(f"the index holds a sample {key!r} that has no fields or an unsafe name")
            if any(offset + size > self.bytes for offset, size, _ in places.values()):
                raise ValueError(f"the index places {key} outside the shard's {self.bytes} bytes")
        return self


class ShardEntry(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=rf"^{SHARD_NAME.pattern}$")
    count: NonNegativeInt
    bytes: NonNegativeInt
    sha256: str
    content: str

    @classmethod
    def of(cls, sidecar: Sidecar) -> Self:
        """What the manifest repeats of a shard's sidecar."""
        facts = sidecar.model_dump(include={"count", "bytes", "sha256", "content"})
        return cls(name=sidecar.shard, **facts)


class Manifest(_Document):
    """What a folder of shards is, how it was made and what it holds.

    `run` is the digest of (pipeline, settings, inputs, code version): a run with another digest is refused here.
    `tolerance` is the largest recomposition error (RMS over sRGB bytes / 255) that `verify` accepts.
    """

    pipeline: str
    run: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    inputs: list[str] = Field(default_factory=list)
    code_version: str = ""
    complete: bool = False
    tasks: int = 0
    count: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    fields: list[str] = Field(default_factory=list)
    stages: list[StageMetrics] = Field(default_factory=list)
    shards: list[ShardEntry] = Field(default_factory=list)
    tolerance: float | None = None
    licences: list[str] = Field(default_factory=list)

    def save(self, path: str | Path) -> None:
        write_json(path, self.model_dump(mode="json"))

    def close(self, folder: Path) -> None:
        """Fill in what the sidecars of all tasks in `folder` tell; the manifest is complete then.

        Raises:
            ShardError: a sidecar is missing or damaged.
        """
        rejected: Counter[str] = Counter()
        fields: set[str] = set()
        for number in range(self.tasks):
            sidecar = Sidecar.load((folder / shard_name(number)).with_suffix(".json"))
            self.stages = add_stage_metrics(self.stages, sidecar.stages)
            fields.update(sidecar.fields)
            if sidecar.count:
                self.shards.append(ShardEntry.of(sidecar))
        for metrics in self.stages:
            rejected.update(metrics.rejected)
        self.rejected = dict(rejected.most_common())
        self.fields = sorted(fields)
        self.count = sum(entry.count for entry in self.shards)
        self.complete = True


def add_stage_metrics(totals: list[StageMetrics], more: list[StageMetrics]) -> list[StageMetrics]:
    """Stage metrics of two shards added up by name, in the order first seen."""
    by_name = {metrics.name: metrics.model_copy(deep=True) for metrics in totals}
    for metrics in more:
        by_name.setdefault(metrics.name, StageMetrics(name=metrics.name)).add(metrics)
    return list(by_name.values())
