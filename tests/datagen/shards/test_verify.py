"""`verify` notices every damaged byte and names what is wrong; a good folder has no findings."""

import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lt.datagen.reshard import reshard
from lt.datagen.shards import Reject, Sample, ShardError, ShardWriter, codec, open_shards
from lt.datagen.shards.manifest import Manifest, Sidecar, shard_name
from lt.datagen.shards.verify import verify
from tests.datagen.shards.making import build, encoded, foreign, picture, plain


def layered(key: str) -> Sample:
    """A sample whose one opaque layer covers the left half of its background."""
    background, layer = picture(), np.zeros((6, 8, 4), np.uint8)
    layer[:, :4] = 200
    layer[:, :4, 3] = 255
    whole = background.copy()
    whole[:, :4] = 200
    meta = {"layers": [{"caption": {"en": "a slab"}}]}
    return Sample(key, {"png": whole, "background.png": background, "layer-00.png": layer, "json": meta})


def findings(folder, **options) -> list[tuple[str, str, str]]:
    return [(finding.shard, finding.key, finding.what) for finding in verify(folder, **options).findings]


@pytest.fixture
def folder(tmp_path):
    build(tmp_path, [plain("a"), plain("b")], [plain("c"), Reject("d", "too-small", figure=3.0, stage="size")], [])
    return tmp_path


def test_a_good_folder_has_no_findings(folder):
    seen = []
    report = verify(folder, on_progress=lambda done, total: seen.append((done, total)))
    assert report.is_good and report.decoded is None
    assert (report.shards, report.samples) == (2, 3)
    assert report.bytes == sum(path.stat().st_size for path in folder.glob("*.tar"))
    assert seen[-1] == (report.bytes, report.bytes)
    assert verify(folder, decode=False).is_good and verify(folder, decode=True).is_good
    assert verify(folder / shard_name(0)).is_good  # one shard by itself
    assert verify(f"{folder}/shard-00000{{0..1}}.tar").is_good


def test_several_processes_find_the_same(folder):
    (folder / shard_name(0)).write_bytes((folder / shard_name(0)).read_bytes().replace(b"caption a", b"caption x"))
    assert findings(folder, workers=2) == findings(folder, workers=1) != []


def test_nothing_to_check_is_an_error(tmp_path):
    with pytest.raises(ShardError, match="No shards"):
        verify(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    build(folder, [plain("a"), plain("b"), Reject("c", "too-small", figure=1.0)])
    return Folder({path.name: path.read_bytes() for path in folder.iterdir()})


class Folder(dict):
    """Names and bytes of files, with a short name in reports of failures."""

    def __repr__(self) -> str:
        return f"Folder({list(self)})"

    def lay_out(self, folder, **changed: bytes) -> None:
        for name, data in {**self, **changed}.items():
            (folder / name).write_bytes(data)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.json", "rejects-000000.parquet"])
@given(data=st.data())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_byte_is_noticed(tmp_path_factory, finished, name, decode, data):
    folder = tmp_path_factory.mktemp("flipped")
    flipped = bytearray(finished[name])
    flipped[data.draw(st.integers(0, len(flipped) - 1), label="byte")] ^= data.draw(st.integers(1, 255), label="bits")
    finished.lay_out(folder, **{name: bytes(flipped)})
    assert not verify(folder, decode=decode).is_good


@pytest.mark.parametrize("name", ["shard-000000.tar", "shard-000000.json", "rejects-000000.parquet", "manifest.json"])
@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_is_noticed(tmp_path_factory, finished, name, data):
    folder = tmp_path_factory.mktemp("cut")
    whole = finished[name].rstrip()
    finished.lay_out(folder, **{name: whole[: data.draw(st.integers(0, len(whole) - 1), label="length")]})
    assert not verify(folder).is_good


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_of_the_manifest_is_a_finding_or_changes_only_words(tmp_path_factory, finished, data):
    folder = tmp_path_factory.mktemp("manifest")
    flipped = bytearray(finished["manifest.json"])
    flipped[data.draw(st.integers(0, len(flipped) - 1))] ^= data.draw(st.integers(1, 255))
    finished.lay_out(folder, **{"manifest.json": bytes(flipped)})
    if verify(folder).is_good:
        was, now = json.loads(finished["manifest.json"]), json.loads(flipped)
        unchecked = {
            "pipeline",
            "run",
            "code_version",
            "tolerance",
            "licences",
            "settings",
            "inputs",
            "stages",
            "tasks",
        }
        assert {key for key in was if was[key] != now[key]} <= unchecked | {"rejected"}
        assert sum(now["rejected"].values()) == 1


@pytest.mark.parametrize(
    ("file", "finding"),
    [
        ("shard-000001.tar", ("shard-000001.tar", "", "unreadable")),
        ("shard-000001.json", ("shard-000001.tar", "", "missing-sidecar")),
        ("rejects-000001.parquet", ("rejects-000001.parquet", "", "missing-rejects")),
        ("manifest.json", ("manifest.json", "", "missing-manifest")),
    ],
)
def test_a_missing_file_is_named(folder, file, finding):
    (folder / file).unlink()
    assert finding in findings(folder)


def test_a_content_digest_that_is_not_that_of_the_samples_is_named(tmp_path):
    manifest = build(tmp_path, [plain("a")])
    sidecar = Sidecar.load(tmp_path / "shard-000000.json")
    sidecar.content = manifest.shards[0].content = "0" * 64
    sidecar.save(tmp_path / "shard-000000.json")
    manifest.save(tmp_path / "manifest.json")
    assert findings(tmp_path) == [("shard-000000.tar", "", "wrong-content")]


def test_what_does_not_belong_there_is_named(folder):
    (folder / "shard-000000.tar.tmp-12ab34cd").write_bytes(b"half")
    (folder / "rejects-000000.parquet").write_bytes(b"old")
    with ShardWriter(folder / shard_name(7), durable=False) as writer:
        writer.write(plain("x"))
    assert set(findings(folder)) == {
        ("shard-000000.tar.tmp-12ab34cd", "", "leftover"),
        ("rejects-000000.parquet", "", "leftover"),
        ("shard-000007.tar", "", "unlisted-shard"),
    }


def test_an_unfinished_run_says_so(folder):
    manifest = Manifest.load(folder / "manifest.json")
    manifest.complete = False
    manifest.save(folder / "manifest.json")
    [finding] = verify(folder).findings
    assert (finding.what, finding.detail) == ("incomplete", "2 of 3 shards; run the same command again")


def test_a_key_in_two_shards_is_named(tmp_path):
    build(tmp_path, [plain("a"), plain("b")], [plain("b")])
    assert findings(tmp_path) == [("shard-000001.tar", "b", "duplicate-key")]


def test_a_sample_without_a_field_that_the_others_have_is_named(tmp_path):
    poor = Sample("poor", {"png": picture(), "txt": "x"})
    build(tmp_path, [plain("a"), plain("b"), poor, Sample("silent", {"jpg": picture(), "json": {}})])
    [finding] = verify(tmp_path).findings
    assert (finding.key, finding.what, finding.detail) == ("poor", "missing-field", "no json")


@pytest.mark.parametrize(
    ("field", "data", "what"),
    [
        ("png", encoded(picture(), "JPEG"), "wrong-extension"),
        ("jpg", encoded(picture(), "WEBP"), "wrong-extension"),
        ("png", b"", "empty-image"),
        ("png", encoded(picture(40, 40), "PNG")[:-40], "undecodable-image"),
        ("txt", b"\xff\xfe", "invalid-utf8"),
        ("json", b'{"a": ', "invalid-json"),
        ("latent.npy", b"PK\x03\x04", "invalid-npy"),
    ],
)
def test_contents_that_are_not_what_their_name_says_are_named(tmp_path, field, data, what):
    build(tmp_path, [Sample("a", {field: data})])
    [finding] = verify(tmp_path).findings
    assert (finding.key, finding.what) == ("a", what)
    assert finding.detail.startswith(f"{field}: ")
    assert verify(tmp_path, decode=False).is_good  # the bytes are those that were written


def test_two_pictures_in_one_sample_are_named(tmp_path):
    build(tmp_path, [Sample("a", {"png": picture(), "jpg": picture()})])
    assert findings(tmp_path) == [("shard-000000.tar", "a", "several-pictures")]


# --- layers


def test_layers_that_give_the_picture_are_good(tmp_path):
    build(tmp_path, [layered("a"), layered("b")])
    assert verify(tmp_path).is_good


def test_the_recomposition_error_is_measured_against_the_tolerance(tmp_path):
    wrong = layered("a")
    moved = wrong["png"].astype(int)
    moved[0, 0, 0] += 100 if moved[0, 0, 0] < 128 else -100
    wrong["png"] = moved.astype(np.uint8)
    build(tmp_path, [wrong])
    error = np.sqrt(100**2 / (6 * 8 * 3)) / 255
    [finding] = verify(tmp_path).findings
    assert finding.what == "recomposition" and finding.figure == pytest.approx(error)
    for tolerance, good in [(error * 1.01, True), (error * 0.99, False)]:
        build(tmp_path, [wrong], tolerance=tolerance)
        assert verify(tmp_path).is_good == good


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s.__delitem__("background.png"), "missing-field"),
        (lambda s: s.__delitem__("layer-00.png"), "missing-layer"),
        (lambda s: s.__setitem__("layer-02.png", s["layer-00.png"]), "missing-layer"),
        (lambda s: s.meta.update(layers=[{}, {}]), "missing-layer"),
        (lambda s: s.__setitem__("layer-00.png", picture(5, 8, 4)), "wrong-size"),
        (lambda s: s.__setitem__("background.png", picture(6, 9)), "wrong-size"),
        (lambda s: s.__setitem__("layer-00.png", picture()), "wrong-layer"),
    ],
    ids=["no background", "no layer", "gap", "count", "layer size", "background size", "no alpha"],
)
def test_layers_that_do_not_fit_are_named(tmp_path, change, what):
    sample = layered("a")
    change(sample)
    build(tmp_path, [sample])
    assert findings(tmp_path) == [("shard-000000.tar", "a", what)]


# --- foreign shards


def test_foreign_shards_are_checked_by_what_they_show(tmp_path):
    good = encoded(picture(), "JPEG")
    foreign(
        tmp_path / "00000.tar",
        [("1.jpg", good), ("1.txt", b"one"), ("2.jpg", good[:-20]), ("3.jpg", encoded(picture(), "PNG")), ("../4.jpg", good),
         ("5.jpg", good), ("6.jpg", good), ("5.txt", b"apart"), (f"{'7' * 120}.jpg", good)],
    )  # fmt: skip
    foreign(tmp_path / "00001.tar", [("1.jpg", good)])
    (tmp_path / "00000_stats.json").write_text('{"count": 7}')
    before = sorted(os.listdir(tmp_path))
    assert set(findings(tmp_path)) == {
        ("00000.tar", "2", "undecodable-image"),
        ("00000.tar", "3", "wrong-extension"),
        ("00000.tar", "../4.jpg", "unsafe-member"),
        ("00000.tar", "5", "non-contiguous-key"),
        ("00000.tar", "7" * 120, "key-too-long"),
        ("00001.tar", "1", "duplicate-key"),
    }
    assert sorted(os.listdir(tmp_path)) == before


def test_a_foreign_archive_that_is_cut_is_named(tmp_path):
    foreign(tmp_path / "x.tar", [("1.txt", b"one"), ("2.txt", b"two"), ("2.cls", b"2")])
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[: 4 * 512])  # exactly between 2.txt and 2.cls
    assert set(findings(tmp_path)) == {("x.tar", "", "missing-end-marker"), ("x.tar", "2", "cut-sample")}


def test_a_damaged_sample_is_named_once(tmp_path):
    build(tmp_path, [layered("a")])
    tar = tmp_path / shard_name(0)
    data = bytearray(tar.read_bytes())
    data[data.index(b"a.layer-00.png") + 512 + 40] ^= 1
    tar.write_bytes(bytes(data))
    assert findings(tmp_path) == [("shard-000000.tar", "a", "damaged-bytes"), ("shard-000000.tar", "", "wrong-sha256")]


@pytest.mark.parametrize(
    ("meta", "what"),
    [
        (b'{"score": NaN}', "invalid-json"),
        (b'{"score": -Infinity}', "invalid-json"),
        (b'{"caption": "a cat \\ud83d"}', "invalid-unicode"),
    ],
)
def test_json_beyond_the_standard_is_named_and_read_all_the_same(tmp_path, meta, what):
    foreign(tmp_path / "a.tar", [("a.json", meta), ("a.txt", b"a cat")])
    assert findings(tmp_path) == [("a.tar", "a", what)]
    (sample,) = open_shards(tmp_path)
    assert list(sample.meta.values()) in ([None], ["a cat \ufffd"])
    json.loads(sample.encoded("json"), parse_constant=pytest.fail)


def seen(folder, monkeypatch, **options) -> list[str]:
    """The pictures that `verify` decodes, by their field."""
    decoded, real = [], codec.decode
    with monkeypatch.context() as patch:
        patch.setattr(codec, "decode", lambda name, data: decoded.append(name) or real(name, data))
        assert verify(folder, **options).is_good
    return sorted(name for name in decoded if codec.is_image(name))


def test_what_lt_encoded_or_decoded_is_not_decoded_again(tmp_path, monkeypatch):
    looked_at = Sample("b", {"png": encoded(picture(), "PNG"), "txt": b"b", "json": b"{}"})
    _ = looked_at.picture
    build(tmp_path, [plain("a"), looked_at])
    assert Sidecar.load(tmp_path / "shard-000000.json").decoded == ["png"]
    assert seen(tmp_path, monkeypatch) == []
    assert seen(tmp_path, monkeypatch, decode=True) == ["png", "png"]
    assert seen(tmp_path, monkeypatch, decode=False) == []


def test_bytes_that_nobody_looked_at_are_decoded(tmp_path, monkeypatch):
    passed = Sample("b", {"png": encoded(picture(), "PNG"), "json": {}})
    build(tmp_path / "one", [plain("a"), passed])
    assert seen(tmp_path / "one", monkeypatch) == ["png", "png"]
    build(tmp_path / "whole", [plain("a")])
    reshard(tmp_path / "whole", tmp_path / "cut", samples=1)
    assert seen(tmp_path / "cut", monkeypatch) == ["png"]
    build(tmp_path / "bad", [plain("a"), Sample("b", {"png": b"\x89PNG\r\n\x1a\n broken", "json": {}})])
    assert findings(tmp_path / "bad") == [("shard-000000.tar", "b", "undecodable-image")]


def test_layers_are_recomputed_unless_the_sample_tells_how_well_they_give_the_picture(tmp_path, monkeypatch):
    silent, told, far = layered("a"), layered("b"), layered("c")
    told.meta["recomposition"] = {"rms": 0.0, "psnr_db": 99.0}
    far.meta["recomposition"] = {"rms": 0.5}
    build(tmp_path / "told", [told])
    assert seen(tmp_path / "told", monkeypatch) == []
    for number, sample in enumerate((silent, far)):
        build(tmp_path / str(number), [sample])
        assert "layer-00.png" in seen(tmp_path / str(number), monkeypatch)
    wrong = layered("d")
    wrong.meta["recomposition"] = {"rms": 0.0}
    wrong["background.png"] = 255 - wrong["background.png"]
    wrong.meta["layers"] *= 2
    build(tmp_path / "wrong", [wrong])
    assert [what for _, _, what in findings(tmp_path / "wrong")] == ["missing-layer"]


def test_a_wrong_extension_is_named_although_the_field_was_decoded(tmp_path):
    sample = Sample("a", {"png": encoded(picture(), "JPEG")})
    _ = sample.picture
    build(tmp_path, [sample])
    assert findings(tmp_path) == [("shard-000000.tar", "a", "wrong-extension")]
