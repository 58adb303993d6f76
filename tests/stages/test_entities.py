"""Which instances become layers."""

import numpy as np
import pytest
from known_pictures import instance, sample_of

from lt.datagen.shards import Reject
from lt.datagen.stages.entities import ChooseEntities, contact
from lt.datagen.stages.masks import MASKS, MakeMasks


def box(x, y, w, h, size=(100, 100)):
    mask = np.zeros(size, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def choose(instances, **settings):
    return ChooseEntities(**settings).process(sample_of(np.zeros((100, 100, 3), np.uint8), instances))


def chosen(instances, **settings):
    return [entity["instances"] for entity in choose(instances, **settings).meta["entities"]]


def test_largest_first_within_area_limits():
    things = [instance(1, box(0, 0, 5, 5)), instance(2, box(20, 20, 20, 20)), instance(3, box(50, 50, 30, 30))]
    assert chosen(things, min_area=0.01) == [[3], [2]]
    assert chosen(things, min_area=0.0, max_area=0.05) == [[2], [1]]


def test_too_many_of_one_kind_that_touch_are_joined_else_the_smallest_go():
    row = [instance(n, box(10 + 12 * n, 10, 12, 10 + n)) for n in range(4)]
    assert chosen(row, max_layers=3) == [[3], [2], [1, 0]]
    apart = [instance(n, box(25 * n, 10, 10, 10 + n)) for n in range(4)]
    assert chosen(apart, max_layers=3) == [[3], [2], [1]]


def test_what_a_person_carries_joins_the_person_it_touches():
    person = instance(1, box(20, 10, 20, 60), "person", "person")
    bag = instance(2, box(40, 40, 10, 10), "handbag", "accessory")
    far = instance(3, box(80, 40, 12, 12), "handbag", "accessory")
    sample = choose([person, bag, far])
    assert [entity["instances"] for entity in sample.meta["entities"]] == [[1, 2], [3]]
    assert sample.meta["entities"][0]["categories"] == ["person", "handbag"]
    assert sample.meta["entities"][0]["bbox"] == [20, 10, 30, 60]


def test_crowds_stay_background():
    crowd = instance(1, box(0, 0, 50, 50), iscrowd=1)
    assert chosen([crowd, instance(2, box(60, 60, 20, 20))]) == [[2]]


def test_a_box_without_a_mask_counts_as_its_area():
    assert chosen([instance(1, box(10, 10, 30, 30), segmentation=None)]) == [[1]]


def test_rejects_say_why_and_by_which_figure():
    none, crowd, small = (
        choose([]),
        choose([instance(1, box(0, 0, 9, 9), iscrowd=1)]),
        choose([instance(1, box(0, 0, 5, 5))]),
    )
    assert all(isinstance(reject, Reject) for reject in (none, crowd, small))
    assert (none.reason, none.figure) == ("no-instances", 0)
    assert crowd.reason == "only-crowds"
    assert (small.reason, small.figure) == ("no-entity-of-fitting-size", 0.0025)


def test_a_broken_annotation_is_a_reject_that_names_it():
    broken = instance(7, box(0, 0, 9, 9), segmentation=[[1, 2]])
    sample = sample_of(np.zeros((100, 100, 3), np.uint8), [broken])
    (reject,) = ChooseEntities()(iter([sample]))
    assert reject.reason == "bad-annotation"
    assert "instance 7" in reject.detail


def test_contact_counts_pixels_within_reach():
    assert contact(box(0, 0, 10, 10), box(14, 0, 10, 10), 4) == 0
    assert contact(box(0, 0, 10, 10), box(13, 0, 10, 10), 4) == 10


@pytest.mark.parametrize(
    ("instances", "said"),
    [
        ({"0": {}}, "instances are a dict, want a list"),
        (["cat"], "instances[0] is a str, want an object"),
        ([{"id": 3, "bbox": [1, 1, 30, 30]}], "instances[0] (id 3) has no category"),
        ([{"id": 3, "category": 7, "bbox": [1, 1, 30, 30]}], "instances[0] (id 3) has no category"),
        ([{"id": 3, "category": "cat"}], "instance 3: want a mask or a box [x, y, width, height], got None"),
        ([{"id": 3, "category": "cat", "bbox": [1, 2]}], "instance 3: want a mask or a box"),
        ([{"id": 3, "category": "cat", "bbox": [1, 2, float("nan"), 4]}], "instance 3: want a mask or a box"),
        ([{"id": 3, "category": "cat", "segmentation": [[10, 10, 4e8, 12, 50, 6e8]]}], "reaches to 6e+08"),
        ([{"id": 3, "category": "cat", "segmentation": [[{}, 10, 4, 12, 50, 6]]}], "instance 3: "),
        ([{"id": 3, "category": "cat", "segmentation": {"counts": [1], "size": None}}], "instance 3: "),
    ],
)
def test_instances_of_any_shape_cost_the_picture_alone(instances, said):
    sample = sample_of(np.zeros((100, 100, 3), np.uint8), instances)
    (reject,) = ChooseEntities()(iter([sample]))
    assert reject.reason == "bad-annotation" and said in reject.detail


@pytest.mark.parametrize("said", [0, "0", None, False, "", "false", 0.0])
def test_what_is_no_crowd(said):
    assert chosen([instance(2, box(60, 60, 20, 20), iscrowd=said)]) == [[2]]


@pytest.mark.parametrize("said", [1, "1", True, "true"])
def test_what_is_a_crowd(said):
    assert choose([instance(2, box(60, 60, 20, 20), iscrowd=said)]).reason == "only-crowds"


@pytest.mark.parametrize("ids", [(7, 7), (None, None)])
def test_instances_of_one_id_keep_their_own_masks(ids):
    first, second = box(10, 10, 30, 30), box(60, 60, 20, 20)
    sample = MakeMasks().process(choose([instance(ids[0], first), instance(ids[1], second)]))
    assert np.array_equal(sample[MASKS], [first, second])
    assert [entity["instances"] for entity in sample.meta["entities"]] == [[ids[0]], [ids[1]]]
