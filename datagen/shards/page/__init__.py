"""A static web page of any folder of shards: grid, search, layers one by one, boxes, lineage, rejects. Opens from `file://`."""
