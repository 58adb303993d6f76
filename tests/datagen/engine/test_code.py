"""The code version changes with the code behind a step, and with no other."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from lt import __version__
from lt.datagen.engine import code
from lt.datagen.engine.code import code_version

FILES = {
    "__init__.py": "",
    "stage.py": "import json\nfrom stuff import near\nfrom stuff.inner import deep\nclass Stage:\n    pass\n",
    "near.py": "def late():\n    from .later import thing\n",
    "later.py": "thing = 1\n",
    "other.py": "unused = 1\n",
    "inner/__init__.py": "from .deep import value\n",
    "inner/deep.py": "value = 1\n",
}


@pytest.fixture
def stuff(tmp_path: Path, monkeypatch):
    """The folder of a package `stuff` with a stage in it."""
    for name, text in FILES.items():
        (tmp_path / "stuff" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stuff" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "stuff"
    for name in [name for name in sys.modules if name.partition(".")[0] == "stuff"]:
        del sys.modules[name]


def version_now() -> str:
    for cached in (code._version_of, code._imports, code._file):
        cached.cache_clear()
    importlib.invalidate_caches()
    return code_version(importlib.import_module("stuff.stage").Stage())


def test_it_covers_what_the_module_imports_of_its_package(stuff):
    version_now()
    assert code._behind("stuff.stage") == {
        "stuff", "stuff.stage", "stuff.near", "stuff.later", "stuff.inner", "stuff.inner.deep"
    }  # fmt: skip


@pytest.mark.parametrize("changed", ["stage.py", "near.py", "later.py", "inner/__init__.py", "inner/deep.py"])
def test_it_changes_with_any_of_these(stuff, changed):
    before = version_now()
    assert before == version_now() and before.startswith(f"{__version__}+")
    (stuff / changed).write_text(FILES[changed] + "# another word\n")
    assert version_now() != before


def test_it_does_not_change_with_others(stuff):
    before = version_now()
    (stuff / "other.py").write_text("unused = 2\n")
    assert version_now() == before


def test_a_script_has_the_same_version_in_its_worker_processes(tmp_path: Path):
    """A stage defined in the script itself is `__main__.Stage` here and `__mp_main__.Stage` there."""
    (tmp_path / "script.py").write_text(
        "from multiprocessing import get_context\n"
        "from lt.datagen.engine.code import code_version\n"
        "class Stage:\n    pass\n"
        "def version():\n    return code_version(Stage())\n"
        "if __name__ == '__main__':\n"
        "    with get_context('spawn').Pool(1) as pool:\n"
        "        assert pool.apply(version) == version(), (pool.apply(version), version())\n"
    )
    subprocess.run([sys.executable, tmp_path / "script.py"], check=True)


def test_lts_own_sources_stand_on_their_helpers_but_not_on_shards_and_engine():
    behind = code._behind("lt.datagen.sources.scenes")
    assert "lt.datagen.sources.grammar" in behind
    assert not any(name.startswith(("lt.datagen.shards", "lt.datagen.engine")) for name in behind)
