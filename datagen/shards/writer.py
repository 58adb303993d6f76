"""One shard, written atomically: tar, rejects, sidecar; the sidecar comes last and means "finished"."""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from lt.datagen.shards import codec, tar
from lt.datagen.shards.errors import LtError, SampleError
from lt.datagen.shards.manifest import ContentDigest, Sidecar, StageMetrics, rejects_beside
from lt.datagen.shards.remote import Location
from lt.datagen.shards.sample import Reject, Sample, check_field, check_key
from lt.datagen.shards.storage import atomic_file, digest_of_file, writing

_RECORD = 20 * tar.BLOCK  # tar's own record size: the archive is padded to a multiple of it


class ShardWriter:
    """Write samples into `<folder>/shard-000000.tar`, then its sidecar, or nothing at all if the block fails.

        with ShardWriter(folder / "shard-000000.tar", task=digest) as writer:
            writer.write(sample)

    A sample that cannot be written (bad key, undecodable value, second use of a key) is not: it goes to `rejects` under
    its reason and into the rejects file beside the shard. `write` says which of the two happened.
    """

    def __init__(self, path: str | Path, task: str = "", durable: bool = True):
        self.path = Path(path)
        self.task = task
        self.stages: list[StageMetrics] = []
        self.rejects: list[Reject] = []
        self.sidecar: Sidecar | None = None
        self._durable = durable
        self._index: dict[str, dict[str, tuple[int, int, int]]] = {}
        self._passed_through: set[str] = set()
        self._hash = hashlib.sha256()
        self._content = ContentDigest()
        self._position = 0
        self._file: IO[bytes] | None = None
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            with self._open, writing(self.path):
                self._finish()
        else:  # some other error than the block's: an OSError of a stage is none of writing
            self._open.__exit__(Exception, Exception("the block failed"), None)

    def __len__(self) -> int:
        return len(self._index)

    def write(self, sample: Sample) -> bool:
        """Append `sample`; True if it was written, False if it became a reject. Raises LtError if the disk refuses."""
        try:
            key = check_key(sample.key)
            if key in self._index:
                raise SampleError("duplicate-key", f"{key} was written to this shard before")
            encoded = {check_field(name): sample.encoded(name) for name in sample.fields}
            if not encoded:
                raise SampleError("empty-sample", "no fields")
        except SampleError as error:
            self.reject(Reject.of(sample, error.reason, error.figure, error.detail), stage="write")
            return False
        self._append(key, encoded)
        for name, data in encoded.items():
            if not sample.is_decoded(name) or (codec.is_image(name) and codec.other_kind(name, data)):
                self._passed_through.add(name)
        return True

    def reject(self, reject: Reject, stage: str = "") -> None:
        """Record a dropped sample; `stage` fills in the reject's stage where it has none."""
        reject.stage = reject.stage or stage
        self.rejects.append(reject)

    def _append(self, key: str, encoded: dict[str, bytes]) -> None:
        places, chunks, position = {}, [], self._position
        for name, data in encoded.items():
            head = tar.header(f"{key}.{name}", len(data))
            places[name] = (position + len(head), len(data), zlib.crc32(data))
            chunks += [head, data, bytes(-len(data) % tar.BLOCK)]
            position += len(head) + len(data) + -len(data) % tar.BLOCK
        self._emit(b"".join(chunks))
        self._index[key] = places
        self._content.add(key, places, encoded.get("json"))

    def _emit(self, data: bytes) -> None:
        with writing(self.path):
            if self._file is None:  # a shard without samples leaves no tar: stock readers stop at one
                self._file = self._open.enter_context(atomic_file(self.path, durable=self._durable))
            self._file.write(data)
        self._hash.update(data)
        self._position += len(data)

    def _finish(self) -> None:
        sidecar_path, rejects_path = self.path.with_suffix(".json"), self.path.with_name(rejects_beside(self.path.name))
        if self._index:
            self._emit(tar.END_OF_ARCHIVE)
            self._emit(bytes(-self._position % _RECORD))
        for older in (sidecar_path, rejects_path):  # a sidecar must never stand beside newer files
            older.unlink(missing_ok=True)
        if self.rejects:
            write_rejects(rejects_path, self.rejects)
        if not self._index:
            self.path.unlink(missing_ok=True)
        self._open.close()
        fields = {name for places in self._index.values() for name in places}
        self.sidecar = Sidecar(
            shard=self.path.name,
            task=self.task,
            count=len(self._index),
            bytes=self._position,
            sha256=self._hash.hexdigest(),
            content=self._content.hexdigest(),
            fields=sorted(fields),
            decoded=sorted(fields - self._passed_through),
            rejected=len(self.rejects),
            rejects_sha256=digest_of_file(rejects_path) if self.rejects else "",
            stages=self.stages,
            index=self._index,
        )
        self.sidecar.save(sidecar_path, durable=self._durable)


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write rejects as parquet: key, stage, reason, figure, detail, meta (json text)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {
            **{name: _clean(getattr(row, name)) for name in ("key", "stage", "reason", "detail")},
            "figure": row.figure,
            "meta": _clean(json.dumps(row.meta, ensure_ascii=False, default=str)),
        }
        for row in rejects
    ]
    kinds = {name: pa.string() for name in ("key", "stage", "reason")} | {"figure": pa.float64()}
    schema = pa.schema(kinds | {"detail": pa.string(), "meta": pa.string()})
    with atomic_file(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file)


def read_rejects(path: Path | Location, key: str | None = None) -> list[Reject]:
    """Read what `write_rejects` wrote, or only the rows of one key. Raises LtError if the file is damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    location = path if isinstance(path, Location) else Location(str(path))
    try:
        # `read_table` scans with threads, which abort now and then at the process's exit, whatever it is told
        with location.open() as file, pq.ParquetFile(file, pre_buffer=False) as parquet:
            read = (row for batch in parquet.iter_batches(use_threads=False) for row in batch.to_pylist())
            rows = [row for row in read if key is None or row["key"] == _clean(key)]
        return [Reject(**{**row, "meta": json.loads(row["meta"])}) for row in rows]
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise LtError(
            f"{path} cannot be read ({error}).", "Remove the shard's sidecar and run the same command again."
        ) from None


def _clean(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
