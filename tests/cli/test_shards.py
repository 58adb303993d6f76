"""The `lt shards` commands what they print, their json, their exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from lt.cli.app import main
from lt.datagen.shards import Reject, Sample, open_shards
from tests.datagen.shards.making import build, foreign, img2dataset_folder, picture, plain


@pytest.fixture
def lt(monkeypatch, capsys):
    """Runs a command as `lt` does, in this process; `code` is the exit code to expect."""

    def run(*arguments: object, code: int = 0) -> Told:
        monkeypatch.setattr(sys, "argv", ["lt", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        assert (ended.value.code or 0) == code, err
        return Told(out, err)

    monkeypatch.setenv("COLUMNS", "160")
    return run


class Told(NamedTuple):
    stdout: str
    stderr: str


@pytest.fixture
def folder(tmp_path):
    captions = {
        "captions": {"en": ["a cat", "one cat"], "zh": "一只猫"},
        "lineage": [{"stage": "make", "params": "00", "code": "1"}],
    }
    cat = Sample("cat", {"png": picture(), "txt": "a cat", "json": captions})
    build(tmp_path / "set", [cat, plain("dog")], [Reject("ant", "too-small", "3x3", 9.0, "size")], licences=["CC0-1.0"])
    return tmp_path / "set"


def test_info(lt, folder):
    told = lt("shards", "info", folder)
    assert (
        "test, complete" in told.stdout and "2 samples in 1 shard," in told.stdout and "licence: CC0-1.0" in told.stdout
    )
    assert "too-small" in told.stdout and told.stderr == ""
    facts = json.loads(lt("shards", "info", folder, "--json").stdout)
    assert (facts["samples"], facts["rejected"], facts["fields"][1]["name"]) == (2, {"too-small": 1}, "png")


def test_ls(lt, folder):
    assert "a cat" in lt("shards", "ls", folder).stdout
    rows = json.loads(lt("shards", "ls", folder, "--limit", 1, "--json").stdout)
    assert rows == [{"key": "cat", "fields": "json png txt", "caption": "a cat"}]


def test_ls_goes_on_past_what_cannot_be_passed_on(lt, tmp_path):
    foreign(tmp_path / "x.tar", [("../evil.txt", b"1"), ("good.txt", b"fine"), ("bad.txt", b"\xff")])
    told = lt("shards", "ls", tmp_path)
    assert "fine" in told.stdout and "invalid-utf8" in told.stdout
    assert "../evil.txt: unsafe-member" in told.stderr


def test_show_and_extract(lt, folder, tmp_path):
    told = lt("shards", "show", folder, "cat").stdout
    assert "8x6 RGB" in told and "en: one cat" in told and "zh: 一只猫" in told
    assert json.loads(lt("shards", "show", folder, "cat", "--json").stdout)["captions"]["zh"] == ["一只猫"]
    lt("shards", "show", folder, "cat", "--field", "png", "--out", tmp_path / "cat.png")
    assert (tmp_path / "cat.png").read_bytes() == open_shards(folder)["cat"].encoded("png")
    assert "It has json, png, txt" in lt("shards", "show", folder, "cat", "--field", "jpg", code=2).stderr
    assert "--out needs --field" in lt("shards", "show", folder, "cat", "--out", "x", code=2).stderr
    assert "No sample 'cow'" in lt("shards", "show", folder, "cow", code=1).stderr


def test_why(lt, folder):
    assert "cat was kept (shard-000000.tar)\n  1. make" in lt("shards", "why", folder, "cat").stdout
    told = lt("shards", "why", folder, "ant").stdout
    assert "ant was rejected (rejects-000001.parquet)" in told and "too-small, figure 9: 3x3" in told
    assert json.loads(lt("shards", "why", folder, "ant", "--json").stdout)[0]["reject"]["figure"] == 9.0
    assert "Nearest: cat" in lt("shards", "why", folder, "cart", code=1).stderr


def test_verify(lt, folder):
    assert ": good (2 samples in 1 shard" in lt("shards", "verify", folder).stdout
    tar = folder / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"caption dog", b"caption fog"))
    told = lt("shards", "verify", folder, "--fast", code=1).stdout
    assert "damaged-bytes" in told and "wrong-sha256" in told and "2 findings" in told
    report = json.loads(lt("shards", "verify", folder, "--json", "--workers", 2, code=1).stdout)
    assert {(finding["key"], finding["what"]) for finding in report["findings"]} == {
        ("dog", "damaged-bytes"),
        ("", "wrong-sha256"),
    }
    assert report["good"] is False
    assert "1 more; --json lists all" in lt("shards", "verify", folder, "--limit", 1, code=1).stdout
    assert "No shards" in lt("shards", "verify", folder.parent, code=1).stderr


def test_index(lt, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    img2dataset_folder(tmp_path / "laion")
    before = sorted(os.listdir(tmp_path / "laion"))
    rows = json.loads(lt("shards", "index", tmp_path / "laion", "--json").stdout)
    assert [row["samples"] for row in rows] == [4, 4]
    assert all(Path(row["index"]).parent == tmp_path / "home" / "index" and Path(row["index"]).exists() for row in rows)
    assert sorted(os.listdir(tmp_path / "laion")) == before
    assert "shard-000000.json" in lt("shards", "index", folder, "--json", "--refresh").stdout


def test_reshard(lt, folder, tmp_path):
    told = lt("shards", "reshard", folder, "--samples", 1, "--out", tmp_path / "out")
    assert "2 samples in 2 shards, 2 of them written now" in told.stderr
    assert "Nothing to do" in lt("shards", "reshard", folder, "--samples", 1, "--out", tmp_path / "out").stderr
    assert (
        "holds other data"
        in lt("shards", "reshard", folder, "--bytes", "1MB", "--out", tmp_path / "out", code=1).stderr
    )
    assert "is no size" in lt("shards", "reshard", folder, "--bytes", "lots", "--out", tmp_path / "x", code=2).stderr
    assert "Say how to cut" in lt("shards", "reshard", folder, "--out", tmp_path / "x", code=2).stderr
    assert ": good" in lt("shards", "verify", tmp_path / "out").stdout
    assert "rejected" in lt("shards", "why", tmp_path / "out", "ant").stdout


def test_a_closed_pipe_is_no_error(folder):
    program = Path(sys.executable).with_name("lt")
    done = subprocess.run(f"{program} shards show {folder} cat | head -1", shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_nothing_readable_is_no_success(lt, tmp_path):
    with (tmp_path / "cut.tar").open("wb") as file:
        foreign(tmp_path / "whole.tar", [("a.jpg", b"broken")])
        file.write((tmp_path / "whole.tar").read_bytes()[:700])
    assert "cut-sample" in lt("shards", "ls", tmp_path / "cut.tar", code=1).stderr
    told = lt("shards", "page", tmp_path / "whole.tar", "--out", tmp_path / "page", code=1)
    assert "undecodable-image" in told.stderr and "0 samples" in told.stderr


def test_export_goes_on_after_a_damaged_sample(lt, folder, tmp_path):
    tar = folder / "shard-000000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"a cat", b"a rat"))
    told = lt("shards", "export", folder, "--format", "png", "--out", tmp_path / "out", code=1)
    assert "cat: damaged-bytes" in told.stderr and (tmp_path / "out" / "dog").is_dir()
    told = lt(
        "shards", "export", folder, "--format", "png", "--out", tmp_path / "x", "--key", "cat", "--key", "dog", code=1
    )
    assert (tmp_path / "x" / "dog").is_dir()
    assert (
        "No sample 'cow'"
        in lt("shards", "export", folder, "-f", "png", "--out", tmp_path / "y", "--key", "cow", code=1).stderr
    )


def test_captions_with_half_a_surrogate_pair_are_shown_and_exported(lt, tmp_path):
    members = [("0.png", Sample("0", {"png": picture()}).encoded("png")), ("0.json", b'{"caption": "a cat \\ud83d"}')]
    foreign(tmp_path / "a.tar", members)
    assert "a cat \ufffd" in lt("shards", "ls", tmp_path / "a.tar").stdout
    assert json.loads(lt("shards", "show", tmp_path / "a.tar", "0", "--json").stdout)["json"] == {
        "caption": "a cat \ufffd"
    }
    lt("shards", "export", tmp_path / "a.tar", "--format", "coco", "--out", tmp_path / "out")
    assert "a cat \ufffd" in (tmp_path / "out/annotations/captions.json").read_text()
    assert "invalid-unicode" in lt("shards", "verify", tmp_path / "a.tar", code=1).stdout


def test_jpeg_is_a_name_of_pictures(lt, tmp_path):
    foreign(tmp_path / "a.tar", [("0.jpeg", Sample("0", {"jpg": picture()}).encoded("jpg")), ("0.txt", b"a cat")])
    (sample,) = open_shards(tmp_path / "a.tar")
    assert (sample.picture_field, sample.picture.shape) == ("jpeg", (6, 8, 3))
    lt("shards", "verify", tmp_path / "a.tar")
    lt("shards", "page", tmp_path / "a.tar", "--out", tmp_path / "page")


def test_what_resharding_drops_is_told(lt, tmp_path):
    foreign(tmp_path / "a.tar", [("ünï.txt", b"1"), ("b.x y", b"2")])
    told = lt("shards", "reshard", tmp_path / "a.tar", "--samples", 5, "--out", tmp_path / "out")
    assert "1 sample in 1 shard" in told.stderr and "Rejected: 1 bad-field." in told.stderr
    assert next(iter(open_shards(tmp_path / "out")))["key.txt"] == "ünï"
