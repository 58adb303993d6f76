"""The main job through the real `lt` command, as a new user would run it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

LT = Path(sys.executable).with_name("lt")


def lt(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "LT_HOME": str(cwd / "home"), "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([LT, *arguments], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == code, f"lt {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def layered(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    report = json.loads(lt("datagen", "layers", "--src", "photos", "--limit", "3", "--json", cwd=root).stdout)
    assert report["count"] + sum(report["rejected"].values()) == 3 and report["count"] >= 2
    return root


@pytest.mark.slow
def test_photographs_become_layers_that_verify(layered):
    findings = json.loads(lt("shards", "verify", "data/layers-photos", "--json", cwd=layered).stdout)
    assert findings["findings"] == []
    info = json.loads(lt("shards", "info", "data/layers-photos", "--json", cwd=layered).stdout)
    assert info["complete"] is True
    assert {"jpg", "background.png", "layer-00.png", "json"} <= {field["name"] for field in info["fields"]}


@pytest.mark.slow
def test_the_same_command_again_has_nothing_to_do(layered):
    again = lt("datagen", "layers", "--src", "photos", "--limit", "3", cwd=layered)
    assert "Nothing to do" in again.stderr


@pytest.mark.slow
def test_other_settings_into_the_same_folder_are_refused_by_name(layered):
    refused = lt("datagen", "layers", "--src", "photos", "--limit", "3", "--set", "max_layers=1", cwd=layered, code=1)
    assert "max_layers" in refused.stderr and "4 -> 1" in refused.stderr


@pytest.mark.slow
def test_layers_open_in_other_programs_and_on_a_page(layered):
    lt("shards", "export", "data/layers-photos", "--format", "ora", "--out", "ora", "--limit", "1", cwd=layered)
    [drawing] = (layered / "ora").iterdir()
    assert zipfile.ZipFile(drawing).read("mimetype") == b"image/openraster"
    lt("shards", "page", "data/layers-photos", "--out", "page", cwd=layered)
    assert (layered / "page/index.html").is_file()


@pytest.mark.slow
def test_why_tells_the_chain_of_stages(layered):
    key = json.loads(lt("shards", "ls", "data/layers-photos", "--json", cwd=layered).stdout)[0]["key"]
    chain = lt("shards", "why", "data/layers-photos", key, cwd=layered).stdout
    for stage in ("choose-entities", "matte-layers", "complete-background"):
        assert stage in chain


@pytest.mark.slow
def test_worlds_feed_each_other(tmp_path):
    lt("datagen", "scenes", "--count", "6", "--size", "64", cwd=tmp_path)
    lt("shards", "verify", "data/scenes-train", cwd=tmp_path)
    lt("datagen", "figures", "--count", "3", "--size", "64", cwd=tmp_path)
    lt("shards", "verify", "data/figures-train", cwd=tmp_path)
    lt("shards", "reshard", "data/scenes-train", "--out", "data/small", "--samples", "2", cwd=tmp_path)
    assert len(list((tmp_path / "data/small").glob("*.tar"))) == 3
