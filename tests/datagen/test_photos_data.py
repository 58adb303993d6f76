"""The shipped photographs: well-formed COCO, masks that fit their pictures, a licence and two languages for each."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

ROOT = Path(__file__).parents[2] / "datagen" / "sources" / "photos"
INSTANCES = json.loads((ROOT / "annotations" / "instances_photos.json").read_text(encoding="utf-8"))
CAPTIONS = json.loads((ROOT / "annotations" / "captions_photos.json").read_text(encoding="utf-8"))
IMAGES: dict[int, dict[str, Any]] = {image["id"]: image for image in INSTANCES["images"]}
READER = COCO(str(ROOT / "annotations" / "instances_photos.json"))
COCO_IDS = {"person": 1, "cat": 17, "dog": 18, "bottle": 44, "cup": 47, "spoon": 50, "bowl": 51}

each_image = pytest.mark.parametrize("image", INSTANCES["images"], ids=lambda image: image["file_name"])
each_instance = pytest.mark.parametrize("instance", INSTANCES["annotations"], ids=lambda entry: str(entry["id"]))
each_polygon = pytest.mark.parametrize(
    "instance",
    [entry for entry in INSTANCES["annotations"] if isinstance(entry["segmentation"], list)],
    ids=lambda entry: str(entry["id"]),
)


def decode(instance: Any) -> np.ndarray:
    """Boolean mask [h, w], whichever of COCO's three encodings it is stored in."""
    return READER.annToMask(instance).astype(bool)


def polygons(instance: dict[str, Any]) -> list[np.ndarray]:
    return [np.reshape(ring, (-1, 2)) for ring in instance["segmentation"]]


def shoelace(ring: np.ndarray) -> float:
    (x, y), (next_x, next_y) = ring.T, np.roll(ring, -1, axis=0).T
    return abs(float(np.sum(x * next_y - next_x * y))) / 2


def test_the_stock_reader_takes_both_files():
    captions = COCO(str(ROOT / "annotations" / "captions_photos.json"))
    for coco in (READER, captions):
        assert sorted(coco.getImgIds()) == sorted(IMAGES)
        assert all(coco.getAnnIds(imgIds=[image]) for image in IMAGES)


def test_ids_are_unique_and_known():
    for rows in (INSTANCES["images"], INSTANCES["annotations"], INSTANCES["categories"], CAPTIONS["annotations"]):
        assert max(Counter(row["id"] for row in rows).values()) == 1
    assert CAPTIONS["images"] == INSTANCES["images"]
    assert CAPTIONS["licenses"] == INSTANCES["licenses"]
    used = {entry["category_id"] for entry in INSTANCES["annotations"]}
    assert used == {category["id"] for category in INSTANCES["categories"]}


def test_categories_carry_cocos_ids_or_our_own():
    for category in INSTANCES["categories"]:
        assert category["supercategory"]
        assert category["id"] == COCO_IDS.get(category["name"], category["id"])
        assert category["name"] in COCO_IDS or category["id"] > 1000


def test_the_folder_is_small_and_holds_nothing_unnamed():
    assert {path.name for path in (ROOT / "images").iterdir()} == {image["file_name"] for image in INSTANCES["images"]}
    assert 6 <= len(IMAGES) <= 10
    assert sum(path.stat().st_size for path in ROOT.rglob("*") if path.is_file()) <= 1_200_000


@each_image
def test_pictures_decode_with_the_stated_size(image):
    with Image.open(ROOT / "images" / image["file_name"]) as picture:
        picture.load()
        assert (picture.format, picture.size) == ("JPEG", (image["width"], image["height"]))
        assert max(picture.size) <= 640
        assert picture.getexif().get(0x0112, 1) == 1


@each_image
def test_every_picture_states_licence_credit_and_source_and_the_documents_repeat_them(image):
    licences = {entry["id"]: entry for entry in INSTANCES["licenses"]}
    licence = licences[image["license"]]
    assert licence["url"].startswith("https://creativecommons.org/")
    assert image["source"] and image["changes"]
    for document in (ROOT / "README.md", ROOT.parents[2] / "NOTICE"):
        row = next(row for row in document.read_text(encoding="utf-8").splitlines() if image["file_name"] in row)
        assert image["credit"].split(",")[0] in row
        assert ("public domain" in row.lower()) == ("Public Domain" in licence["name"])


@each_image
def test_one_to_four_instances_that_do_not_overlap(image):
    masks = [decode(entry) for entry in INSTANCES["annotations"] if entry["image_id"] == image["id"]]
    assert 1 <= len(masks) <= 4
    assert all(mask.shape == (image["height"], image["width"]) for mask in masks)
    shared = int((np.sum(masks, axis=0) > 1).sum())
    assert shared <= 50, "masks show visible parts only; a pixel or so along a common edge is rounding"


@each_image
def test_captions_in_both_languages(image):
    captions = [entry for entry in CAPTIONS["annotations"] if entry["image_id"] == image["id"]]
    english = [entry["caption"] for entry in captions if entry["language"] == "en"]
    chinese = [entry["caption"] for entry in captions if entry["language"] == "zh"]
    assert 2 <= len(english) <= 3 and len(chinese) >= 1
    assert len(english) + len(chinese) == len(captions)
    assert all(text.isascii() and text.endswith(".") and len(text.split()) >= 6 for text in english)
    assert all(len(re.findall(r"[\u4e00-\u9fff]", text)) >= 10 and text.endswith("。") for text in chinese)


@each_image
def test_english_captions_name_every_instance(image):
    names = {category["id"]: category["name"] for category in INSTANCES["categories"]}
    words = " ".join(
        entry["caption"].lower()
        for entry in CAPTIONS["annotations"]
        if entry["image_id"] == image["id"] and entry["language"] == "en"
    )
    for entry in INSTANCES["annotations"]:
        if entry["image_id"] == image["id"]:
            assert names[entry["category_id"]] in words


@each_instance
def test_area_and_box_match_the_mask(instance):
    mask = decode(instance)
    assert instance["iscrowd"] == 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    left, top, width, height = instance["bbox"]
    pixels = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose([left, top, left + width, top + height], pixels, atol=1.01)
    assert instance["area"] == pytest.approx(mask.sum(), rel=0.02)
    if isinstance(instance["segmentation"], list):
        rings = polygons(instance)
        points = np.concatenate(rings)
        corners = [*points.min(axis=0), *(points.max(axis=0) - points.min(axis=0))]
        np.testing.assert_allclose(instance["bbox"], corners, atol=0.011)
        assert instance["area"] == pytest.approx(sum(map(shoelace, rings)), abs=0.011)
    else:
        assert instance["area"] == mask.sum()


@each_polygon
def test_polygons_lie_inside_the_picture(instance):
    image = IMAGES[instance["image_id"]]
    for ring in polygons(instance):
        assert len(ring) >= 8
        assert (ring >= 0).all() and (ring <= [image["width"], image["height"]]).all()


def test_all_three_encodings_of_coco_occur():
    kinds = Counter(
        "polygon" if isinstance(entry["segmentation"], list) else type(entry["segmentation"]["counts"]).__name__
        for entry in INSTANCES["annotations"]
    )
    assert kinds["list"] >= 1 and kinds["str"] >= 1 and kinds["polygon"] > kinds["list"] + kinds["str"]
