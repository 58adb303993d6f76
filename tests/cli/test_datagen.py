"""What `lt datagen layers` reads: one argument means what it holds, and what would not be read is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.cli.datagen import _kind_of, _layer_source
from lt.cli.progress import run_with_table
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.errors import LtError, UsageError
from lt.datagen.sources.coco import CocoSource
from lt.datagen.sources.folder import FolderSource
from lt.datagen.sources.shards import ShardSource


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pictures/a.png")
    return tmp_path / "pictures"


def test_the_argument_means_what_it_holds(pictures: Path):
    assert _kind_of(None) == "photos"
    assert _kind_of(str(pictures)) == _kind_of(str(pictures / "a.png")) == "folder"
    assert _kind_of("part-{000..009}.tar") == _kind_of("https://example.org/a.tar") == "shards"
    (pictures / "0.tar").touch()
    assert _kind_of(str(pictures)) == "shards"
    (pictures / "annotations").mkdir()
    assert _kind_of(str(pictures)) == "coco"
    source = _layer_source("coco", str(pictures), None, "mine", 3)
    assert source == CocoSource(pictures, "mine", 3)
    assert _layer_source("folder", str(pictures), None, None, None) == FolderSource(pictures)
    assert _layer_source("shards", "a.tar", None, None, None) == ShardSource("a.tar")


@pytest.mark.parametrize(
    ("src", "where", "root", "split", "limit"),
    [
        ("photos", "mine", None, None, None),
        ("photos", None, None, "val2017", None),
        ("folder", "mine", Path("coco"), None, None),
        ("folder", None, None, None, None),
        ("coco", "mine", Path("coco"), None, None),
        ("shards", "mine", None, None, 5),
        ("fodler", "mine", None, None, None),
    ],
)
def test_what_would_not_be_read_is_wrong_usage(src, where, root, split, limit):
    with pytest.raises(UsageError):
        _layer_source(src, where, root, split, limit)


def test_a_run_that_keeps_nothing_fails(pictures: Path, tmp_path: Path, capsys):
    (pictures / "a.png").write_bytes(b"no picture")
    with pytest.raises(LtError, match=r"Nothing was made: all samples of .*out were rejected"):
        run_with_table(Pipeline("bad", FolderSource(pictures)), tmp_path / "out", 0, "local", False)
    assert "rejected: undecodable-image 1" in capsys.readouterr().err
