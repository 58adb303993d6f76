"""A static web page of any folder of shards: grid, search, layers one by one, boxes, lineage, rejects. Opens from `file://`."""

from lt.datagen.shards.page.build import Built, build_page

__all__ = ["Built", "build_page"]
