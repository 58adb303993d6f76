"""The weights that come with the package: small, whole, and as good as their records say."""

from pathlib import Path

import pytest

from lt.datagen.shards import LtError
from lt.recipes import shipped
from lt.recipes.config import differences, flat, read_card, resolve
from lt.recipes.contrastive.measures import retrieval, run_through
from lt.recipes.contrastive.objective import ContrastiveEncoder
from lt.recipes.registry import SYSTEMS, find_recipe
from lt.recipes.ship import LIMIT, shipping
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.worlds import scenes

SHIPPING = [system for system in SYSTEMS if shipped.shipped_runs(system)]


@pytest.mark.parametrize("system", SHIPPING)
def test_a_system_ships_all_its_runs_within_the_limit(system):
    folder = shipped.weights_folder(system)
    assert {path.name for path in folder.iterdir()} == {
        name for name, run in shipping().items() if run.system == system
    }
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= LIMIT
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 8 * 2**20, "with records and logs"


@pytest.mark.parametrize("name", sorted(shipped.present()))
def test_a_shipped_run_is_whole_and_says_how_it_was_made(name):
    folder = shipped.located(name)
    record = Record.load(folder)
    assert record.card and record.data and record.metrics and (folder / "log.jsonl").stat().st_size
    assert record.step == record.settings["train.steps"]
    checkpoints.read_tensors(folder, record, "model")  # the digest is checked here
    recipe = find_recipe(record.system)
    card = resolve(recipe.settings, read_card(recipe.folder / f"{record.preset}.yaml")).settings
    made_with = {key: _as_named(value) for key, value in record.settings.items()}
    assert differences(recipe.settings, made_with, flat(card)) == [], "`make weights` would make others"


def _as_named(value):
    if not isinstance(value, str) or not value.startswith(shipped.SCHEME):
        return value
    return str(shipping()[value.removeprefix(shipped.SCHEME)].out)


def test_shipped_filip_retrieves_what_it_never_saw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = ContrastiveEncoder.load(Path("lt:filip-tiny"))
    found = retrieval(run_through(encoder.objective, str(scenes("test", 50, 64, lambda line: None))))
    assert found["r1"].value > 80, "among 50 pictures; chance is 2 %"


def test_filip_and_wukong_ship():
    assert {"filip", "wukong", "vae", "pangu"} <= set(SHIPPING)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(LtError, match="No weights named lt:nothing come with lt") as caught:
        shipped.located("lt:nothing")
    assert "lt:filip-tiny" in (caught.value.hint or "")
    assert shipped.or_shipped("runs/filip-tiny") == "lt:filip-tiny"
