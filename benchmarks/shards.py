"""Shards against stock webdataset and `sha256sum`: reading, writing, random access, verifying.

    python benchmarks/shards.py [--rounds 5] [--small 4000] [--large 300]

Every comparison runs its sides in turn within one process and reports the median of the rounds' ratios, so that a machine that
is busy for a while disturbs both. Pictures are smoothed noise as JPEG (quality 95) with a caption and a json field of about 300
bytes; both sides decode with the same function, read the same files from a warm page cache and use one process. Ours checks
every field's crc32 on the way. About a minute on an idle machine; on a busy one the absolute figures mean nothing.
"""

import argparse
import os
import platform
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from lt.datagen.shards import Sample, ShardWriter, codec, open_shards
from lt.datagen.shards.manifest import shard_name
from lt.datagen.shards.verify import verify

PER_SHARD = 2000
Row = tuple[str, str, str, str, str]


def samples(count: int, side: int, seed: int = 0) -> list[tuple[str, dict[str, bytes]]]:
    """`count` samples with pictures of `side` pixels, encoded."""
    rng = np.random.default_rng(seed)
    pool = []
    for _ in range(min(count, 40)):
        noise = Image.fromarray(rng.integers(0, 256, (max(side // 8, 2), max(side // 8, 2), 3), np.uint8))
        pool.append(codec.encode("jpg", np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))))
    meta = {"captions": {"en": ["a koala to the left of two red apples"] * 3, "zh": ["考拉在两个红苹果的左边"] * 3}}
    text, json = codec.encode("txt", "a koala to the left of two red apples"), codec.encode("json", meta)
    return [(f"sample-{n:08d}", {"jpg": pool[n % len(pool)], "txt": text, "json": json}) for n in range(count)]


def write_ours(
    folder: Path, made: list[tuple[str, dict[str, bytes]]], durable: bool = True, looked_at: bool = False
) -> None:
    """`looked_at`: every field is decoded before, as in sets that stages have made."""
    for number, start in enumerate(range(0, len(made), PER_SHARD)):
        with ShardWriter(folder / shard_name(number), durable=durable) as writer:
            for key, fields in made[start : start + PER_SHARD]:
                sample = Sample(key, fields)
                if looked_at:
                    _ = [sample[name] for name in fields]
                writer.write(sample)


def write_theirs(folder: Path, made: list[tuple[str, dict[str, bytes]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with webdataset.ShardWriter(str(folder / "shard-%06d.tar"), maxcount=PER_SHARD, maxsize=1e12, verbose=0) as writer:
        for key, fields in made:
            writer.write({"__key__": key, **fields})


def read_ours(folder: Path) -> int:
    return sum(sample["jpg"].shape[0] > 0 for sample in open_shards(str(folder)))


def read_theirs(folder: Path) -> int:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    return sum(
        codec.decode("jpg", sample["jpg"]).shape[0] > 0 for sample in webdataset.WebDataset(urls, shardshuffle=False)
    )


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turn(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of both sides and the median of the rounds' ratios theirs / ours (above 1: ours is faster)."""
    ours(), theirs()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
    return first, second, statistics.median(b / a for a, b in pairs)


def reading(folder: Path, count: int, name: str, rounds: int) -> Row:
    ours, theirs, ratio = in_turn(lambda: read_ours(folder), lambda: read_theirs(folder), rounds)
    return f"read {name} to arrays", rate(count, ours), f"webdataset {rate(count, theirs)}", f"{ratio:.2f}", ">= 1.0"


def writing(root: Path, made: list[tuple[str, dict[str, bytes]]], name: str, rounds: int) -> Row:
    ours, theirs, ratio = in_turn(
        lambda: write_ours(root / "w-ours", made), lambda: write_theirs(root / "w-theirs", made), rounds
    )
    label = f"write {name}, sidecar, index, digests, fsync"
    return label, rate(len(made), ours), f"webdataset {rate(len(made), theirs)}", f"{ratio:.2f}", ">= 0.9"


def random_access(folder: Path, count: int, rounds: int) -> Row:
    shards = open_shards(str(folder))
    keys = list(shards.keys())
    random.Random(0).shuffle(keys)
    chosen = keys[:count]
    times = [seconds(lambda: [shards[key]["jpg"] for key in chosen]) for _ in range(rounds + 1)][1:]
    figure = len(chosen) / statistics.median(times)
    return "read 64 px by key to arrays, warm", f"{figure:,.0f} samples/s", "", "", ">= 5,000 samples/s"


def verifying(folder: Path, name: str, rounds: int) -> Iterable[Row]:
    tars = sorted(str(path) for path in folder.glob("*.tar"))
    size = sum(os.path.getsize(path) for path in tars)  # noqa: PTH202

    def check(decode: bool | None) -> None:
        report = verify(str(folder), decode=decode)
        assert {finding.what for finding in report.findings} <= {"missing-manifest"}, report.findings[:3]

    def stock() -> None:
        subprocess.run(["sha256sum", *tars], check=True, stdout=subprocess.DEVNULL)

    kinds = ((False, "verify --fast", ">= 0.5"), (None, "verify", ">= 0.5"), (True, "verify --decode", ""))
    for decode, label, goal in kinds:
        ours, theirs, ratio = in_turn(lambda decode=decode: check(decode), stock, rounds)
        yield f"{label} {name}", speed(size, ours), f"sha256sum {speed(size, theirs)}", f"{ratio:.2f}", goal


def rate(count: int, duration: float) -> str:
    return f"{count / duration:,.0f} samples/s"


def speed(size: int, duration: float) -> str:
    return f"{size / duration / 1e6:,.0f} MB/s"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    versions = f"Python {platform.python_version()}, webdataset {webdataset.__version__}, Pillow {Image.__version__}"
    load = os.getloadavg()[0]
    return f"{model}, {os.cpu_count()} cores, load {load:.1f}, {platform.system()}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", type=int, default=4000, help="samples of 64 px")
    parser.add_argument("--large", type=int, default=300, help="samples of 512 px")
    options = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="bench-shards-"))
    try:
        print(machine())
        rows: list[Row] = []
        for side, count in ((64, options.small), (512, options.large)):
            folder, made, name = root / f"set-{side}", samples(count, side), f"{side} px"
            write_ours(folder, made, durable=False, looked_at=True)
            rows.append(reading(folder, count, name, options.rounds))
            rows.append(writing(root, made, name, options.rounds))
            rows += verifying(folder, name, options.rounds)
        rows.append(random_access(root / "set-64", 2000, options.rounds))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    print("| what | lt | against | ratio | goal |\n|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
