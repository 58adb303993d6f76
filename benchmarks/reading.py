"""Reading pictures for training against stock webdataset with Pillow: batches of 224 pixels from JPEGs of 512, of 256 from 1024.

    python benchmarks/reading.py [--rounds 5] [--count 400]

Both sides run in turn in one process, without workers, over the same tar from a warm page cache, shuffled, to uint8 batches
of 64; the ratio is the median of the rounds. Ours is what `lt train` does: any sample by its position, its crc32 checked,
`data.decode` as it is by default. Theirs decodes in full and scales with Pillow (bicubic). The pictures are the photographs
that come with lt, cut to squares, scaled, and stored at quality 95 as img2dataset does. The difference to full decoding is that
of the finished pictures, of 255.
"""

import argparse
import io
import tempfile
from functools import partial
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from shards import in_turn, rate

from lt.datagen.shards import Sample, ShardWriter
from lt.datagen.shards.manifest import shard_name
from lt.recipes.training.loader import Examples, training_loader
from lt.recipes.training.order import Order
from lt.recipes.training.shards import ShardSet
from lt.recipes.vae.objective import Picture

BATCH = 64


def photographs(side: int) -> list[bytes]:
    """The middle squares of the photographs as JPEGs of `side` pixels."""
    found = []
    folder = Path(str(files("lt.datagen"))) / "sources" / "photos" / "images"
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        square = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        square.save(buffer, "JPEG", quality=95)
        found.append(buffer.getvalue())
    return found


def write(folder: Path, side: int, count: int) -> str:
    pool = photographs(side)
    with ShardWriter(folder / shard_name(0), durable=False) as writer:
        for number in range(count):
            writer.write(Sample(f"photo-{number:06d}", {"jpg": pool[number % len(pool)], "txt": "a photograph"}))
    return str(folder / shard_name(0))


def read_ours(where: str, size: int) -> int:
    shards = ShardSet([where])
    slices = [range(first, first + BATCH) for first in range(0, len(shards) // BATCH * BATCH, BATCH)]
    examples = Examples(shards, Order(shards.sizes), Picture(size, scaled=True))
    return sum(len(batch["image"]) for batch in training_loader(examples, slices, 0, 2, pin=False))


def read_theirs(where: str, size: int) -> int:
    def scaled(image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)).transpose(2, 0, 1)

    stock = webdataset.WebDataset(where, shardshuffle=False).shuffle(1000).decode("pil").to_tuple("jpg")
    batches = stock.map_tuple(scaled).batched(BATCH, partial=False)
    return sum(len(torch.as_tensor(np.ascontiguousarray(images))) for (images,) in batches)


def difference(side: int, size: int) -> tuple[float, int]:
    """Mean and maximum over all pictures, of 255."""
    samples = [Sample("photo", {"jpg": data}) for data in photographs(side)]
    rng = np.random.default_rng(0)
    scaled, whole = (
        [Picture(size, how)(sample, rng)["image"].astype(int) for sample in samples] for how in (True, False)
    )
    apart = np.abs(np.array(scaled) - np.array(whole))
    return float(apart.mean()), int(apart.max())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=384)
    given = parser.parse_args()
    for side, size, goal in ((512, 224, 1.7), (1024, 256, 3.0)):
        with tempfile.TemporaryDirectory() as folder:
            where = write(Path(folder), side, given.count)
            ours, theirs, ratio = in_turn(
                partial(read_ours, where, size), partial(read_theirs, where, size), given.rounds
            )
        mean, most = difference(side, size)
        print(
            f"{side} -> {size}: {rate(given.count, ours)}, webdataset {rate(given.count, theirs)}, {ratio:.2f} (>= {goal})"
        )
        print(f"  difference to full decoding: mean {mean:.2f}, maximum {most} of 255")


if __name__ == "__main__":
    main()
