"""Caption files of the retrieval benchmarks, in miniature but in their published formats."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import LtError, Sample, SampleError, ShardWriter, UsageError
from lt.recipes.evaluate.readers import open_collection


def jpeg(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((6, 9, 3), value, np.uint8)).save(file, "JPEG", quality=100)
    return file.getvalue()


def pictures(folder, *names):
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(20 * (number + 1)))


def read(collection):
    return {item.key: item.captions for item in collection.items()}


def brightness(collection):
    return [round(float(item.picture().mean())) for item in collection.items()]


def test_karpathys_coco(tmp_path):
    def image(name, split, *said):
        sentences = [{"raw": text, "tokens": text.split()} for text in said]
        return {"filepath": "val2014", "filename": name, "split": split, "cocoid": 1, "sentences": sentences}

    value = {"dataset": "coco", "images": [image("a.jpg", "test", "one ", "two"), image("b.jpg", "restval", "three")]}
    (tmp_path / "dataset_coco.json").write_text(json.dumps(value))
    pictures(tmp_path / "pictures", "val2014/a.jpg", "val2014/b.jpg")
    collection = open_collection(str(tmp_path / "dataset_coco.json"), tmp_path / "pictures", split="test")
    assert read(collection) == {"a": ("one", "two")} and brightness(collection) == [20]
    with pytest.raises(UsageError, match="no split 'tset'"):
        open_collection(str(tmp_path / "dataset_coco.json"), tmp_path / "pictures", split="tset")


def test_coco_captions(tmp_path):
    value = {
        "images": [{"id": 7, "file_name": "000000000007.jpg"}, {"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [{"id": 1, "image_id": 9, "caption": "nine"}, {"id": 2, "image_id": 7, "caption": "seven"}],
    }
    (tmp_path / "captions_val2017.json").write_text(json.dumps(value))
    pictures(tmp_path / "val2017", "000000000007.jpg")
    collection = open_collection(str(tmp_path / "captions_val2017.json"), tmp_path / "val2017")
    assert read(collection) == {"000000000007": ("seven",)} and collection.passed_over.counts == {"picture-missing": 1}


def test_flickr30k_token_file(tmp_path):
    lines = "1000092795.jpg#0\tTwo young guys .\n1000092795.jpg#1\tTwo men , # 5 .\n10002456.jpg#0\tSeveral men .\n"
    (tmp_path / "results_20130124.token").write_text(lines)
    pictures(tmp_path / "flickr30k-images", "1000092795.jpg", "10002456.jpg")
    collection = open_collection(str(tmp_path / "results_20130124.token"), tmp_path / "flickr30k-images")
    assert read(collection) == {"1000092795": ("Two young guys .", "Two men , # 5 ."), "10002456": ("Several men .",)}


def test_coco_cn_with_its_list_of_a_split(tmp_path):
    lines = "COCO_val2014_000000043734#0\t一碗水果\nCOCO_train2014_000000000009#0\t饭盒\nCOCO_val2014_000000043734#1\t水果\n"
    (tmp_path / "imageid.human-written-caption.txt").write_text(lines, encoding="utf-8")
    (tmp_path / "coco-cn_test.txt").write_text("COCO_val2014_000000043734\n")
    pictures(tmp_path / "coco", "val2014/COCO_val2014_000000043734.jpg", "train2014/COCO_train2014_000000000009.jpg")
    where = str(tmp_path / "imageid.human-written-caption.txt")
    collection = open_collection(where, tmp_path / "coco", only=tmp_path / "coco-cn_test.txt")
    assert read(collection) == {"COCO_val2014_000000043734": ("一碗水果", "水果")}
    assert len(read(open_collection(where, tmp_path / "coco"))) == 2


def test_flickr8k_cn_and_flickr30k_cna_lines(tmp_path):
    (tmp_path / "cn.txt").write_text(
        "1000268201_693b08cb0e#zhc#0 女孩\n1000268201_693b08cb0e#zhc#1 爬楼梯\n", encoding="utf-8"
    )
    (tmp_path / "cna.txt").write_text("1000268201_693b08cb0e\t孩子跑过喷泉。\n", encoding="utf-8")
    pictures(tmp_path, "1000268201_693b08cb0e.jpg")
    assert read(open_collection(str(tmp_path / "cn.txt"))) == {"1000268201_693b08cb0e": ("女孩", "爬楼梯")}
    assert read(open_collection(str(tmp_path / "cna.txt"))) == {"1000268201_693b08cb0e": ("孩子跑过喷泉。",)}


@pytest.mark.parametrize("alphabet", [base64.b64encode, base64.urlsafe_b64encode])
def test_chinese_clips_jsonl_with_its_table_of_pictures(tmp_path, alphabet):
    texts = [{"text_id": 1, "text": "猫", "image_ids": [12]}, {"text_id": 2, "text": "狗", "image_ids": [13, 12]}]
    (tmp_path / "test_texts.jsonl").write_text(
        "".join(json.dumps(t, ensure_ascii=False) + "\n" for t in texts), "utf-8"
    )
    rows = [b"12\t" + alphabet(jpeg(100)), b"13\t" + alphabet(jpeg(200))]
    (tmp_path / "test_imgs.tsv").write_bytes(b"\n".join(rows) + b"\n")
    collection = open_collection(str(tmp_path / "test_texts.jsonl"), language="zh")
    assert read(collection) == {"12": ("猫", "狗"), "13": ("狗",)} and brightness(collection) == [100, 200]


def test_muges_queries(tmp_path):
    query = {"query_id": 8, "query_text": "纯棉碎花吊带裙", "item_ids": [42967]}
    (tmp_path / "MR_valid_queries.jsonl").write_text(json.dumps(query) + "\n")
    (tmp_path / "MR_valid_imgs.tsv").write_bytes(b"42967\t" + base64.b64encode(jpeg(60)) + b"\n")
    assert read(open_collection(str(tmp_path / "MR_valid_queries.jsonl"))) == {"42967": ("纯棉碎花吊带裙",)}


def test_shards_give_all_wordings_and_count_what_has_none(tmp_path):
    with ShardWriter(tmp_path / "shard-000000.tar", durable=False) as writer:
        writer.write(Sample("a", {"jpg": jpeg(50), "json": {"captions": {"zh": ["猫", "小猫"]}}}))
        writer.write(Sample("b", {"jpg": jpeg(50), "json": {"captions": {"en": "cat"}}}))
    collection = open_collection(str(tmp_path), language="zh")
    for _ in range(2):  # it can be read again
        assert read(collection) == {"a": ("猫", "小猫")} and collection.passed_over.counts == {"no-caption": 1}


def test_the_digest_is_that_of_captions_and_of_the_pictures_bytes(tmp_path):
    def digest(folder="one", caption="first", limit=None):
        (tmp_path / "a.txt").write_text(f"x.jpg#0\t{caption}\ny.jpg#0\tlast\n")
        return open_collection(str(tmp_path / "a.txt"), tmp_path / folder).digest(limit)

    pictures(tmp_path / "one", "x.jpg", "y.jpg")
    pictures(tmp_path / "same", "x.jpg", "y.jpg")
    pictures(tmp_path / "other", "y.jpg", "x.jpg")  # the same bytes under each other's names
    first = digest()
    assert digest() == digest("same") == first
    assert len({first, digest("other"), digest(caption="second"), digest(limit=1)}) == 4
    (tmp_path / "one" / "y.jpg").write_bytes(jpeg(99))
    assert digest(limit=1) != first != digest() and digest(limit=1) == digest("same", limit=1)


def test_a_rewritten_table_has_another_digest(tmp_path):
    (tmp_path / "x_texts.jsonl").write_text(json.dumps({"text": "猫", "image_ids": [1]}))
    digests = []
    for value in (60, 60, 90):
        (tmp_path / "x_imgs.tsv").write_bytes(b"1\t" + base64.b64encode(jpeg(value)))
        digests.append(open_collection(str(tmp_path / "x_texts.jsonl")).digest())
    assert digests[0] == digests[1] != digests[2]


COCO = {
    "images": [{"id": 1, "file_name": "a.jpg"}, {"id": "2", "file_name": "b.jpg"}, {"id": 3}, None],
    "annotations": [
        {"id": 10, "image_id": "1", "caption": "one"},
        {"id": 11, "image_id": 2, "caption": " two "},
        {"id": 12, "image_id": 1, "caption": " "},
        {"id": 13, "image_id": 77, "caption": "of nothing"},
        {"id": 14, "image_id": 2, "caption": None},
        "nonsense",
    ],
}
KARPATHY = {
    "images": [
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "one"}, {"raw": "  "}]},
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "two"}, {"tokens": ["x"]}]},
        {"split": "test", "sentences": [{"raw": "of nothing"}]},
        {"filename": "c.jpg", "split": "test", "sentences": []},
    ]
}
TOKEN = "\ufeffa.jpg#0\tone\na.jpg#1\t\nb.jpg#0\ttwo\nof nothing\n\nb.jpg#1\t \n"
JSONL = [
    "{",
    {"text": "one", "image_ids": ["a"]},
    {"text": "", "image_ids": ["a"]},
    {"text": "two", "image_ids": ["b"]},
]


@pytest.mark.parametrize(
    ("name", "text", "left_out", "first"),
    [
        ("c.json", json.dumps(COCO), {"unknown-image": 2, "no-caption": 2}, "annotation 12"),
        ("k.json", "\ufeff" + json.dumps(KARPATHY), {"no-caption": 3, "no-filename": 1}, "a.jpg"),
        ("t.token", TOKEN, {"no-caption": 2, "no-caption-line": 1}, "line 2"),
        (
            "x_texts.jsonl",
            "\n".join(line if isinstance(line, str) else json.dumps(line) for line in [*JSONL, {"text": "no picture"}]),
            {"no-caption-line": 1, "no-caption": 1, "unknown-image": 1},
            "line 3",
        ),
    ],
)
def test_entries_that_say_nothing_are_counted_named_and_left_out_in_every_format(tmp_path, name, text, left_out, first):
    (tmp_path / name).write_text(text, encoding="utf-8")
    pictures(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    (tmp_path / "x_imgs.tsv").write_bytes(b"a\t" + base64.b64encode(jpeg(60)) + b"\nb\t" + base64.b64encode(jpeg(60)))
    collection = open_collection(str(tmp_path / name))
    assert read(collection) == {"a": ("one",), "b": ("two",)}
    assert collection.passed_over.counts == left_out
    assert collection.passed_over.first["no-caption"] == first


def test_lines_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "a.token").write_text(
        "a.jpg#0\tone\u2028and two\u0085\r\nb.jpg#0\tthree\r\n", encoding="utf-8", newline=""
    )
    pictures(tmp_path, "a.jpg", "b.jpg")
    assert read(open_collection(str(tmp_path / "a.token"))) == {"a": ("one\u2028and two",), "b": ("three",)}


def test_a_name_that_several_pictures_have_is_left_out(tmp_path):
    (tmp_path / "a.token").write_text("x.jpg#0\tone\ny.jpg#0\ttwo\nz#0\tthree\n")
    pictures(tmp_path, "one/x.jpg", "other/x.jpg", "one/y.png", "one/z.jpg")
    collection = open_collection(str(tmp_path / "a.token"))
    assert read(collection) == {"y": ("two",), "z": ("three",)} and collection.passed_over.counts == {
        "picture-ambiguous": 1
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", "{"), ("a.json", "[]"), ("a.jsonl", '{"text": "x"}\n'), ("a.txt", "no tab here\n"), ("b.txt", "\n")],
)
def test_unknown_files_are_refused_with_a_message(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(LtError):
        open_collection(str(tmp_path / name))


def test_names_cannot_leave_the_folder_and_broken_pictures_are_rejects(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.jpg").write_bytes(jpeg(9)[:40])
    (tmp_path / "in" / "a.txt").write_text("../secret.jpg#0\tx\nbroken.jpg#0\ty\n")
    collection = open_collection(str(tmp_path / "in" / "a.txt"))
    assert read(collection) == {"broken": ("y",)}
    with pytest.raises(SampleError):
        next(iter(collection.items())).picture()
