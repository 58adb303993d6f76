"""`why`, `info` and `show`: what a person asks of a folder."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt.datagen.shards import LtError, Reject, Sample, ShardError, open_shards
from lt.datagen.shards.errors import UsageError
from lt.datagen.shards.info import describe
from lt.datagen.shards.manifest import Manifest
from lt.datagen.shards.show import extract, summary
from lt.datagen.shards.storage import digest_of
from lt.datagen.shards.why import explain, nearest
from tests.datagen.shards.making import build, foreign, img2dataset_folder, picture, plain

RESIZE = {"side": 64}
PARAMS = digest_of(["resize", RESIZE])[:12]
SETTINGS = {
    "source": {"name": "folder", "settings": {}},
    "stages": [{"name": "resize", "settings": RESIZE}, {"name": "caption", "settings": {"lang": "en"}}],
}
LINEAGE = [
    {"stage": "crawl", "params": "0123456789ab", "code": "0.0.9"},
    {"stage": "resize", "params": PARAMS, "code": "0.1.0", "seed": 7, "parents": ["x"]},
]


@pytest.fixture
def folder(tmp_path):
    kept = Sample("scene-1", {"png": picture(), "json": {"lineage": LINEAGE}})
    lost = Reject("scene-2", "too-small", "7x9", 63.0, "size", {"lineage": LINEAGE[1:]})
    build(tmp_path, [kept, lost], [plain("scene-3")], settings=SETTINGS, licences=["CC0-1.0"])
    return tmp_path


def test_a_kept_sample_tells_its_stages_with_their_settings(folder):
    [story] = explain(folder, "scene-1")
    assert (story.file, story.reject) == ("shard-000000.tar", None)
    earlier, resize = story.steps
    assert (earlier.stage, earlier.params, earlier.code, earlier.settings) == ("crawl", "0123456789ab", "0.0.9", None)
    assert (resize.stage, resize.settings, resize.more) == ("resize", RESIZE, {"seed": 7, "parents": ["x"]})


def test_settings_that_are_not_those_of_the_digest_are_not_passed_off_as_them(folder):
    manifest = Manifest.load(folder / "manifest.json")
    manifest.settings["stages"][0]["settings"] = {"side": 128}
    manifest.save(folder / "manifest.json")
    [story] = explain(folder, "scene-1")
    assert story.steps[1].settings is None


def test_a_rejected_sample_tells_stage_reason_and_figure(folder):
    [story] = explain(folder, "scene-2")
    assert story.file == "rejects-000000.parquet"
    assert [step.stage for step in story.steps] == ["resize"]
    reject = story.reject
    assert (reject.stage, reject.reason, reject.figure, reject.detail) == ("size", "too-small", 63.0, "7x9")


def test_a_key_kept_once_and_rejected_once_tells_both(tmp_path):
    build(tmp_path, [plain("a"), plain("a")])
    kept, lost = explain(tmp_path, "a")
    assert kept.reject is None and lost.reject.reason == "duplicate-key"


def test_an_unknown_key_names_the_nearest_kept_and_rejected_ones(folder):
    with pytest.raises(LtError, match="no sample 'scene-22'") as error:
        explain(folder, "scene-22")
    assert "scene-2" in error.value.hint


def test_a_foreign_sample_has_no_lineage_and_a_refused_one_a_reason(tmp_path):
    foreign(tmp_path / "x.tar", [("a.txt", b"1"), ("b.txt", b"2"), ("b.txt", b"3"), ("c.json", b"{")])
    assert explain(tmp_path, "a")[0].steps == []
    assert explain(tmp_path, "c")[0].steps == []
    [story] = explain(tmp_path, "b")
    assert (story.reject.stage, story.reject.reason) == ("read", "duplicate-field")


def test_nearest_finds_one_among_very_many():
    known = [f"scene-train-{n:07d}" for n in range(30_000)]
    assert nearest("scene-train-0012345x", known)[0] == "scene-train-0012345"
    assert nearest("zzzzz", known) == []


# --- info


def test_info_of_our_folder(folder):
    info = describe(folder)
    assert (info.ours, info.pipeline, info.complete, info.shards, info.samples) == (True, "test", True, 2, 2)
    assert info.bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert info.rejected == {"too-small": 1} and info.licences == ["CC0-1.0"] and info.settings == SETTINGS
    assert [(stage.name, stage.kept, stage.seconds) for stage in info.stages] == [("make", 2, 2.0)]
    metrics = {field.name: (field.samples, field.known) for field in info.fields}
    assert metrics == {"png": (2, True), "json": (2, True), "txt": (1, True)}
    shards = open_shards(folder)
    assert {f.name: f.bytes for f in info.fields}["json"] == sum(len(sample.encoded("json")) for sample in shards)


def test_info_of_a_run_that_has_not_ended_adds_up_what_is_there(folder):
    manifest = Manifest.load(folder / "manifest.json")
    unfinished = Manifest(pipeline=manifest.pipeline, tasks=5)
    unfinished.save(folder / "manifest.json")
    info = describe(folder)
    assert (info.complete, info.samples, info.rejected) == (False, 2, {"too-small": 1})
    assert info.stages[0].kept == 2


def test_info_of_foreign_shards_counts_what_is_not_passed_on(tmp_path):
    foreign(tmp_path / "x.tar", [("a.cls", b"1"), ("../b.cls", b"2"), ("README", b"")])
    info = describe(tmp_path)
    assert (info.ours, info.complete, info.samples) == (False, None, 1)
    assert info.problems == {"unsafe-member": 1, "no-key": 1}
    assert [(field.name, field.known) for field in info.fields] == [("cls", False)]


def test_the_digest_follows_the_contents(tmp_path):
    for name, key in (("a", "x"), ("b", "x"), ("c", "y")):
        build(tmp_path / name, [Sample(key, {"txt": "same"})])
    first, second, other = (describe(tmp_path / name).digest for name in "abc")
    assert first == second != other


# --- show


def test_show_names_every_field_and_caption():
    captions = {"en": ["a cat", "one cat"], "zh": "一只猫"}
    fields = {
        "png": picture(4, 5), "layer-00.png": picture(4, 5, 4), "edge.png": picture(4, 5)[:, :, 0], "txt": "a cat",
        "latent.npy": np.zeros((4, 2, 2), np.float16), "json": {"captions": captions}, "raw": b"12",
    }  # fmt: skip
    shown = summary(Sample("a", fields))
    assert {field["name"]: field["what"] for field in shown["fields"]} == {
        "png": "5x4 RGB", "layer-00.png": "5x4 RGBA", "edge.png": "5x4 grey", "txt": "5 characters",
        "latent.npy": "float16 [4, 2, 2]", "json": "1 entries", "raw": "bytes",
    }  # fmt: skip
    assert shown["captions"] == {"en": ["a cat", "one cat"], "zh": ["一只猫"]}
    assert shown["json"] == {"captions": captions}
    json.dumps(shown)


def test_show_survives_damaged_fields():
    shown = summary(Sample("a", {"png": b"no", "json": b"{", "txt": b"\xff"}))
    assert [field["what"].split(":")[0] for field in shown["fields"]] == [
        "invalid-json",
        "undecodable-image",
        "invalid-utf8",
    ]
    assert (shown["json"], shown["captions"]) == (None, {})


def test_extract_writes_the_very_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sample = Sample("../up/and/away", {"png": b"\x89PNG"})
    assert extract(sample, "png", tmp_path / "x.png").read_bytes() == b"\x89PNG"
    assert extract(sample, "png").absolute().parent == tmp_path
    with pytest.raises(UsageError, match="no field 'jpg'"):
        extract(sample, "jpg")
    with pytest.raises(LtError, match="is a folder"):
        extract(sample, "png", tmp_path)


def test_rejects_can_be_iterated_and_asked_for_a_key(folder):
    shards = open_shards(folder)
    assert [(file, reject.key) for file, reject in shards.rejects()] == [("rejects-000000.parquet", "scene-2")]
    assert list(shards.rejects("scene-3")) == []
    assert [reject.key for _, reject in open_shards(folder / "shard-000000.tar").rejects()] == ["scene-2"]
    (folder / "rejects-000000.parquet").unlink()
    with pytest.raises(ShardError, match="Cannot read"):
        list(open_shards(folder / "shard-000000.tar").rejects())


def test_img2dataset_shards_read_in_their_own_order_and_stay_untouched(tmp_path):
    keys = img2dataset_folder(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shards = open_shards(tmp_path)
    assert list(shards.keys()) == keys and keys != sorted(keys)
    sample = shards[keys[3]]
    assert sample["txt"] == sample["json"]["caption"] and sample.picture.shape == (6, 8, 3)
    assert describe(tmp_path).samples == 8
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    build(folder, [plain("a"), plain("b"), Reject("c", "too-small", meta={"lineage": LINEAGE})], settings=SETTINGS)
    return sorted((path.name, path.read_bytes()) for path in folder.iterdir())


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_anywhere_gives_a_message_never_a_traceback(tmp_path_factory, finished, data):
    folder = tmp_path_factory.mktemp("flipped")
    number = data.draw(st.integers(0, len(finished) - 1))
    for n, (name, content) in enumerate(finished):
        changed = bytearray(content)
        if n == number:
            changed[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        (folder / name).write_bytes(bytes(changed))
    asks = [
        lambda: describe(folder),
        lambda: explain(folder, "a"),
        lambda: explain(folder, "c"),
        lambda: explain(folder, "nobody"),
        lambda: summary(open_shards(folder)["b"]),
    ]
    for ask in asks:
        with contextlib.suppress(LtError):
            ask()


def test_a_shard_that_is_not_as_long_as_it_was_written_is_not_complete(folder):
    assert describe(folder).complete is True
    (folder / "shard-000001.tar").write_bytes(b"")
    info = describe(folder)
    assert (info.complete, info.problems) == (False, {"wrong-size": 1})
