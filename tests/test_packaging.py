"""The wheel holds exactly the tree, and the folders are never importable as top-level packages."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("cli", "datagen", "models", "recipes")


def tracked(folder: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(listed.stdout.splitlines())


@pytest.mark.slow
def test_wheel_files_equal_the_tree(tmp_path):
    copy = tmp_path / "tree"
    for name in ["pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE", *tracked("lt")]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    wanted = {name for folder in FOLDERS for name in tracked(folder)}
    for name in wanted:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-c", f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"]
    wheel = tmp_path / subprocess.run(build, cwd=copy, capture_output=True, text=True, check=True).stdout.split()[-1]
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == {f"lt/{name}" for name in wanted} | tracked("lt")


def test_folders_are_importable_only_below_lt(tmp_path):
    code = (
        "import sys, importlib.util as u, lt.cli.app, lt.datagen.shards\n"
        f"assert not [n for n in {FOLDERS!r} if n in sys.modules or u.find_spec(n)]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_no_file_names_a_registry_host_or_a_path_of_one_machine():
    hosts = "|".join(["py" + r"pi\.org", "pythonhosted" + r"\.org", "deb" + r"ian\.org", "npm" + r"js\.org"])
    paths = "(^|[^A-Za-z0-9_.-])/(wo" + "rk|ro" + "ot)/"
    found = subprocess.run(["git", "grep", "-nIE", f"{hosts}|{paths}"], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == ""
