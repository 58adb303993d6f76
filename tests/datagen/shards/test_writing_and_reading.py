"""What is written is read back equal; what is damaged or hostile is counted and named, and never passed on."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lt.datagen.shards import LtError, Reject, Sample, SampleError, ShardError, ShardWriter, codec, open_shards
from lt.datagen.shards.manifest import Manifest, ShardEntry, Sidecar, shard_name
from lt.datagen.shards.sample import check_field, check_key, safe_key
from lt.datagen.shards.writer import read_rejects

keys = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_\-+=@,]{0,20}(/[a-z0-9]{1,8})?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
jsons = st.dictionaries(
    texts,
    st.recursive(st.none() | st.booleans() | st.integers() | texts, lambda x: st.lists(x, max_size=3), max_leaves=5),
)
pictures = st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3, 4]), st.integers(0, 2**32 - 1)).map(
    lambda s: np.random.default_rng(s[3]).integers(0, 256, s[:3] if s[2] > 1 else s[:2], np.uint8)
)
values = st.fixed_dictionaries(
    {},
    optional={
        "txt": texts,
        "json": jsons,
        "png": pictures,
        "layer-00.png": pictures,
        "latent.npy": pictures.map(lambda p: p.astype(np.float32)),
        "raw": st.binary(max_size=1200),
    },
).filter(len)
samples = st.lists(st.tuples(keys, values), max_size=8, unique_by=lambda s: s[0])


def write(folder, items, number=0) -> Sidecar:
    with ShardWriter(folder / shard_name(number), durable=False) as writer:
        for item in items:
            writer.write(item)
    return writer.sidecar


def simple(count: int = 3) -> list[Sample]:
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    return [Sample(f"s{n}", {"png": pixels, "txt": f"caption {n}", "json": {"n": n}}) for n in range(count)]


def same(a, b) -> bool:
    return np.array_equal(a, b) and a.dtype == b.dtype if isinstance(b, np.ndarray) else a == b


@given(items=samples)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_samples_are_read_back_equal(tmp_path_factory, items):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, [Sample(key, fields) for key, fields in items])
    if not items:
        assert not list(folder.glob("*.tar"))  # stock readers stop at a tar without samples
        return
    shards = open_shards(folder)
    read = list(shards)
    assert [sample.key for sample in read] == [key for key, _ in items]
    for sample, (key, fields) in zip(read, items, strict=True):
        assert sample.fields == sorted(fields)
        assert all(same(sample[name], fields[name]) for name in fields)
        assert all(same(shards[key][name], fields[name]) for name in fields)


@given(items=samples.filter(len), data=st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_choice_of_keys_is_read_in_the_order_asked_for(tmp_path_factory, items, data):
    folder = tmp_path_factory.mktemp("shards")
    write(folder, [Sample(key, fields) for key, fields in items])
    [shard] = open_shards(folder).shards
    wanted = data.draw(st.lists(st.sampled_from([key for key, _ in items]), max_size=12))
    assert [(s.key, s.fields) for s in shard.read_many(wanted)] == [(k, sorted(dict(items)[k])) for k in wanted]


def test_equal_samples_give_equal_bytes(tmp_path):
    first, second = write(tmp_path / "a", simple()), write(tmp_path / "b", simple())
    assert first.sha256 == second.sha256
    assert (tmp_path / "a" / shard_name(0)).read_bytes() == (tmp_path / "b" / shard_name(0)).read_bytes()


def test_the_content_digest_tells_samples_apart_and_not_the_code_that_made_them(tmp_path):
    def made(name: str, pixel=7, caption="a cat", n=1, code="0.1.0+1f2e3d4c", key="a") -> Sidecar:
        lineage = [{"stage": "draw", "code": code}]
        pixels = np.full((2, 2, 3), pixel, np.uint8)
        return write(
            tmp_path / name, [Sample(key, {"png": pixels, "txt": caption, "json": {"n": n, "lineage": lineage}})]
        )

    first, later = made("first"), made("later", code="0.2.0+5d6c7b8a")
    assert first.content == later.content and first.sha256 != later.sha256
    assert open_shards(tmp_path / "first").digest() == open_shards(tmp_path / "later").digest()
    changes = [{"pixel": 8}, {"caption": "a cow"}, {"n": 2}, {"key": "b"}]
    contents = [made(f"changed-{number}", **change).content for number, change in enumerate(changes)]
    assert len({first.content, *contents}) == 5


def test_a_foreign_shard_may_be_copied_or_touched_but_not_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    write(tmp_path / "a", simple())
    tar = tmp_path / "a" / shard_name(0)
    tar.with_suffix(".json").unlink()
    before = open_shards(tmp_path / "a").digest()
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tar.touch()
    assert before == open_shards(tmp_path / "a").digest() == open_shards(tmp_path / "b").digest()
    tar.write_bytes(tar.read_bytes().replace(b"caption 1", b"caption x"))  # every field lies where it lay
    assert open_shards(tmp_path / "a").digest() != before


def test_fields_that_are_not_touched_keep_their_bytes(tmp_path):
    odd = b'{"b": 1,   "a": [2.50]}'
    write(tmp_path, [Sample("a", {"json": odd, "jpg": b"not even a picture"})])
    [sample] = open_shards(tmp_path)
    assert (sample.encoded("json"), sample.encoded("jpg")) == (odd, b"not even a picture")


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (Sample("k" * 300, {"txt": "x"}), "key-too-long"),
        (Sample("猫", {"txt": "x"}), "bad-key"),
        (Sample("../x", {"txt": "x"}), "bad-key"),
        (Sample("/etc/x", {"txt": "x"}), "bad-key"),
        (Sample("a.b", {"txt": "x"}), "bad-key"),
        (Sample("__meta__/a", {"txt": "x"}), "bad-key"),
        (Sample("", {"txt": "x"}), "bad-key"),
        (Sample("a\ud800", {"txt": "x"}), "bad-key"),
        (Sample("a", {"../x": b"x"}), "bad-field"),
        (Sample("a", {"PNG": b"x"}), "bad-field"),
        (Sample("a", {"é": b"x"}), "bad-field"),
        (Sample("a", {"x" * 80: b"x"}), "bad-field"),
        (Sample("a", {}), "empty-sample"),
        (Sample("a", {"txt": "\ud800"}), "invalid-unicode"),
        (Sample("a", {"json": {"caption": "\ud800"}}), "invalid-unicode"),
        (Sample("a", {"json": {"x": float("nan")}}), "invalid-json"),
        (Sample("a", {"json": {"x": object()}}), "invalid-json"),
        (Sample("a", {"latent.npy": np.array([object()])}), "invalid-npy"),
        (Sample("a", {"png": np.zeros((2, 2, 3))}), "bad-picture-value"),
        (Sample("a", {"png": np.zeros((0, 2, 3), np.uint8)}), "bad-picture-value"),
        (Sample("good0", {"txt": "again"}), "duplicate-key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_sample_that_cannot_be_written_is_counted_and_named(tmp_path, sample, reason):
    good = [Sample(f"good{n}", {"txt": "x"}) for n in range(2)]
    sidecar = write(tmp_path / "out", [good[0], sample, good[1]])
    assert (sidecar.count, sidecar.rejected) == (2, 1)
    [reject] = read_rejects(tmp_path / "out" / "rejects-000000.parquet")
    assert (reject.reason, reject.stage) == (reason, "write")
    assert list(open_shards(tmp_path / "out").keys()) == ["good0", "good1"]
    assert os.listdir(tmp_path) == ["out"] and len(os.listdir(tmp_path / "out")) == 3


def test_rejects_keep_reason_figure_detail_and_metadata(tmp_path):
    lost = [Reject("a", "too-small", "7x9", 63.0, "size", {"猫": [1, None]}), Reject("b\udcff", "odd", stage="s")]
    with ShardWriter(tmp_path / shard_name(0)) as writer:
        for reject in lost:
            writer.reject(reject)
    read = read_rejects(tmp_path / "rejects-000000.parquet")
    assert read[0] == lost[0]
    assert read[1].key == "b\\udcff"
    (tmp_path / "rejects-000000.parquet").write_bytes(b"PAR1 what is this PAR1")
    with pytest.raises(LtError, match="cannot be read"):
        read_rejects(tmp_path / "rejects-000000.parquet")


def test_a_block_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), ShardWriter(tmp_path / shard_name(0)) as writer:
        writer.write(simple()[0])
        1 / 0
    assert os.listdir(tmp_path) == []


# --- damage


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    sidecar = write(folder, simple())
    Manifest(
        pipeline="p", complete=True, tasks=1, count=3, fields=sidecar.fields,
        shards=[ShardEntry.of(sidecar)],
    ).save(folder / "manifest.json")  # fmt: skip
    return Files({path.name: path.read_bytes() for path in folder.iterdir()})


class Files(dict):
    """Names and bytes of a folder's files, with a short name in reports of failures."""

    def __repr__(self) -> str:
        return f"Files({list(self)})"


def lay_out(folder, files):
    for name, data in files.items():
        (folder / name).write_bytes(data)


def read_all(folder) -> tuple[list[Sample], list[Reject]]:
    bad: list[Reject] = []
    return list(open_shards(folder).samples(on_bad=bad.append)), bad


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_byte_of_a_shard_makes_reading_yield_a_broken_sample(tmp_path_factory, written, data):
    folder = tmp_path_factory.mktemp("flipped")
    tar = bytearray(written[shard_name(0)])
    tar[data.draw(st.integers(0, len(tar) - 1))] ^= data.draw(st.integers(1, 255))
    lay_out(folder, written | {shard_name(0): bytes(tar)})
    good, bad = read_all(folder)
    assert len(good) + len(bad) == 3
    for sample in good:
        assert (sample["txt"], sample["json"]) == (f"caption {sample.key[1]}", {"n": int(sample.key[1])})


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_cut_makes_reading_yield_a_broken_sample(tmp_path_factory, written, data):
    folder = tmp_path_factory.mktemp("cut")
    tar = written[shard_name(0)]
    foreign = data.draw(st.booleans(), label="without sidecar")
    lay_out(folder, {shard_name(0): tar[: data.draw(st.integers(0, len(tar) - 1))]} | ({} if foreign else {
        name: written[name] for name in written if name.endswith(".json")}))  # fmt: skip
    good, bad = read_all(folder)
    assert all(sample.fields == ["json", "png", "txt"] for sample in good)
    assert foreign or len(good) + len(bad) == 3


@pytest.mark.parametrize("name", ["manifest.json", "shard-000000.json"])
@given(data=st.data())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_byte_of_the_books_gives_a_traceback_or_a_broken_sample(tmp_path_factory, written, name, data):
    folder = tmp_path_factory.mktemp("books")
    book = bytearray(written[name])
    book[data.draw(st.integers(0, len(book) - 1))] ^= data.draw(st.integers(1, 255))
    lay_out(folder, written | {name: bytes(book)})
    try:
        good, _ = read_all(folder)
    except LtError:
        return
    for sample in good:
        assert (sample.fields, sample["txt"]) == (["json", "png", "txt"], f"caption {sample.key[1]}")


@pytest.mark.parametrize(
    "change",
    [
        {"index": {"../../x": {"txt": [512, 1, 0]}}},
        {"index": {"a": {}}},
        {"index": {"a": {"txt": [-5, 1, 0]}}},
        {"index": {"a": {"txt": [0, 2**80, 0]}}},
        {"index": {"a": {"txt": [10**15, 1, 0]}}},
        {"count": -1},
        {"schema_version": 0},
        {"more": 1},
    ],
    ids=str,
)
def test_a_sidecar_that_could_harm_is_refused(tmp_path, written, change):
    sidecar = json.loads(written["shard-000000.json"]) | {"digest": ""} | change
    lay_out(tmp_path, written | {"shard-000000.json": json.dumps(sidecar).encode()})
    with pytest.raises(ShardError, match="damaged or not ours"):
        list(open_shards(tmp_path))


def test_a_manifest_cannot_name_files_elsewhere(tmp_path, written):
    manifest = json.loads(written["manifest.json"])
    manifest["shards"][0]["name"] = "../shard-000000.tar"
    lay_out(tmp_path, written | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(ShardError, match="damaged or not ours"):
        open_shards(tmp_path)


def test_a_newer_schema_says_update(tmp_path, written):
    sidecar = {"schema_version": 9} | json.loads(written["shard-000000.json"]) | {"schema_version": 9, "new": 1}
    lay_out(tmp_path, written | {"shard-000000.json": json.dumps(sidecar).encode()})
    with pytest.raises(ShardError, match="Update lt-toolkit"):
        list(open_shards(tmp_path))


def test_an_older_schema_says_what_to_do(tmp_path, written):
    sidecar = json.loads(written["shard-000000.json"]) | {"schema_version": 1}
    del sidecar["content"]
    lay_out(tmp_path, written | {"shard-000000.json": json.dumps(sidecar).encode()})
    with pytest.raises(ShardError, match=r"older lt \(schema version 1, now 2\)") as refused:
        list(open_shards(tmp_path))
    assert "anew" in refused.value.hint and "reshard" in refused.value.hint


def test_a_sidecar_that_promises_gigabytes_costs_an_error_only(tmp_path, written):
    sidecar = json.loads(written["shard-000000.json"])
    sidecar |= {"digest": "", "bytes": 2**62}
    sidecar["index"]["s0"]["txt"] = [0, 2**61, 0]
    lay_out(tmp_path, written | {"shard-000000.json": json.dumps(sidecar).encode()})
    with pytest.raises(ShardError):
        list(open_shards(tmp_path))


# --- hostile archives and pictures


def foreign_tar(path, members):
    with tarfile.open(path, "w") as out:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def test_a_hostile_foreign_archive_gives_its_good_samples_and_names_the_rest(tmp_path):
    (tmp_path / "in").mkdir()
    foreign_tar(
        tmp_path / "in" / "x.tar",
        [("good.txt", b"1"), ("../evil.txt", b"2"), ("/abs.txt", b"3"), ("twice.txt", b"4"), ("twice.txt", b"5"),
         ("apart.txt", b"6"), ("fine.txt", b"7"), ("apart.cls", b"8"), ("README", b"9")],
    )  # fmt: skip
    good, bad = read_all(tmp_path / "in")
    assert [sample.key for sample in good] == ["good", "fine"]
    assert {(reject.key, reject.reason) for reject in bad} == {
        ("../evil.txt", "unsafe-member"), ("/abs.txt", "unsafe-member"), ("twice", "duplicate-field"),
        ("apart", "non-contiguous-key"), ("README", "no-key"),
    }  # fmt: skip
    with pytest.raises(ShardError, match="unsafe-member"):
        list(open_shards(tmp_path / "in"))
    assert os.listdir(tmp_path) == ["in"] and os.listdir(tmp_path / "in") == ["x.tar"]


def test_a_file_that_belongs_to_no_sample_is_passed_over(tmp_path):
    foreign_tar(tmp_path / "x.tar", [("README", b"hello"), ("a.txt", b"1")])
    assert [sample.key for sample in open_shards(tmp_path)] == ["a"]


def test_a_key_in_two_shards_is_not_guessed(tmp_path):
    for name in "ab":
        foreign_tar(tmp_path / f"{name}.tar", [("0.txt", name.encode()), (f"{name}.txt", b"")])
    shards = open_shards(tmp_path)
    assert [sample["txt"] for sample in shards] == ["a", "", "b", ""]
    assert shards["b"]["txt"] == ""
    with pytest.raises(ShardError, match=r"2 shards .*a.tar, b.tar"):
        shards["0"]


def png(size=(4, 4), mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


def bomb() -> bytes:
    """A PNG that states 50,000 x 50,000 pixels in 70 bytes."""
    import struct
    import zlib

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    data = png()
    return data[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + data[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty-image"),
        (b"\x89PNG\r\n\x1a\n", "undecodable-image"),
        (b"GIF89a" + bytes(50), "undecodable-image"),
        (png((40, 40))[:-30], "undecodable-image"),
        (b"<svg/>", "undecodable-image"),
        (bomb(), "image-too-large"),
    ],
)
def test_a_bad_picture_has_a_name(data, reason):
    with pytest.raises(SampleError) as error:
        codec.decode("png", data)
    assert error.value.reason == reason


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_picture_is_an_array_or_a_sample_error(format, data):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, format)
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = codec.decode("png", bytes(raw))
    except SampleError:
        return
    assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("L", (4, 6)),
        ("LA", (4, 6, 4)),
        ("P", (4, 6, 3)),
        ("RGB", (4, 6, 3)),
        ("RGBA", (4, 6, 4)),
        ("1", (4, 6, 3)),
        ("I;16", (4, 6)),
    ],
)
def test_every_mode_of_png_becomes_grey_rgb_or_rgba(mode, shape):
    assert codec.decode("png", png((6, 4), mode)).shape == shape


def test_a_palette_stays_indices_only_in_a_mask_of_parts():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    assert codec.decode("parts.png", buffer.getvalue()).tolist() == [[0, 1]]
    assert codec.decode("png", buffer.getvalue()).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_16_bit_grey_keeps_its_shades():
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(buffer, "PNG")
    assert codec.decode("png", buffer.getvalue()).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04" + bytes(30),
        b"\x80\x04.",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999,), }".ljust(127)
        + b"\n",
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(127)
        + b"\n"
        + bytes(8),
        b"\x93NUMPY\x01\x00\x76\x00((((((".ljust(127) + b"\n",
        b"",
    ],
)
def test_a_hostile_array_is_refused(data):
    with pytest.raises(SampleError, match="invalid-npy"):
        codec.decode("latent.npy", data)


@pytest.mark.parametrize(
    ("field", "data", "reason"),
    [("txt", b"\xff\xfe", "invalid-utf8"), ("json", b"\xff", "invalid-utf8"), ("json", b"{", "invalid-json"),
     ("json", b"[" * 100_000, "invalid-json")],
)  # fmt: skip
def test_bad_text_has_a_name(field, data, reason):
    with pytest.raises(SampleError) as error:
        codec.decode(field, data)
    assert error.value.reason == reason


@given(st.text())
def test_safe_key_makes_a_valid_key_of_anything(text):
    assert check_key(safe_key(text)) == safe_key(text)


@pytest.mark.parametrize("name", ["jpg", "layer-07.png", "latent.npy", "seg.png", "x_1"])
def test_usual_fields_are_allowed(name):
    assert check_field(name) == name


def test_a_path_that_exists_is_no_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("d{1,2}", "[5] a", "a, b", "2024", "a?b=c")):
        with ShardWriter(tmp_path / name / shard_name(0), durable=False) as writer:
            writer.write(Sample(f"k{number}", {"txt": "a"}))
        assert list(open_shards(name).keys()) == [f"k{number}"]
        assert list(open_shards(f"{name}/shard-00000[01].tar").keys()) == [f"k{number}"]
        assert list(open_shards(f"{name}/shard-{{000000..000000}}.tar").keys()) == [f"k{number}"]
    assert list(open_shards("[2a]*").keys()) == ["k3", "k2", "k4"], "folders by wildcards, by name"
    with pytest.raises(ShardError, match=r"Nothing fits b\*"):
        open_shards("b*")
    with pytest.raises(ShardError, match=r"braces of x\{1 do not close"):
        open_shards("x{1")
