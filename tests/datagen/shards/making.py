"""Small folders of shards for the tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from lt.datagen.shards import Reject, Sample, ShardWriter
from lt.datagen.shards.manifest import Manifest, ShardEntry, StageMetrics, add_stage_metrics, shard_name

RNG = np.random.default_rng(0)


def picture(height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def encoded(pixels: np.ndarray, format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def plain(key: str) -> Sample:
    return Sample(key, {"png": picture(), "txt": f"caption {key}", "json": {"key": key}})


def build(folder: Path, *shards: list[Sample | Reject], **manifest) -> Manifest:
    """A finished folder, one shard for each list."""
    made = Manifest(**{"pipeline": "test", "complete": True, "tasks": len(shards), **manifest})
    fields: set[str] = set()
    for number, items in enumerate(shards):
        with ShardWriter(folder / shard_name(number), durable=False) as writer:
            metrics = StageMetrics(name="make", seconds=1.0)
            for item in items:
                if isinstance(item, Reject):
                    writer.reject(item)
                    metrics.rejected[item.reason] = metrics.rejected.get(item.reason, 0) + 1
                else:
                    writer.write(item)
                    metrics.kept += 1
            writer.stages = [metrics]
        assert writer.sidecar is not None
        fields.update(writer.sidecar.fields)
        made.stages = add_stage_metrics(made.stages, [metrics])
        for reject in writer.rejects:
            made.rejected[reject.reason] = made.rejected.get(reject.reason, 0) + 1
        if writer.sidecar.count:
            made.shards.append(ShardEntry.of(writer.sidecar))
    made.count = sum(entry.count for entry in made.shards)
    made.fields = sorted(fields)
    made.save(folder / "manifest.json")
    return made


def foreign(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar as another program writes it."""
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def img2dataset_folder(folder: Path, shards: int = 2, rows: int = 5) -> list[str]:
    """The layout that img2dataset 1.47 leaves: completion order, stats, parquet; one row of each shard failed. Returns keys."""
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    keys = []
    for shard in range(shards):
        order = [(3 * row + 1) % rows for row in range(rows)]
        members, table = [], []
        for row in order:
            key, caption = f"{shard:05d}{row:04d}", f"图 {row}"
            good = row != 2
            table.append({"key": key, "caption": caption, "status": "success" if good else "failed_to_download"})
            if good:
                meta = {**table[-1], "width": 8, "height": 6, "exif": "{}", "url": "http://x/1.jpg"}
                members += [(f"{key}.jpg", encoded(picture(), "JPEG")), (f"{key}.json", json.dumps(meta).encode())]
                members.append((f"{key}.txt", caption.encode()))
                keys.append(key)
        foreign(folder / f"{shard:05d}.tar", members)
        pq.write_table(pa.Table.from_pylist(table), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps({"count": rows, "successes": rows - 1}))
    return keys
