"""Settings: defaults, cards, overrides; every mistake is named with what is nearest."""

from pathlib import Path

import pytest
import toy

from lt.datagen.shards.errors import LtError, UsageError
from lt.recipes import registry
from lt.recipes.config import CARD_HEADER, Card, differences, fields_of, flat, read_card, resolve, show
from lt.recipes.training.plan import make_plan, missing_first

CARD = Card("mine", "", {"train": {"lr": "3e-4", "betas": [0.8, 0.9]}, "model": {"width": 4}})


def test_defaults_then_card_then_overrides():
    resolved = resolve(toy.ToySettings, CARD, ["model.width=6", "data.train=[a, b]", "train.clip=2"])
    settings = resolved.settings
    assert (settings.train.lr, settings.train.betas, settings.model.width) == (3e-4, (0.8, 0.9), 6)
    assert (settings.data.train, settings.train.clip, settings.train.batch) == (["a", "b"], 2.0, 128)
    origin = {key: who for key, _, who, _ in show(resolved)}
    assert (origin["train.lr"], origin["model.width"], origin["train.batch"]) == ("card mine", "--set", "default")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate=1", "Unknown setting 'train.learning_rate' (from --set). Did you mean train."),
        ("train.bacth=1", "Did you mean train.batch?"),
        ("lr=1", "Did you mean train.lr?"),
        ("model.wdth=1", "Did you mean model.width?"),
        ("zzz=1", "Known: data.train, "),
        ("train.lr=-1", "Setting train.lr = -1 (from --set): Input should be greater than 0."),
        ("train.lr=fast", "Setting train.lr = 'fast' (from --set): Input should be a valid number"),
        ("train.optimizer=sgd", "Input should be 'adamw' or 'lamb'"),
        ("train.betas=[0.5]", "Setting train.betas.1 = [0.5] (from --set): Field required"),
        ("train.betas=[0.9,1.5]", "Setting train.betas.1 = 1.5 (from --set): Input should be less than 1."),
        ("train.lr", "--set train.lr: want KEY=VALUE."),
        ("model=3", "Did you mean model.width?"),
        ("train.lr=[1", "--set train.lr=[1: the value is not valid YAML"),
    ],
)
def test_mistakes_name_the_key_and_the_nearest(override, message):
    with pytest.raises(UsageError) as caught:
        resolve(toy.ToySettings, CARD, [override])
    assert message in str(caught.value)


def test_a_wrong_card_is_named(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("train:\n  stepz: 3\n")
    with pytest.raises(UsageError, match=r"'train.stepz' \(from card own\). Did you mean train.steps\?"):
        resolve(toy.ToySettings, read_card(path))
    for text, message in (("a: [", "not valid YAML"), ("- 1", "holds a list")):
        path.write_text(text)
        with pytest.raises(LtError, match=message):
            read_card(path)
    with pytest.raises(LtError, match="No such file"):
        read_card(tmp_path / "none.yaml")


def test_every_setting_has_one_line_of_documentation():
    for key, info in fields_of(toy.ToySettings).items():
        assert info.description and len(info.description.split()) > 1, key


def test_differences_that_forbid_to_go_on():
    before = flat(resolve(toy.ToySettings, CARD).settings)
    now = flat(
        resolve(toy.ToySettings, CARD, ["train.lr=1", "data.workers=7", "train.micro=3", "log.every=1"]).settings
    )
    assert differences(toy.ToySettings, before, now) == ["train.lr: 0.0003 there, 1.0 here"]
    del before["train.clip"]  # written by an lt that did not know it: it had the default
    before["train.lr"], before["train.magic"] = 1.0, 5
    assert differences(toy.ToySettings, before, now) == ["train.magic: unknown here"]


def test_presets_are_chosen_and_explained(tmp_path):
    plan = make_plan(toy.RECIPE)
    assert (plan.preset, plan.out) == ("tiny", Path("runs/toy-tiny"))
    assert plan.settings.train.batch == 24
    assert make_plan(toy.RECIPE, "paper").why == "as asked"
    with pytest.raises(UsageError, match=r"no preset 'papre'. Did you mean paper"):
        make_plan(toy.RECIPE, "papre")
    with pytest.raises(UsageError, match="either --preset or --card"):
        make_plan(toy.RECIPE, "tiny", toy.RECIPE.folder / "paper.yaml")
    with pytest.raises(UsageError, match="No system 'filp'"):
        registry.find_recipe("filp")


@pytest.mark.parametrize("name", sorted(registry.systems_with("recipe")))
def test_shipped_cards_fit_and_say_what_to_expect(name):
    recipe = registry.find_recipe(name)
    assert "tiny" in recipe.presets
    for preset in recipe.presets:
        card = read_card(recipe.folder / f"{preset}.yaml")
        resolve(recipe.settings, card)
        assert all(card.header.get(line) for line in CARD_HEADER), f"{name}/{preset}: the header wants {CARD_HEADER}"
        assert card.text.startswith("# command: lt train ")
    for key, info in fields_of(recipe.settings).items():
        assert info.description, f"{name}: {key} has no documentation"


def test_a_card_says_what_differs_from_the_one_it_is_like(tmp_path):
    (tmp_path / "first.yaml").write_text("train: {steps: 7, lr: 0.1}\nmodel: {width: 4}\n")
    (tmp_path / "second.yaml").write_text("like: first\ntrain: {steps: 9}\n")
    settings = resolve(toy.ToySettings, read_card(tmp_path / "second.yaml")).settings
    assert (settings.train.steps, settings.train.lr, settings.model.width) == (9, 0.1, 4)
    (tmp_path / "third.yaml").write_text("like: nothing\n")
    with pytest.raises(LtError, match=r"nothing.yaml: No such file"):
        read_card(tmp_path / "third.yaml")


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("2024", ["2024"]),
        ("[5] a", ["[5] a"]),
        ("a, b", ["a, b"]),
        ("[2024, 'a, b']", ["2024", "a, b"]),
        ("s3://b/c.tar?x=1", ["s3://b/c.tar?x=1"]),
        ("a: b", ["a: b"]),
        ("[here]", ["[here]"]),
        ("[]", []),
    ],
)
def test_texts_are_what_they_are_and_no_numbers_or_broken_yaml(text, paths, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("[here]").mkdir()
    assert resolve(toy.ToySettings, None, [f"data.train={text}"]).settings.data.train == paths
    alone = resolve(toy.ToySettings, None, [f"data.validation={text}"]).settings.data.validation
    assert alone == text


def test_a_batch_that_cannot_teach_is_refused():
    with pytest.raises(UsageError, match=r"A batch of 1 teaches filip nothing.*train.batch=2"):
        make_plan(registry.find_recipe("filip"), "tiny", None, ["train.batch=1"])
    assert make_plan(registry.find_recipe("vae"), "tiny", None, ["train.batch=1"]).settings.train.batch == 1


def test_what_could_not_be_used_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = make_plan(registry.find_recipe("pangu"), "tiny", None, ["data.train=[mine]"])
    with pytest.raises(LtError, match=r"runs/vae-tiny would be of no use.*data.validation"):
        missing_first(plan)
    with_tests = make_plan(registry.find_recipe("pangu"), "tiny", None, ["data.train=[mine]", "data.validation=tests"])
    assert [str(first.out) for first in missing_first(with_tests)] == ["runs/vae-tiny"]


def test_a_run_is_known_by_its_name():
    run = registry.run_named("runs/pangu-tiny-pose")
    assert run and (run.system, run.preset, run.card.header["command"]) == (
        "pangu",
        "tiny-pose",
        "lt train pangu --control pose",
    )
    for name in ("runs/pangu-tinny", "pangu-tiny", "elsewhere/pangu-tiny", "runs/worlds-tiny"):
        assert registry.run_named(name) is None


def test_what_a_run_builds_on_is_trained_first_with_the_settings_that_it_knows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train.init=runs/vae-tiny", "world.train=40", "data.workers=0", "log.every=3", "train.lr=1e-3"]
    (first,) = missing_first(make_plan(registry.find_recipe("filip"), "tiny", None, words))
    assert (first.recipe.name, first.preset, first.out) == ("vae", "tiny", Path("runs/vae-tiny"))
    named = {key: flat(first.settings)[key] for key, who in first.resolved.origin.items() if who == "--set"}
    assert named == {"data.workers": 0, "log.every": 3}
