"""Resharding moves bytes only: keys, order, fields, lineage, metrics and rejects stay; it resumes and refuses."""

import pytest

import lt.datagen.reshard as module
from lt.datagen.reshard import parse_size, reshard
from lt.datagen.shards import LtError, Reject, Sample, ShardError, open_shards
from lt.datagen.shards.errors import UsageError
from lt.datagen.shards.manifest import Manifest, Sidecar, shard_name
from lt.datagen.shards.verify import verify
from tests.datagen.shards.making import build, foreign, img2dataset_folder, plain


def fields_of(where) -> list[tuple[str, dict[str, bytes]]]:
    return [(sample.key, {name: sample.encoded(name) for name in sample.fields}) for sample in open_shards(where)]


def rejects_of(where) -> list[Reject]:
    return [reject for _, reject in open_shards(where).rejects()]


@pytest.fixture
def source(tmp_path):
    odd = Sample("odd", {"json": b'{"b": 1,  "a": 2}', "bin": bytes(3000)})
    lost = [Reject(f"lost{n}", "too-small", figure=float(n), stage="make", meta={"猫": n}) for n in range(3)]
    build(
        tmp_path / "in", [plain("a"), odd, lost[0], plain("b")], [lost[1]], [plain("c")], [plain("d"), lost[2], plain("e")],
        settings={"stages": [{"name": "make", "settings": {"x": 1}}]}, licences=["CC0-1.0"], tolerance=0.01,
    )  # fmt: skip
    return tmp_path / "in"


@pytest.mark.parametrize(
    "rule", [{"samples": 1}, {"samples": 4}, {"samples": 100}, {"max_bytes": 7000}, {"max_bytes": 1}]
)
def test_everything_stays_but_the_borders(source, tmp_path, rule):
    done = reshard(source, tmp_path / "out", **rule)
    assert fields_of(tmp_path / "out") == fields_of(source)
    assert rejects_of(tmp_path / "out") == rejects_of(source)
    old, new = Manifest.load(source / "manifest.json"), Manifest.load(tmp_path / "out" / "manifest.json")
    for name in ("pipeline", "count", "rejected", "fields", "stages", "tolerance", "licences"):
        assert getattr(new, name) == getattr(old, name), name
    assert new.settings["stages"] == old.settings["stages"]
    assert verify(tmp_path / "out").is_good
    assert (done.samples, done.shards, done.rejected) == (6, len(new.shards), {"too-small": 3})


def test_shards_hold_as_many_samples_as_asked_for(source, tmp_path):
    reshard(source, tmp_path / "out", samples=4)
    assert [entry.count for entry in Manifest.load(tmp_path / "out" / "manifest.json").shards] == [4, 2]


def test_shards_hold_as_many_bytes_as_asked_for(source, tmp_path):
    reshard(source, tmp_path / "out", max_bytes=7000)
    for entry in Manifest.load(tmp_path / "out" / "manifest.json").shards:
        index = Sidecar.load((tmp_path / "out" / entry.name).with_suffix(".json")).index
        end = max(offset + size + -size % 512 for places in index.values() for offset, size, _ in places.values())
        assert end <= 7000
    assert len(Manifest.load(tmp_path / "out" / "manifest.json").shards) < 6


def test_the_same_call_again_does_nothing(source, tmp_path):
    first = reshard(source, tmp_path / "out", samples=2)
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    again = reshard(source, tmp_path / "out", samples=2)
    assert (first.made, again.made) == (3, 0)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")} == times


def test_a_call_that_was_stopped_is_continued_to_the_same_bytes(source, tmp_path, monkeypatch):
    reshard(source, tmp_path / "whole", samples=2)
    write, calls = module._write, []

    def stop_at_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(module, "_write", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        reshard(source, tmp_path / "out", samples=2)
    assert not Manifest.load(tmp_path / "out" / "manifest.json").complete
    monkeypatch.setattr(module, "_write", write)
    (tmp_path / "out" / f"{shard_name(1)}.tmp-00000000").write_bytes(b"half")
    assert reshard(source, tmp_path / "out", samples=2).made == 2
    whole, continued = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("whole", "out"))
    assert whole == continued


def test_other_settings_or_other_input_are_refused(source, tmp_path):
    reshard(source, tmp_path / "out", samples=2)
    with pytest.raises(LtError, match=r"'samples': 2.* -> .*'samples': 3"):
        reshard(source, tmp_path / "out", samples=3)
    build(tmp_path / "other", [plain("z")])
    with pytest.raises(LtError, match="other input"):
        reshard(tmp_path / "other", tmp_path / "out", samples=2)
    foreign(tmp_path / "x.tar", [])
    with pytest.raises(LtError, match="no run of lt has made"):
        reshard(source, tmp_path, samples=2)


def test_wrong_calls(source, tmp_path):
    for rule in ({}, {"samples": 1, "max_bytes": 1}, {"samples": 0}):
        with pytest.raises(UsageError, match="Say how to cut"):
            reshard(source, tmp_path / "out", **rule)
    with pytest.raises(UsageError, match="the input itself"):
        reshard(source, source, samples=1)


def test_damaged_input_stops_it_instead_of_losing_a_sample(source, tmp_path):
    tar = source / shard_name(0)
    tar.write_bytes(tar.read_bytes().replace(b"caption b", b"caption X"))
    with pytest.raises(ShardError, match=r"b\.txt does not match its checksum"):
        reshard(source, tmp_path / "out", samples=100)
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_foreign_shards_become_ours_and_what_cannot_is_a_reject(tmp_path):
    keys = img2dataset_folder(tmp_path / "in")
    foreign(
        tmp_path / "in" / "00009.tar",
        [("../x.jpg", b"1"), ("ok.txt", b"3"), (f"{keys[0]}.txt", b"4"), ("c.a b", b"5")],
    )
    reshard(tmp_path / "in", tmp_path / "out", samples=5)
    assert fields_of(tmp_path / "out") == [pair for pair in _good(tmp_path / "in") if pair[0] in {*keys, "ok"}]
    assert {(r.key, r.reason) for r in rejects_of(tmp_path / "out")} == {
        ("../x.jpg", "unsafe-member"), ("c", "bad-field"), (keys[0], "duplicate-key"),
    }  # fmt: skip


@pytest.mark.parametrize("rule", [{"samples": 2}, {"max_bytes": 3000}])
def test_keys_that_ours_may_not_hold_are_changed_and_told(tmp_path, rule):
    keys = ["ünï", "a b", "k" * 120, "猫/a.b/c", "-x", "good/one"]
    (tmp_path / "in").mkdir()
    foreign(tmp_path / "in" / "0.tar", [(f"{key}.{name}", key.encode()) for key in keys for name in ("jpg", "txt")])
    done = reshard(tmp_path / "in", tmp_path / "out", **rule)
    assert (done.samples, done.rejected) == (6, {})
    made = list(open_shards(tmp_path / "out"))
    assert [sample.get("key.txt", sample.key) for sample in made] == keys
    assert [sample.encoded("jpg").decode() for sample in made] == keys
    assert {finding.what for finding in verify(tmp_path / "in", decode=False).findings} == {"bad-key", "key-too-long"}
    assert verify(tmp_path / "out", decode=False).is_good
    if "max_bytes" in rule:
        assert all(path.stat().st_size <= 3000 + 20 * 512 for path in (tmp_path / "out").glob("*.tar"))


def test_joined_archives_are_read_to_the_end(tmp_path):
    for number in range(2):
        foreign(tmp_path / f"{number}.tar", [(f"{number}{name}.txt", b"x") for name in "ab"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "both.tar").write_bytes(b"".join((tmp_path / f"{n}.tar").read_bytes() for n in range(2)))
    done = reshard(tmp_path / "in", tmp_path / "out", samples=10)
    assert (done.samples, done.rejected) == (4, {})
    (finding,) = verify(tmp_path / "in").findings
    assert (finding.what, finding.detail.split(":")[0]) == ("joined-archive", "another archive follows at byte 10240")
    assert verify(tmp_path / "out").is_good


def _good(where) -> list[tuple[str, dict[str, bytes]]]:
    seen, good = set(), []
    for sample in open_shards(where).samples(on_bad=lambda reject: None):
        if sample.key not in seen:
            good.append((sample.key, {name: sample.encoded(name) for name in sample.fields}))
        seen.add(sample.key)
    return good


def test_a_set_of_nothing_but_rejects_keeps_them(tmp_path):
    build(tmp_path / "in", [Reject("a", "too-small")], [Reject("b", "too-dark")])
    done = reshard(tmp_path / "in", tmp_path / "out", samples=5)
    assert (done.samples, done.rejected) == (0, {"too-small": 1, "too-dark": 1})
    assert verify(tmp_path / "out").is_good


@pytest.mark.parametrize(
    ("text", "size"), [("100000", 100_000), ("64MB", 64_000_000), ("1.5 GiB", 3 * 2**29), ("2k", 2000), ("7 b", 7)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-5", "5 parsecs", "1e9"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match="is no size"):
        parse_size(text)
