"""Where samples come from: COCO, folders, shards and the built-in worlds."""
