"""Samples to rows of a batch: any shards, wordings, pictures, and where named things are."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

from lt.datagen.shards import Sample, captions_of, open_shards
from lt.datagen.sources.scenes import ScenesSource
from lt.models.nn.tokenizers import BertChineseTokenizer, WordTokenizer
from lt.recipes.contrastive.pairs import Pair, cover
from lt.recipes.contrastive.settings import TextSettings, make_tokenizer
from lt.recipes.evaluate.retrieval import text_number
from lt.recipes.evaluate.things import names_of, things_of, visible_masks
from lt.recipes.words import word_list

WORDS = WordTokenizer(["a", "cat", "dog", "red", "left", "of"], length=8)


def a_picture(width=20, height=10, colour=(200, 10, 30)):
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def pair(**changes) -> Pair:
    return Pair(**{"size": 8, "grid": 2, "tokenizer": WORDS, **changes})


def test_a_row_has_the_same_shapes_for_every_picture_and_caption():
    for sample in (
        Sample("a", {"png": a_picture(), "txt": "a cat"}),
        Sample("b", {"jpg": a_picture(7, 31), "txt": "dog"}),
    ):
        row = pair()(sample, np.random.default_rng(0))
        assert row["image"].shape == (3, 8, 8) and row["image"].dtype == np.uint8
        assert row["tokens"].shape == row["mask"].shape == (8,) and row["mask"].sum() == len(sample["txt"].split()) + 2
        assert row.keys() == {"image", "tokens", "mask", "text"}


def test_a_picture_of_the_right_size_passes_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert (pair().picture(pixels).transpose(1, 2, 0) == pixels).all()


def test_the_middle_of_a_wide_picture_is_kept():
    pixels = a_picture(24, 8, (0, 0, 0))
    pixels[:, 8:16] = 255
    assert (pair().picture(pixels) == 255).all()


def test_wordings_are_drawn_in_training_and_the_first_is_read_in_validation():
    sample = Sample("a", {"png": a_picture(), "json": {"captions": {"en": ["a cat", "a dog"], "zh": "猫"}}})
    drawn = {pair()(sample, np.random.default_rng(seed))["text"] for seed in range(20)}
    assert drawn == {text_number("a cat"), text_number("a dog")}
    assert pair(any_wording=False)(sample, np.random.default_rng(3))["text"] == text_number("a cat")
    assert pair()(sample, None)["caption"] == "a cat"


def test_an_img2dataset_shard_needs_no_captions_by_language(tmp_path):
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        file = io.BytesIO()
        Image.fromarray(a_picture()).save(file, "JPEG")
        fields = {
            "0000001.jpg": file.getvalue(),
            "0000001.json": b'{"caption": "x", "url": "u"}',
            "0000001.txt": "红猫".encode(),
        }
        for name, data in fields.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    (sample,) = open_shards(str(tmp_path))
    assert pair(language="zh")(sample, None)["caption"] == pair()(sample, None)["caption"] == "红猫"
    row = pair(tokenizer=BertChineseTokenizer(8))(sample, None)
    assert row["mask"].sum() == 4 and not row["names"].any() and not row["cells"].any()


def test_augmentation_depends_on_the_generator_alone():
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for how in ("crop", "autoaugment"):
        pictures = []
        for seed in (1, 1, 2, 3):
            torch.manual_seed(len(pictures))  # what the process drew before must not matter
            pictures.append(pair(augment=how, size=16).picture(pixels, np.random.default_rng(seed)))
        assert (pictures[0] == pictures[1]).all()
        assert any((pictures[0] != other).any() for other in pictures[2:])
        assert (pair(augment=how).picture(pixels) == pair().picture(pixels)).all()


def test_cover_says_which_part_of_a_patch_a_mask_covers():
    mask = np.zeros((8, 8), bool)
    mask[:4, :2] = True
    assert np.allclose(cover(mask, 8, 2), [[0.5, 0], [0, 0]])
    assert np.allclose(cover(np.repeat(np.repeat(mask, 2, 0), 2, 1), 8, 2), [[0.5, 0], [0, 0]])


@pytest.fixture(scope="module")
def scenes():
    source = ScenesSource(count=30, split="test", seed=3, size=64)
    return [source.sample(number) for number in range(30)]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_scenes_name_their_things_and_masks_are_what_is_seen(scenes, language):
    tokenizer = make_tokenizer(TextSettings(language=language), 64)
    named = 0
    for sample in scenes:
        caption = captions_of(sample, language)[0]
        pieces = tokenizer.pieces(caption)
        masks = visible_masks(sample)
        assert not any((a & b).any() for i, a in enumerate(masks) for b in masks[:i])
        for thing in things_of(sample, language, caption, tokenizer):
            words = [pieces[place] for place in thing.places]
            assert "".join(words) == thing.name.lower().replace(" ", "") and thing.mask.any()
            named += 1
    assert named >= 40


def test_the_shipped_vocabularies_hold_every_word_of_the_worlds(scenes):
    for language in ("en", "zh"):
        tokenizer = WordTokenizer(word_list(f"scenes-{language}"), 200)
        texts = [text for sample in scenes for text in sample.meta["captions"][language]]
        assert not any(WordTokenizer.unknown in numbers for numbers in tokenizer.encode(texts))


def test_names_of_other_layers_are_category_and_caption():
    layer = {"category": "traffic light", "caption": {"en": "a green light", "zh": "绿灯"}}
    assert names_of(layer, "en") == ["traffic light", "a green light"] and names_of(layer, "zh") == ["绿灯"]
    assert names_of({"category": "koala"}, "en") == ["koala", "koalas"] and names_of({"category": "koala"}, "zh") == [
        "考拉"
    ]
