"""Stock readers open what we write: webdataset (as installed; 0.2 by `make test-webdataset-0.2`) and Hugging Face datasets."""

import numpy as np
import pytest

from lt.datagen.shards import Sample, codec, open_shards
from tests.datagen.shards.making import build, picture


def layered(key: str, layers: int) -> Sample:
    fields = {f"layer-{z:02d}.png": picture(channels=4) for z in range(layers)}
    meta = {"captions": {"en": f"caption {key}", "zh": f"标题 {key}"}, "layers": [{"category": "cat"}] * layers}
    return Sample(key, {"png": picture(), "background.png": picture(), "txt": f"caption {key}", "json": meta} | fields)


@pytest.fixture
def folder(tmp_path):
    long_key = "k" * 45 + "/" + "b" * 44  # with `.background.png` longer than the 100 bytes of a tar's name field
    build(tmp_path, [layered("a", 1), layered(long_key, 2)], [], [layered("c", 3), layered("d/e", 1)])
    return tmp_path


def test_webdataset_reads_every_field_of_every_sample(folder):
    wds = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    read = list(wds.WebDataset(urls, shardshuffle=False))
    ours = list(open_shards(folder))
    assert [sample["__key__"] for sample in read] == [sample.key for sample in ours]
    for theirs, sample in zip(read, ours, strict=True):
        assert {name: theirs[name] for name in theirs if not name.startswith("__")} == {
            name: sample.encoded(name) for name in sample.fields
        }


def test_webdataset_decodes_what_we_encode(folder):
    wds = pytest.importorskip("webdataset")
    read = wds.WebDataset(str(folder / "shard-000000.tar"), shardshuffle=False).decode("rgb8")
    for theirs, ours in zip(read, open_shards(folder), strict=False):
        assert np.array_equal(theirs["png"], ours["png"])
        assert theirs["json"] == ours["json"] and theirs["txt"] == ours["txt"]


def test_our_own_pipeline_for_webdataset_code(folder):
    pytest.importorskip("webdataset")
    assert [sample["__key__"] for sample in open_shards(folder).webdataset()] == list(open_shards(folder).keys())


def test_shards_of_webdatasets_own_writer_are_read_by_ours(tmp_path):
    wds = pytest.importorskip("webdataset")
    pixels = picture()
    with wds.TarWriter(str(tmp_path / "00000.tar")) as sink:
        for n in range(3):
            sink.write(
                {"__key__": f"s{n}", "png": codec.encode("png", pixels), "txt": f"猫 {n}", "cls": str(n).encode()}
            )
    read = list(open_shards(tmp_path))
    assert [(sample.key, sample["txt"], sample["cls"]) for sample in read] == [
        (f"s{n}", f"猫 {n}", str(n).encode()) for n in range(3)
    ]
    assert all(np.array_equal(sample["png"], pixels) for sample in read)


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_samples_of_equal_fields_without_help(tmp_path, streaming):
    datasets = pytest.importorskip("datasets")
    build(tmp_path / "in", [layered("a", 2), layered("b", 2)], [layered("c", 2)])
    files = sorted(str(path) for path in (tmp_path / "in").glob("*.tar"))
    rows = datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    same_samples(rows, open_shards(tmp_path / "in"))


@pytest.mark.parametrize("streaming", [True, False])
def test_datasets_reads_samples_of_any_fields_with_our_features(folder, tmp_path, streaming):
    pytest.importorskip("datasets", minversion="5.2")
    rows = list(open_shards(folder).hugging_face(streaming, cache_dir=str(tmp_path / "cache")))
    same_samples(rows, open_shards(folder))
    assert [row["layer-01.png"] is None for row in rows] == [True, False, False, True]


def same_samples(rows, shards) -> None:
    for row, sample in zip(rows, shards, strict=True):
        assert (row["__key__"], row["txt"], row["json"]) == (sample.key, sample["txt"], sample["json"])
        assert np.array_equal(np.asarray(row["png"]), sample["png"])
        for name in sample.layer_fields:
            assert np.array_equal(np.asarray(row[name]), sample[name])
