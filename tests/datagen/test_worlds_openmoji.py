"""The world openmoji and the table of concepts: names, licences, groups, and what painting a drawing does to its pixels."""

import colorsys

import numpy as np
import pytest

from lt.datagen.shards.compose import composite, recomposition_error
from lt.datagen.sources.concepts import all_concepts, concept_named
from lt.datagen.sources.drawings import SHADES, draw, drawing_files, ink_size, plain_code, render_svg
from lt.datagen.sources.openmoji import THING_GROUPS, OpenMojiSource, has_skin_tone, named_drawings
from lt.datagen.worlds import openmoji_pipeline


def test_every_drawing_with_both_names_is_found_with_or_without_the_variation_selector():
    names = {name.code: name for name in named_drawings()}
    assert len(names) == 3953
    assert (names["1F34E"].en, names["1F34E"].zh) == ("red apple", "红苹果")
    assert plain_code("2600-FE0F") == "2600"
    assert (names["2600"].en, names["2600"].zh) == ("sun", "太阳")
    assert drawing_files()["2600"].name.startswith("2600")
    assert all(name.en and name.zh and ":" not in name.en + name.zh and "_" not in name.en for name in names.values())


def test_skin_tones_flags_and_components_are_left_out_unless_asked_for():
    plain, everything = OpenMojiSource().chosen(), OpenMojiSource(skin_tones=True, flags=True).chosen()
    assert not any(has_skin_tone(name.code) or name.group == "Flags" for name in plain)
    assert (len(plain), len(everything)) == (1644, 3944)
    assert all(name.group for name in everything)


def test_things_are_told_from_faces_and_signs():
    things = {name.en: name for name in OpenMojiSource(things=True).chosen()}
    assert {"koala", "red apple", "automobile", "rose", "hammer"} <= things.keys()
    assert not {"grinning face", "up arrow", "baby", "Aries"} & things.keys()
    assert all(name.group in THING_GROUPS for name in things.values())


def test_a_sample_is_exact_and_carries_licence_and_both_captions():
    source = OpenMojiSource(size=64, background="#cfe8ff")
    assert [end - first for first, end in source.splits()] == [500, 500, 500, 144]
    sample = next(s for s in source.read([0, 500]) if s.key == "openmoji-1F34E")
    assert sample.fields == ["background.png", "json", "layer-00.png", "png", "txt"]
    assert sample["txt"] == "red apple"
    assert sample.meta["captions"] == {"en": "red apple", "zh": "红苹果"}
    assert sample.meta["source"]["licence"] == "CC BY-SA 4.0"
    assert "OpenMoji" in sample.meta["source"]["attribution"]
    assert "CC BY-SA 4.0" in source.licences()[0]
    assert (sample.meta["group"], sample.meta["thing"]) == ("Food & Drink", True)
    assert (sample["background.png"] == (0xCF, 0xE8, 0xFF)).all()
    assert recomposition_error(sample["png"], sample["background.png"], [sample["layer-00.png"]]) == 0
    left, top, width, height = sample.meta["layers"][0]["bbox"]
    outside = sample["layer-00.png"][..., 3].copy()
    assert outside[top : top + height, left : left + width].any(axis=1).all()
    outside[top : top + height, left : left + width] = 0
    assert not outside.any()


def test_jpg_holds_the_picture_alone():
    sample = next(OpenMojiSource(size=64, picture="jpg").read([0, 1]))
    assert sample.fields == ["jpg", "json", "txt"]
    assert openmoji_pipeline(picture="jpg").tolerance is None
    assert openmoji_pipeline().tolerance == 0


@pytest.mark.parametrize("code", sorted(drawing_files())[::150])
def test_drawings_render_with_straight_alpha(code):
    pixels = render_svg(drawing_files()[code].read_text("utf-8"), 40, 40)
    assert pixels.shape == (40, 40, 4)
    assert pixels[..., 3].any()


def test_render_refuses_other_proportions_than_the_drawing_has():
    with pytest.raises(ValueError, match="check the viewBox"):
        render_svg('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"/>', 20, 35)


# Concepts


def test_the_table_is_consistent():
    concepts = all_concepts()
    assert 250 <= len(concepts) <= 300
    for field in ("code", "en", "zh"):
        assert len({getattr(concept, field) for concept in concepts}) == len(concepts)
    names = {name.code: name for name in named_drawings()}
    for concept in concepts:
        assert names[concept.code].group in THING_GROUPS
        assert concept.place in ("ground", "sky", "water")
        assert concept.measure in set("只头匹条个串棵朵片株盆辆架艘枚顶轮颗道座把根块杯支盏台部本封份件双副张扇面对"), (
            concept
        )
        assert bool(concept.paint) == bool(concept.colours)
        assert set(concept.colours) <= SHADES.keys()
    assert concept_named("koala").zh == "考拉"
    novel = [concept for concept in concepts if concept.novel]
    assert len(novel) == 28
    assert len({concept.category for concept in novel}) >= 6


def test_ink_fills_its_picture():
    for name in ("giraffe", "car", "umbrella"):
        code = concept_named(name).code
        pixels = draw(code, 60)
        assert max(pixels.shape[:2]) == 60
        assert pixels.shape[1::-1] == ink_size(code, 60)
        alpha = pixels[..., 3]
        for edge in (alpha[:2], alpha[-2:], alpha[:, :2], alpha[:, -2:]):
            assert edge.max() > 60, name


PAINTED = [(concept, colour) for concept in all_concepts() for colour in concept.colours]


@pytest.mark.parametrize(("concept", "colour"), PAINTED, ids=lambda value: getattr(value, "en", value))
def test_a_painted_drawing_has_the_colour_that_is_said(concept, colour):
    pixels = draw(concept.code, 80, concept.paint, colour)
    opaque = pixels[pixels[..., 3] == 255][:, :3]
    inks = opaque[opaque.max(axis=1) > 90]  # outlines left out
    shares: dict[str, float] = {}
    for ink, count in zip(*np.unique(inks, axis=0, return_counts=True), strict=True):
        name = colour_name(*map(int, ink))
        shares[name] = shares.get(name, 0) + count / len(inks)
    shares.pop("white", None)
    share = shares.get(colour, 0)
    if colour == "grey":  # rims and wheels of other drawings are grey as well
        assert share > 0.2
    else:
        shares.pop("grey", 0)
        assert share == max(shares.values()), shares
        assert share > 0.15, shares


def colour_name(red: int, green: int, blue: int) -> str:
    """A colour's plain name by hue, told without the palette's own table."""
    hue, lightness, saturation = colorsys.rgb_to_hls(red / 255, green / 255, blue / 255)
    degrees = hue * 360
    if saturation < 0.12 or lightness > 0.97:
        return "white" if lightness > 0.9 else "grey"
    if 18 < degrees < 50 and (lightness < 0.45 and saturation < 0.6):
        return "brown"
    if (degrees > 330 or degrees < 4) and lightness > 0.65:
        return "pink"
    for limit, name in ((15, "red"), (41, "orange"), (62, "yellow"), (160, "green"), (235, "blue"), (300, "purple")):
        if degrees < limit:
            return name
    return "red" if degrees > 345 else "pink"


def test_composite_of_a_painted_drawing_keeps_its_bytes_where_it_is_opaque():
    pixels = draw(concept_named("apple").code, 50, "red", "green")
    picture = composite(np.zeros((*pixels.shape[:2], 3), np.uint8), [pixels])
    opaque = pixels[..., 3] == 255
    assert np.array_equal(picture[opaque], pixels[opaque][:, :3])
