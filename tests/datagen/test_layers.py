"""The light preset from photographs to layers: shipped pictures, a picture with only a box, and the digest of a run."""

import json
import pickle

import numpy as np
import pytest

from lt.datagen.layers import LayersSettings, layers_pipeline
from lt.datagen.shards import Reject, Sample
from lt.datagen.shards.compose import alpha_box, psnr, recomposition_error
from lt.datagen.sources.coco import photos_source


def run(items, settings=None):
    pipeline = layers_pipeline(photos_source(), settings)
    out = []
    for stage in pipeline.stages:
        items = list(stage(iter(items)))
        out += [item for item in items if isinstance(item, Reject)]
        items = [item for item in items if isinstance(item, Sample)]
    return items, out


def photographs(*keys):
    source = photos_source()
    return [item for split in source.splits() for item in source.read(split) if item.key in keys]


@pytest.fixture(scope="module")
def layered():
    """Two shipped photographs, layered; one that has no fitting entity; and one of the two again under another key."""
    first, *others = photographs("coffee", "hopper", "chelsea")
    again = Sample("again", {first.picture_field: first.encoded(first.picture_field), "json": dict(first.meta)})
    samples, rejects = run([first, *others, again])
    return {sample.key: sample for sample in samples}, {reject.key: reject for reject in rejects}


def test_what_is_kept_and_why_the_rest_is_not(layered):
    samples, rejects = layered
    assert set(samples) == {"coffee", "hopper"}
    assert {key: reject.reason for key, reject in rejects.items()} == {
        "chelsea": "no-entity-of-fitting-size",
        "again": "near-duplicate",
    }
    assert 0.7 < rejects["chelsea"].figure < 0.8


def test_layers_give_the_photograph_back(layered):
    for sample in layered[0].values():
        layers = [sample[field] for field in sample.layer_fields]
        error = recomposition_error(sample.picture, sample["background.png"], layers)
        assert psnr(error) >= 38
        assert sample.meta["recomposition"]["psnr_db"] == round(psnr(error), 2)


def test_the_json_says_what_each_layer_is(layered):
    coffee = layered[0]["coffee"].meta
    assert [(layer["z"], layer["category"]) for layer in coffee["layers"]] == [(0, "saucer"), (1, "spoon"), (2, "cup")]
    assert coffee["layers"][2]["caption"] == {"en": "a red cup", "zh": "红色杯子"}
    assert coffee["background"]["caption"]["en"] == "a wooden table"
    assert all(0.8 < layer["score"] <= 1 and layer["origin"] == "annotation" for layer in coffee["layers"])
    assert all(pair["touching"] and pair["cues"] for pair in coffee["zorder"])
    assert len(coffee["zorder"]) == 3
    for sample in layered[0].values():
        for layer, field in zip(sample.meta["layers"], sample.layer_fields, strict=True):
            assert layer["bbox"] == list(alpha_box(sample[field][..., 3]))
        assert json.loads(sample.encoded("json")) == sample.meta


def test_nothing_but_the_vocabulary_is_left(layered):
    for sample in layered[0].values():
        count = len(sample.meta["layers"])
        want = {"json", "txt", sample.picture_field, "background.png", *(f"layer-{z:02d}.png" for z in range(count))}
        assert set(sample.fields) == want


def test_a_flag_cut_off_by_the_border_stays_background(layered):
    (left,) = layered[0]["hopper"].meta["left_in_background"]
    assert (left["category"], left["reason"]) == ("flag", "touches-border")


def test_only_a_box_goes_through_grabcut():
    (sample,) = photographs("dahlia")
    for instance in sample.meta["instances"]:
        instance["segmentation"] = None
    ((layered,), rejects) = run([sample], LayersSettings(max_layers=1))
    assert not rejects
    (layer,) = layered.meta["layers"]
    assert (layer["origin"], layer["category"]) == ("opencv", "dahlia")
    (true,) = photographs("dahlia")
    x, y, w, h = true.meta["instances"][0]["bbox"]
    assert np.abs(np.array(layer["bbox"]) - [x, y, w, h]).max() < 8
    assert layered.meta["recomposition"]["psnr_db"] >= 35


def test_grey_pictures_and_pictures_without_instances():
    plain = Sample("plain", {"png": np.full((120, 120), 90, np.uint8), "json": {"captions": {"en": ["Grey."]}}})
    samples, rejects = run([plain])
    assert not samples
    assert [reject.reason for reject in rejects] == ["no-instances"]


def test_stages_cross_process_borders_and_settings_reach_them():
    pipeline = layers_pipeline(photos_source(), LayersSettings(max_layers=2, inpainter="opencv:ns", min_psnr=40))
    again = pickle.loads(pickle.dumps(pipeline.stages))
    assert again == pipeline.stages
    by_name = {stage.name: stage for stage in pipeline.stages}
    assert by_name["choose-entities"].max_layers == 2
    assert by_name["complete-background"].inpainter == "opencv:ns"
    assert pipeline.tolerance == pytest.approx(0.01)


def test_every_setting_has_a_line_of_doc_and_unknown_ones_are_refused():
    assert all(field.description for field in LayersSettings.model_fields.values())
    with pytest.raises(ValueError, match="max_layer"):
        LayersSettings(max_layer=3)
    with pytest.raises(ValueError, match="less than or equal to 6"):
        LayersSettings(max_layers=9)
