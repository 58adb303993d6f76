"""Sources: COCO's layout, folders of pictures, shards; every bad picture becomes a reject with its reason."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import LtError, Reject, Sample, ShardWriter
from lt.datagen.sources.coco import CocoSource
from lt.datagen.sources.folder import FolderSource
from lt.datagen.sources.pictures import load_picture
from lt.datagen.sources.shards import ShardSource

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))


def save(path: Path, mode: str = "RGB", orientation: int = 1, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(PIXELS).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


def read_all(source) -> list[Sample | Reject]:
    return [item for split in source.splits() for item in source.read(split)]


def coco(root: Path, names: list[str], size=(9, 6)) -> CocoSource:
    images = [{"id": i, "file_name": n, "width": size[0], "height": size[1], "license": 1} for i, n in enumerate(names)]
    box = {"bbox": [1, 1, 3, 3], "segmentation": [[1, 1, 4, 1, 4, 4]], "iscrowd": 0, "category_id": 5, "area": 4.5}
    instances = {
        "images": images,
        "categories": [{"id": 5, "name": "cat", "supercategory": "animal"}],
        "licenses": [{"id": 1, "name": "CC0", "url": "https://example.org/cc0"}],
        "annotations": [{"id": 70 + i, "image_id": i, **box} for i in range(len(names))],
    }
    captions = {
        "images": images,
        "annotations": [{"id": i, "image_id": i, "caption": f" A  cat {i}.\n"} for i in range(len(names))],
    }
    captions["annotations"].append({"id": 99, "image_id": 0, "caption": "一只猫", "language": "zh"})
    folder = root / "annotations"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances_s.json").write_text(json.dumps(instances))
    (folder / "captions_s.json").write_text(json.dumps(captions))
    return CocoSource(root, "s", per_shard=2)


def test_coco_sample_has_captions_instances_and_licence(tmp_path):
    save(tmp_path / "s/a.jpg")
    [sample] = read_all(coco(tmp_path, ["a.jpg"]))
    assert sample.key == "a" and sample["txt"] == "A cat 0."
    assert sample.meta["captions"] == {"en": ["A cat 0."], "zh": ["一只猫"]}
    assert sample.meta["source"]["licence"] == "CC0"
    [instance] = sample.meta["instances"]
    assert (instance["category"], instance["supercategory"], instance["bbox"]) == ("cat", "animal", [1, 1, 3, 3])
    assert sample.encoded("jpg") == (tmp_path / "s/a.jpg").read_bytes()


def test_coco_reads_exactly_the_split_of_each_task(tmp_path):
    names = [f"p{i}.png" for i in range(5)]
    for name in names:
        save(tmp_path / "s" / name)
    source = coco(tmp_path, names)
    assert source.splits() == [[0, 2], [2, 2], [4, 1]]
    assert [s.key for s in source.read([2, 2])] == ["p2", "p3"]
    limited = CocoSource(tmp_path, "s", limit=3, per_shard=2)
    assert [s.key for s in read_all(limited)] == ["p0", "p1", "p2"]


def test_bad_coco_pictures_become_rejects_with_reason(tmp_path):
    save(tmp_path / "s/wrong-size.jpg").rename(tmp_path / "s/ok.jpg")
    Image.new("RGB", (3, 3)).save(tmp_path / "s/small.jpg")
    (tmp_path / "s/empty.jpg").write_bytes(b"")
    (tmp_path / "s/cut.jpg").write_bytes((tmp_path / "s/ok.jpg").read_bytes()[:-200])
    (tmp_path / "s/text.jpg").write_text("<html>")
    (tmp_path / "secret.jpg").write_bytes((tmp_path / "s/ok.jpg").read_bytes())
    names = ["ok.jpg", "small.jpg", "empty.jpg", "cut.jpg", "text.jpg", "missing.jpg", "../secret.jpg"]
    items = read_all(coco(tmp_path, names))
    assert isinstance(items[0], Sample)
    reasons = [item.reason for item in items[1:]]
    assert reasons == [
        "size-mismatch",
        "empty-image",
        "undecodable-image",
        "undecodable-image",
        "missing-file",
        "unsafe-path",
    ]
    assert items[1].meta["captions"]["en"] == ["A cat 1."]


def annotate(root: Path, **changed) -> CocoSource:
    """COCO of two pictures `a.jpg` and `b.jpg`, 9 x 6, ids 1 and 2, with one instance each, but for what is changed."""
    for name in "ab":
        save(root / "s" / f"{name}.jpg")
    instances = {
        "images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in ((1, "a"), (2, "b"))],
        "categories": [{"id": 5, "name": "cat"}],
        "annotations": [{"id": 70 + n, "image_id": n, "category_id": 5, "bbox": [1, 1, 3, 3]} for n in (1, 2)],
    }
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations/instances_s.json").write_text(json.dumps(instances | changed))
    return CocoSource(root, "s", per_shard=2)


def test_pictures_without_a_stated_size_have_that_of_the_file(tmp_path):
    assert [(s.key, s.meta["width"], s.meta["height"]) for s in read_all(annotate(tmp_path))] == [
        ("a", 9, 6),
        ("b", 9, 6),
    ]


def test_ids_as_text_are_those_ids(tmp_path):
    entries = [{"id": "7", "image_id": "1", "category_id": "5", "bbox": [1, 1, 3, 3], "iscrowd": None}]
    source = annotate(tmp_path, annotations=[*entries, {"id": 8, "image_id": 2.0, "category_id": 5}])
    first, second = read_all(source)
    assert first.meta["instances"] == [
        {"id": "7", "category": "cat", "supercategory": "", "bbox": [1, 1, 3, 3], "iscrowd": 0, "segmentation": None}
    ]
    assert [item["id"] for item in second.meta["instances"]] == [8]


def test_annotations_of_unknown_pictures_are_counted_and_named(tmp_path):
    strange = [{"id": 90 + n, "image_id": 9, "category_id": 5} for n in range(7)] + [{"id": 99, "category_id": 5}, None]
    source = annotate(tmp_path, annotations=strange)
    assert source.splits() == [[0, 2], [2, 2]]
    first, second, unknown, without = read_all(source)
    assert first.meta["instances"] == second.meta["instances"] == []
    assert (unknown.key, unknown.reason, unknown.figure) == ("image-9", "unknown-image-id", 7)
    assert unknown.detail == "annotation 90, 91, 92, 93, 94 and 2 more of instances_s.json"
    assert without.detail == "annotation 99, None of instances_s.json"


def test_pictures_of_one_id_are_rejected_both_and_by_name(tmp_path):
    images = [{"id": 1, "file_name": name} for name in ("a.jpg", "b.jpg", "a.jpg")] + [{"file_name": "c.jpg"}, 3]
    assert [(item.key, item.reason) for item in read_all(annotate(tmp_path, images=images))] == [
        ("a", "same-image-id"),
        ("b", "same-image-id"),
        ("images-3", "bad-annotation"),
        ("images-4", "bad-annotation"),
        ("image-2", "unknown-image-id"),
    ]
    again = annotate(tmp_path, images=[{"id": 1, "file_name": "a.jpg"}] * 2)
    assert isinstance(read_all(again)[0], Sample)


@pytest.mark.parametrize(
    ("place", "file_name"),
    [
        ("s/a.jpg", "s/a.jpg"),
        ("images/a.jpg", "a.jpg"),
        ("images/s/a.jpg", "a.jpg"),
        ("pictures/a.jpg", "pictures/a.jpg"),
        ("images/s/a.jpg", "s/a.jpg"),
    ],
)
def test_coco_layouts_as_people_have_them(tmp_path, place, file_name):
    source = annotate(tmp_path / "other", images=[{"id": 1, "file_name": file_name}])
    save(tmp_path / "x" / place)
    (tmp_path / "other/annotations").rename(tmp_path / "x/annotations")
    (sample,) = read_all(CocoSource(tmp_path / "x", "s"))[:1]
    assert sample.key == "a" and sample.picture.shape == (6, 9, 3)
    assert [reject.reason for reject in read_all(source.__class__(tmp_path / "x", "s"))[1:]] == ["unknown-image-id"]


def test_equal_names_in_subfolders_have_keys_of_their_own(tmp_path):
    save(tmp_path / "s/x/a.jpg")
    save(tmp_path / "s/y/a.jpg")
    source = annotate(tmp_path, images=[{"id": 1, "file_name": "x/a.jpg"}, {"id": 2, "file_name": "y/a.jpg"}])
    one, other = read_all(source)
    assert one.key != other.key and one.key.startswith("a-") and isinstance(other, Sample)


def test_panoptic_annotations_are_refused_by_name(tmp_path):
    source = annotate(tmp_path, annotations=[{"image_id": 1, "segments_info": [], "file_name": "a.png"}])
    with pytest.raises(LtError, match="panoptic") as refusal:
        source.splits()
    assert "instances_" in refusal.value.hint
    (tmp_path / "annotations/instances_s.json").rename(tmp_path / "annotations/panoptic_s.json")
    with pytest.raises(LtError, match=r"panoptic_s\.json has segments"):
        CocoSource(tmp_path, "s").splits()


def test_a_broken_annotation_file_is_not_said_to_be_cocos(tmp_path):
    annotate(tmp_path)
    (tmp_path / "annotations/instances_s.json").write_text('{"images": [')
    with pytest.raises(LtError, match="is not valid json") as refusal:
        CocoSource(tmp_path, "s").splits()
    assert "fetch" not in refusal.value.hint


def test_captions_that_are_none_are_left_out(tmp_path):
    said = [" ", None, 3, "\ufeffa cat"]
    captions = {"images": [], "annotations": [{"id": n, "image_id": 1, "caption": c} for n, c in enumerate(said)]}
    source = annotate(tmp_path)
    (tmp_path / "annotations/captions_s.json").write_text(json.dumps(captions))
    assert read_all(source)[0].meta["captions"] == {"en": ["a cat"]}


def test_changed_annotations_are_noticed(tmp_path):
    save(tmp_path / "s/a.jpg")
    before = coco(tmp_path, ["a.jpg"]).inputs()
    save(tmp_path / "s/b.jpg")
    source = coco(tmp_path, ["a.jpg", "b.jpg"])
    assert source.inputs() != before and len(read_all(source)) == 2


def test_missing_and_malformed_annotations_say_what_to_do(tmp_path):
    with pytest.raises(LtError, match=r"instances_val2017\.json is missing"):
        CocoSource(tmp_path, "val2017").splits()
    source = coco(tmp_path, ["a.jpg"])
    (tmp_path / "annotations/instances_s.json").write_text('{"images": 3}')
    with pytest.raises(LtError, match="not in COCO's format"):
        source.splits()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_come_upright(tmp_path, orientation):
    path = save(tmp_path / "x.png", orientation=orientation)
    field, data, size = load_picture(path)
    upright = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    turns = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1]}
    turns |= {5: PIXELS.transpose(1, 0, 2), 6: np.rot90(PIXELS, -1), 7: np.rot90(PIXELS, 2).transpose(1, 0, 2)}
    turns |= {8: np.rot90(PIXELS)}
    assert np.array_equal(upright, turns[orientation]) and size == upright.shape[1::-1]
    assert (data == path.read_bytes()) == (orientation == 1)
    assert field == "png"


def test_stated_size_decides_whether_exif_turns(tmp_path):
    path = save(tmp_path / "x.png", orientation=6)
    assert load_picture(path, (9, 6))[2] == (9, 6)  # annotated on the stored pixels
    assert load_picture(path, (6, 9))[2] == (6, 9)  # annotated on the turned picture


@pytest.mark.parametrize(
    ("mode", "suffix", "field"),
    [("L", "jpg", "jpg"), ("CMYK", "jpg", "png"), ("P", "png", "png"), ("RGB", "bmp", "png")],
)
def test_modes_of_pictures(tmp_path, mode, suffix, field):
    path = save(tmp_path / f"x.{suffix}", mode)
    got, data, _ = load_picture(path)
    sample = Sample("x", {got: data})
    assert got == field and sample.picture.shape == (6, 9, 3)
    reference = np.asarray(Image.open(path).convert("RGB"))
    assert np.array_equal(sample.picture, reference)


def test_folder_with_captions_json_and_clashing_names(tmp_path):
    root = tmp_path / "in"
    save(root / "cats/tom.jpg")
    save(root / "cats/tom.png")
    save(root / "日本.jpg")
    (root / "cats/tom.txt").write_text(" a cat \n")
    (root / "日本.json").write_text(json.dumps({"captions": {"zh": ["富士山"]}, "instances": []}))
    samples = read_all(FolderSource(root))
    assert len({s.key for s in samples}) == 3
    assert [s.get("txt") for s in samples] == ["a cat", "a cat", None]
    assert samples[2].meta["captions"] == {"zh": ["富士山"]} and samples[2].meta["source"] == {"file": "日本.jpg"}


@pytest.mark.parametrize(
    ("beside", "txt", "captions"),
    [
        (
            {"captions": {"en": "a ball", "zh": "一个球"}},
            "a round ball",
            {"en": ["a round ball", "a ball"], "zh": ["一个球"]},
        ),
        ({"captions": ["a ball", "a box"]}, "", {"en": ["a ball", "a box"]}),
        ({"captions": "a ball", "source": "flickr"}, "a ball", {"en": ["a ball"]}),
        ({"captions": "a ball"}, "\ufeffa ball\r\n", {"en": ["a ball"]}),
    ],
)
def test_folder_takes_captions_and_source_however_they_are_written(tmp_path, beside, txt, captions):
    save(tmp_path / "a.jpg")
    (tmp_path / "a.json").write_text(json.dumps(beside))
    (tmp_path / "a.txt").write_text(txt)
    (sample,) = read_all(FolderSource(tmp_path))
    assert sample.meta["captions"] == captions
    assert sample.meta["source"] == {"file": "a.jpg", **({"source": "flickr"} if "source" in beside else {})}


def test_folder_links_out_of_the_folder_are_refused(tmp_path):
    save(tmp_path / "private.jpg")
    root = tmp_path / "in"
    save(root / "a.jpg")
    (root / "b.jpg").symlink_to(tmp_path / "private.jpg")
    assert [getattr(item, "reason", "kept") for item in read_all(FolderSource(root))] == ["kept", "unsafe-path"]


def test_folder_bad_captions_become_rejects(tmp_path):
    save(tmp_path / "in/a.jpg")
    save(tmp_path / "in/b.jpg")
    (tmp_path / "in/a.txt").write_bytes(b"\xff\xfe\xfa")
    (tmp_path / "in/b.json").write_text("[1]")
    assert [item.reason for item in read_all(FolderSource(tmp_path / "in"))] == ["invalid-utf8", "invalid-json"]


def test_empty_or_absent_folder_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(LtError, match="No pictures"):
        FolderSource(tmp_path / "in").splits()
    with pytest.raises(LtError, match="not a folder"):
        FolderSource(tmp_path / "nope").splits()


def test_shards_as_a_source_pass_good_samples_and_reject_damaged_ones(tmp_path):
    folder = tmp_path / "in"
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for number in range(3):
            writer.write(Sample(f"k{number}", {"txt": f"caption {number}" * 50}))
    tar = folder / "shard-000000.tar"
    data = bytearray(tar.read_bytes())
    data[data.index(b"caption 1")] ^= 1
    tar.write_bytes(data)
    items = read_all(ShardSource(str(folder)))
    assert [(item.key, getattr(item, "reason", "kept")) for item in items] == [
        ("k0", "kept"),
        ("k1", "damaged-bytes"),
        ("k2", "kept"),
    ]


def test_what_stands_beside_a_picture_and_cannot_be_used_costs_that_picture(tmp_path):
    for name in "abc":
        save(tmp_path / f"{name}.jpg")
    (tmp_path / "a.json").write_text('{"score": NaN')
    (tmp_path / "b.json").symlink_to(tmp_path / "b.json.d")
    (tmp_path / "b.json.d").write_text("{}")
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"captions": "a cat"}')
    bad, plain, marked = read_all(FolderSource(tmp_path))
    assert bad.reason == "invalid-json" and bad.meta["source"] == {"file": "a.jpg"}
    assert isinstance(plain, Sample) and marked.meta["captions"] == {"en": ["a cat"]}


def test_a_file_beside_a_picture_that_may_not_be_read_costs_that_picture(tmp_path, monkeypatch):
    save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("a cat")
    real = Path.read_bytes
    refuse = PermissionError(13, "Permission denied")

    def read_bytes(self: Path) -> bytes:
        if self.suffix == ".txt":
            raise refuse
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    (reject,) = read_all(FolderSource(tmp_path))
    assert (reject.reason, reject.detail) == ("unreadable-file", "a.txt: Permission denied")


def test_folder_says_what_it_passes_over(tmp_path, monkeypatch):
    save(tmp_path / "in/a.jpg").rename(tmp_path / "in/a.jfif")
    (tmp_path / "in/b.gif").write_bytes(b"GIF89a")
    (tmp_path / "in/locked").mkdir()
    real = os.scandir

    def scandir(path: str):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    kept, moving, locked = read_all(FolderSource(tmp_path / "in"))
    assert kept.key == "a" and kept.picture_field == "jpg"
    assert (moving.key, moving.reason) == ("b", "unsupported-format")
    assert (locked.key, locked.reason, locked.detail) == (
        "locked",
        "unreadable-folder",
        "locked: not permitted to open it",
    )
    (tmp_path / "in/a.jfif").unlink()
    with pytest.raises(LtError) as none:
        FolderSource(tmp_path / "in").splits()
    assert "b.gif" in none.value.hint and "locked" in none.value.hint
