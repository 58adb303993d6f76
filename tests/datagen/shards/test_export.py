"""Exports are read back by libraries that did not write them, and recomposite to the picture."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import Reject, Sample, UsageError
from lt.datagen.shards.compose import composite
from lt.datagen.shards.export import export, run_lengths
from lt.datagen.sources.coco import CocoSource

NASTY = '<b onload="x">猫 & "dog" \x07'


def layered(key: str = "s1", size: tuple[int, int] = (40, 56)) -> Sample:
    rng = np.random.default_rng(3)
    background = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    layers = []
    for number in range(2):
        layer = np.zeros((*size, 4), np.uint8)
        box = slice(4 + 10 * number, 24 + 10 * number), slice(6, 30 + 8 * number)
        layer[box] = rng.integers(0, 256, (*layer[box].shape[:2], 4), dtype=np.uint8)
        layer[box][3:-3, 3:-3, 3] = 255
        layers.append(layer)
    meta = {
        "captions": {"en": ["a cat", "the cat"], "zh": ["一只猫"]},
        "layers": [{"caption": {"en": NASTY}, "category": "cat"}, {"caption": {}, "category": "dog"}],
    }
    fields = {"png": composite(background, layers), "background.png": background, "json": meta, "txt": "a cat"}
    return Sample(key, fields | {f"layer-{i:02d}.png": layer for i, layer in enumerate(layers)})


def encoded(sample: Sample) -> Sample:
    return Sample(sample.key, {name: sample.encoded(name) for name in sample.fields})


def test_ora_opens_in_an_independent_reader_and_recomposites(tmp_path):
    pyora = pytest.importorskip("pyora")
    sample = layered()
    assert export([encoded(sample)], tmp_path, "ora").written == 1
    project = pyora.Project.load(str(tmp_path / "s1.ora"))
    children = project.children[::-1]  # it lists the topmost first
    names = [layer.name for layer in children]
    assert names[0] == "background" and names[1].startswith('00 <b onload="x">猫 & "dog"') and names[2] == "01 dog"
    layers = [np.asarray(layer.get_image_data(raw=False).convert("RGBA")) for layer in children]
    assert np.array_equal(composite(layers[0][:, :, :3], layers[1:]), sample["png"])


def test_ora_follows_the_specification(tmp_path):
    export([layered()], tmp_path, "ora")
    with zipfile.ZipFile(tmp_path / "s1.ora") as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type, archive.read("mimetype")) == ("mimetype", 0, b"image/openraster")
        merged = np.asarray(Image.open(archive.open("mergedimage.png")))
        assert max(Image.open(archive.open("Thumbnails/thumbnail.png")).size) <= 256
    assert np.array_equal(merged, layered()["png"])


def test_psd_opens_in_an_independent_reader_and_recomposites(tmp_path):
    photoshopapi = pytest.importorskip("photoshopapi")
    sample = layered()
    export([encoded(sample)], tmp_path, "psd")
    document = photoshopapi.LayeredFile_8bit.read(str(tmp_path / "s1.psd"))
    canvases = []
    for layer in reversed(document.layers):  # it lists the topmost first
        left, top = int(layer.center_x - layer.width / 2), int(layer.center_y - layer.height / 2)
        channels = layer.get_image_data()
        canvas = np.zeros((*sample["png"].shape[:2], 4), np.uint8)
        pixels = np.dstack([channels[0], channels[1], channels[2], channels[-1]])
        canvas[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        canvases.append(canvas)
    assert len(canvases) == 3
    assert np.array_equal(composite(canvases[0][:, :, :3], canvases[1:]), sample["png"])
    with Image.open(tmp_path / "s1.psd") as opened:  # the merged picture, which psd-tools composites in floats
        merged = np.asarray(opened.convert("RGB")).astype(int)
    assert np.abs(merged - sample["png"]).max() <= 1


def test_psd_layer_names_survive(tmp_path):
    from psd_tools import PSDImage

    export([layered()], tmp_path, "psd")
    names = [layer.name for layer in PSDImage.open(tmp_path / "s1.psd")]
    assert names[0] == "background" and "猫" in names[1] and names[2] == "01 dog"


def test_coco_is_read_by_pycocotools(tmp_path):
    coco_module = pytest.importorskip("pycocotools.coco")
    sample = layered()
    export([sample, layered("s2")], tmp_path, "coco")
    coco = coco_module.COCO(str(tmp_path / "annotations/instances.json"))
    assert len(coco.imgs) == 2 and len(coco.anns) == 4
    assert {c["name"] for c in coco.cats.values()} == {"cat", "dog"}
    first = coco.loadAnns(coco.getAnnIds(imgIds=[1]))[0]
    assert np.array_equal(coco.annToMask(first).astype(bool), sample["layer-00.png"][:, :, 3] >= 128)
    captions = json.loads((tmp_path / "annotations/captions.json").read_text())["annotations"]
    assert [c["language"] for c in captions if c["image_id"] == 1] == ["en", "en", "zh"]
    assert len({c["id"] for c in captions}) == len(captions)
    assert Path(tmp_path / "images" / coco.imgs[1]["file_name"]).is_file()


def test_run_lengths_equal_pycocotools():
    mask_module = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.random()
        rle = mask_module.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
        assert np.array_equal(mask_module.decode(rle).astype(bool), mask)


def test_png_folder_holds_every_layer_byte_for_byte(tmp_path):
    sample = encoded(layered())
    export([sample], tmp_path, "png")
    folder = tmp_path / "s1"
    assert (folder / "layer-01.png").read_bytes() == sample.encoded("layer-01.png")
    assert (folder / "caption.txt").read_text() == "a cat"
    assert json.loads((folder / "sample.json").read_text())["layers"][1]["category"] == "dog"


def test_a_second_export_does_only_what_is_missing_and_rejects_are_named(tmp_path):
    flat = Sample("flat", {"png": np.zeros((4, 4, 3), np.uint8)})
    first = export([layered("a"), flat], tmp_path, "ora")
    assert (first.written, [r.reason for r in first.rejects]) == (1, ["no-layers"])
    second = export([layered("a"), layered("b")], tmp_path, "ora")
    assert (second.written, second.present) == (1, 1)


def test_hostile_keys_stay_inside_the_folder(tmp_path):
    export([layered("../../evil"), layered("/abs")], tmp_path / "out", "ora")
    assert len(list((tmp_path / "out").glob("*.ora"))) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_unknown_format_lists_the_known_ones(tmp_path):
    with pytest.raises(UsageError, match="png, ora, psd, coco"):
        export([], tmp_path, "tiff")


def test_the_merged_picture_is_what_the_layers_give(tmp_path):
    """A photograph's layers give it within a tolerance only: viewers must see the same with and without reading layers."""
    sample = layered()
    whole = sample["png"]
    sample["png"] = np.roll(whole, 1, axis=0)
    export([sample], tmp_path, "ora")
    export([sample], tmp_path, "psd")
    with zipfile.ZipFile(tmp_path / "s1.ora") as archive:
        assert np.array_equal(np.asarray(Image.open(archive.open("mergedimage.png"))), whole)
    with Image.open(tmp_path / "s1.psd") as opened:
        assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - whole).max() <= 1


def test_the_merged_picture_of_an_edit_shows_the_result_where_it_may_differ(tmp_path):
    rng = np.random.default_rng(1)
    before, after = (rng.integers(0, 256, (5, 7, 3), np.uint8) for _ in range(2))
    mask = np.zeros((5, 7), np.uint8)
    mask[:, :3] = 255
    export([Sample("e", {"png": after, "source.png": before, "mask.png": mask})], tmp_path, "ora")
    with zipfile.ZipFile(tmp_path / "e.ora") as archive:
        whole = np.asarray(Image.open(archive.open("mergedimage.png")))
    assert np.array_equal(whole, np.where(mask[:, :, None] > 0, after, before))


def test_what_a_psd_cannot_hold_is_a_reject(tmp_path):
    flat = np.zeros((151, 30_001, 3), np.uint8)
    done = export([Sample("w", {"png": flat, "background.png": flat}), layered()], tmp_path, "psd")
    assert ([(r.key, r.reason, r.figure) for r in done.rejects], done.written) == (
        [("w", "too-large-for-psd", 30_001)],
        1,
    )


@pytest.mark.parametrize("kind", ["png", "ora", "psd", "coco"])
def test_a_bad_sample_does_not_stop_the_others(tmp_path, kind):
    thin = layered("thin")
    thin["layer-00.png"] = thin["layer-00.png"][:, :, :3]
    broken = encoded(layered("broken"))
    broken["png"] = broken["background.png"] = b"broken"
    done = export([layered("a"), Reject("lost", "damaged-bytes"), thin, broken, layered("z")], tmp_path, kind)
    kept = {"png": {"thin", "broken"}, "coco": set()}.get(kind, set())
    assert done.written == 2 + len(kept)
    assert {r.key for r in done.rejects} == {"lost", "thin", "broken"} - kept


@pytest.mark.parametrize(
    "meta", [{"layers": 12}, {"layers": ["cat"], "captions": [["a"], 3]}, [1], 7, {"layers": [{"caption": 5}]}]
)
@pytest.mark.parametrize("kind", ["png", "ora", "coco"])
def test_json_of_other_shapes_is_passed_over(tmp_path, kind, meta):
    sample = layered()
    sample["json"] = meta
    done = export([encoded(sample)], tmp_path, kind)
    assert (done.written, done.rejects) == (1, [])


def test_coco_holds_what_pycocotools_asks_for(tmp_path, capsys):
    coco_module = pytest.importorskip("pycocotools.coco")
    export([layered()], tmp_path, "coco")
    for name in ("instances", "captions"):
        coco = coco_module.COCO(str(tmp_path / f"annotations/{name}.json"))
        coco.info()
        assert "description: exported by lt" in capsys.readouterr().out
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 3, 3], "score": 0.5}
    assert len(coco_module.COCO(str(tmp_path / "annotations/instances.json")).loadRes([result]).anns) == 1


def test_coco_is_read_back_as_a_source(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    export([layered("a"), layered("b")], tmp_path / "out", "coco")
    source = CocoSource(tmp_path / "out", "val2017")
    samples = [sample for split in source.splits() for sample in source.read(split)]
    assert [sample.key for sample in samples] == ["a", "b"]
    for sample in samples:
        np.testing.assert_array_equal(sample.picture, layered()["png"])
        assert sample.meta["captions"] == {"en": ["a cat", "the cat"], "zh": ["一只猫"]}
        assert [one["category"] for one in sample.meta["instances"]] == ["cat", "dog"]
