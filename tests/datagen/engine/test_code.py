"""What a step's code is changes with what decides its samples, and with nothing else."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import lt.datagen.sources
import lt.datagen.stages
import lt.recipes.diffusion.cache
import lt.recipes.draw.prompts
from lt.datagen.engine import code
from lt.datagen.engine.code import behind, code_version
from lt.datagen.sources.figures import FiguresSource
from lt.datagen.sources.openmoji import OpenMojiSource
from lt.datagen.sources.scenes import ScenesSource
from lt.datagen.stages.background import CompleteBackground
from lt.datagen.stages.masks import MakeMasks
from lt.recipes.diffusion.cache import EncodePictures

FILES = {
    "__init__.py": "",
    "registry.py": "from stuff.stage import Stage\nKNOWN = {'stage': Stage}\ndef find(name):\n    return KNOWN[name]\n",
    "stage.py": '''"""A stage."""
import json
from dataclasses import dataclass
from stuff import near
from stuff.base import Base
from stuff.inner import deep

LIMIT = 3

@dataclass
class Stage(Base):
    """What it does."""

    painter: object = None
    side: int = 4

    made_by = ("stuff.told:Told.draw",)
    not_made_by = ("stuff.registry",)

    def process(self, sample: "deep.Kind") -> int:
        from stuff import registry
        registry.find("stage")
        return near.scaled(sample, LIMIT)


class Other:
    def process(self, sample):
        return sample
''',
    "near.py": "from .inner import value\nFACTOR = 2\nFACTOR += 1\ndef scaled(x, y):\n    return x * y * FACTOR + value\n",
    "base.py": "class Base:\n    def rest(self):\n        import stuff.far as far\n        return far.thing()\n",
    "far.py": "TABLE = {}\nTABLE['a'] = 1\ndef thing():\n    return TABLE\ndef unused():\n    return 1\n",
    "told.py": "class Told:\n    def draw(self):\n        return 1\n    def bar(self):\n        return 2\n",
    "painter.py": "from dataclasses import dataclass\n@dataclass\nclass Painter:\n    def paint(self):\n        return 1\n",
    "inner/__init__.py": "from .deep import value\n",
    "inner/deep.py": "value = 1\nother = 2\nclass Kind:\n    pass\n",
}


@pytest.fixture
def stuff(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """The folder of a package `stuff` with a stage in it."""
    for name, text in FILES.items():
        (tmp_path / "stuff" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stuff" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "stuff"
    for name in [name for name in sys.modules if name.partition(".")[0] == "stuff"]:
        del sys.modules[name]
    _forget()


def _forget() -> None:
    for cached in (code._digest, code._parsed, code._file):
        cached.cache_clear()


def version_now() -> str:
    _forget()
    painter = importlib.import_module("stuff.painter").Painter()
    return code_version(importlib.import_module("stuff.stage").Stage(painter))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage.py", "LIMIT = 3", "LIMIT = 4"),
        ("stage.py", "side: int = 4", "side: int = 5"),
        ("stage.py", "side: int = 4", "side: float = 4"),
        ("stage.py", "sample, LIMIT", "LIMIT, sample"),
        ("near.py", "FACTOR = 2", "FACTOR = 5"),
        ("near.py", "FACTOR += 1", "FACTOR += 2"),
        ("base.py", "far.thing()", "1"),
        ("far.py", "TABLE['a'] = 1", "TABLE['a'] = 2"),
        ("told.py", "return 1", "return 3"),
        ("painter.py", "return 1", "return 3"),
        ("inner/deep.py", "value = 1", "value = 2"),
    ],
)
def test_it_changes_with_what_the_step_makes_its_samples_of(stuff, file, old, new):
    before = version_now()
    assert before == version_now() and len(before) == 12
    (stuff / file).write_text(FILES[file].replace(old, new))
    assert version_now() != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("stage.py", '"""A stage."""', '"""The same stage."""'),
        ("stage.py", '"""What it does."""', "# as above"),
        ("stage.py", "side: int = 4\n", 'side: int = 4  # pixels\n    """Of the square."""\n'),
        ("stage.py", "LIMIT = 3", "LIMIT = (\n    3  # three\n)"),
        ("stage.py", ' -> int:', ":"),
        ("stage.py", "        return sample\n", "        return sample[:1]\n"),
        ("stage.py", "import json", "import json\nimport math"),
        ("near.py", "def scaled", "def unused(x):\n    print('|' * x)\n\ndef scaled"),
        ("registry.py", "{'stage': Stage}", "{'stage': Stage, 'other': None}"),
        ("far.py", "def unused():\n    return 1", "def unused():\n    return 2"),
        ("told.py", "return 2", "return 3"),
        ("inner/deep.py", "other = 2", "other = 3"),
        ("inner/deep.py", "pass", "x = 1"),
    ],
)  # fmt: skip
def test_it_does_not_change_with_what_makes_none(stuff, file, old, new):
    before = version_now()
    assert old in FILES[file]
    (stuff / file).write_text(FILES[file].replace(old, new))
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


# --- lt's own steps


def _called_by(work: Callable[[], object]) -> set[code.Definition]:
    """The definitions of lt whose code runs during `work`."""
    found: set[code.Definition] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_qualname
        if event == "call" and module.startswith("lt.") and not name.startswith(("<", "__create_fn__")):
            found.add((module, name.partition(".")[0]))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return {there for there in found if not code._is_left_out(there, ())}


@pytest.mark.parametrize("source", [ScenesSource(3, size=64), FiguresSource(3, size=64), OpenMojiSource(64)])
def test_all_that_runs_when_a_world_draws_is_part_of_its_code(source):
    called = _called_by(lambda: [next(iter(source.read(split))) for split in source.splits()[:1]])
    assert len(called) > 10 and called <= behind([(type(source).__module__, type(source).__name__)])


def test_a_step_stands_on_the_expert_that_it_names_and_on_no_other():
    assert MakeMasks("opencv").made_by == ("lt.models.perception.opencv:GrabCut",)
    versions = {code_version(stage) for stage in (MakeMasks("opencv"), MakeMasks("transformers:some/sam"))}
    assert len(versions) == 2
    assert len({code_version(CompleteBackground(name)) for name in ("opencv:ns", "opencv:telea", "patches")}) == 2


def test_a_latent_stands_on_the_network_that_makes_it_and_not_on_how_it_was_trained():
    found = behind(map(code._definition, (EncodePictures, *EncodePictures.made_by)), EncodePictures.not_made_by)
    assert {
        ("lt.models.nn.autoencoder", "small_autoencoder"),
        ("lt.recipes.vae.objective", "VaeObjective.ready"),
        ("lt.recipes.pictures", "fitted"),
    } <= found
    assert not any(module.startswith(("lt.recipes.training", "lt.recipes.registry")) for module, _ in found)
    assert ("lt.recipes.vae.objective", "VaeObjective") not in found


def _steps() -> Iterator[type]:
    packages = (lt.datagen.sources, lt.datagen.stages, lt.recipes.draw)
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for package in packages
        for info in pkgutil.iter_modules(package.__path__)
    ]
    for module in [*modules, lt.recipes.diffusion.cache]:
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == module.__name__ and getattr(kind, "name", ""):
                yield kind


def test_what_steps_say_of_their_code_is_there():
    steps = list(_steps())
    assert len(steps) >= 20
    for kind in steps:
        assert code._statements(kind.__module__, kind.__name__)
        made_by = getattr(kind, "made_by", ())
        for name in () if isinstance(made_by, property) else made_by:
            assert code._statements(*code._definition(name)), f"{kind.__name__}: there is no {name}"
    for name in (*code._BOOKKEEPING, *code._BUT_FOR):
        assert code._file(name), f"there is no module {name}"
