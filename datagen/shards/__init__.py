"""The one interface between all steps: samples in directories of WebDataset shards.

    with ShardWriter("out/shard-000000.tar") as writer:      # one shard, atomically
        writer.write(Sample("cat-1", {"jpg": jpeg_bytes, "txt": "a cat", "json": {"source": "me"}}))
    for sample in open_shards("out"):                         # folder, tar, brace pattern or URL
        print(sample.key, sample["txt"], sample["jpg"].shape)

Needs neither torch nor any model library.
"""

from lt.datagen.shards.captions import captions_of
from lt.datagen.shards.errors import LtError, SampleError, ShardError, UsageError
from lt.datagen.shards.reader import Shards, open_shards
from lt.datagen.shards.sample import Reject, Sample
from lt.datagen.shards.writer import ShardWriter

__all__ = [
    "LtError",
    "Reject",
    "Sample",
    "SampleError",
    "ShardError",
    "ShardWriter",
    "Shards",
    "UsageError",
    "captions_of",
    "open_shards",
]
