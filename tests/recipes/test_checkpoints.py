"""Checkpoints are whole or not there, hold no pickle, and refuse what does not belong together."""

import json
import shutil

import pytest
import safetensors.torch
import torch
import toy
from torch import nn

from lt.datagen.shards.errors import LtError
from lt.recipes import registry
from lt.recipes.config import TrainSettings, flat, resolve
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.estimate import counted
from lt.recipes.training.objective import Objective
from lt.recipes.training.optim import Lamb
from lt.recipes.training.parallel import place

SETTINGS = resolve(toy.ToySettings).settings


def record(step: int, **values) -> Record:
    base = {"system": "toy", "preset": "tiny", "settings": flat(SETTINGS), "data": "d" * 64, "samples": 9}
    return Record.model_validate({**base, "step": step, **values})


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_written_whole_and_read_back(tmp_path):
    tensors = {"model": {"net.w": torch.arange(6.0).view(2, 3), "net.n": torch.tensor(7)}}
    path = checkpoints.save(tmp_path, record(5, score=0.5, losses={"": [1.0, 2.0]}), tensors)
    assert names(path) == ["checkpoint.json", "model.safetensors"]
    read = Record.load(path)
    assert (read.step, read.score, read.losses, read.settings["train.batch"]) == (5, 0.5, {"": [1.0, 2.0]}, 128)
    back = checkpoints.read_tensors(path, read, "model")
    assert back["net.n"].item() == 7 and torch.equal(back["net.w"], tensors["model"]["net.w"])


@pytest.mark.parametrize("failing", ["save_file", "write_json", "digest_of_file"])
def test_a_full_disk_leaves_nothing_that_looks_finished(tmp_path, monkeypatch, failing):
    checkpoints.save(tmp_path, record(1), {"model": {"w": torch.ones(2)}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, failing, full)
    with pytest.raises(LtError, match=r"No space left .*Free some space"):
        checkpoints.save(tmp_path, record(2), {"model": {"w": torch.ones(2)}})
    assert names(tmp_path) == ["step-00000001"]


def test_unfinished_folders_are_not_seen_and_swept(tmp_path):
    whole = checkpoints.save(tmp_path, record(20), {"model": {"w": torch.ones(2)}})
    shutil.copytree(whole, tmp_path / "step-00000030.tmp-abc")
    (tmp_path / "step-00000040").mkdir()
    (tmp_path / "notes").mkdir()
    assert checkpoints.latest(tmp_path) == whole
    checkpoints.sweep(tmp_path)
    assert names(tmp_path) == ["notes", "step-00000020", "step-00000040"]
    assert checkpoints.latest(tmp_path / "nowhere") is None


def test_rotation_keeps_the_newest_and_the_best(tmp_path):
    for step, score in ((1, None), (2, 0.9), (3, 0.1), (4, None), (100_000_000, 0.2)):
        checkpoints.save(tmp_path, record(step, score=score), {})
    checkpoints.rotate(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002", "step-00000004", "step-100000000"]
    assert checkpoints.latest(tmp_path) == tmp_path / "step-100000000"
    assert checkpoints.best(tmp_path) == tmp_path / "step-00000002"


def test_damage_is_noticed(tmp_path):
    path = checkpoints.save(tmp_path, record(1), {"model": {"w": torch.ones(64)}})
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    with pytest.raises(LtError, match=r"model.safetensors is damaged.*Remove this checkpoint"):
        checkpoints.read_tensors(path, Record.load(path), "model")
    with pytest.raises(LtError, match=r"has no ema.safetensors"):
        checkpoints.read_tensors(path, Record.load(path), "ema")
    (path / "checkpoint.json").write_text(json.dumps({"step": "many"}))
    with pytest.raises(LtError, match="is damaged: system: Field required"):
        Record.load(path)
    with pytest.raises(LtError, match="is no checkpoint"):
        Record.load(tmp_path)


def test_what_does_not_belong_together_is_refused_by_name(tmp_path):
    checkpoints.check(record(3), "toy", SETTINGS, "d" * 64, tmp_path)
    with pytest.raises(LtError, match="is a checkpoint of toy, not of filip"):
        checkpoints.check(record(3), "filip", SETTINGS, "d" * 64, tmp_path)
    other = resolve(toy.ToySettings, None, ["train.lr=0.5", "model.width=8", "data.workers=9"]).settings
    with pytest.raises(
        LtError, match=r"other settings: train.lr: 0.001 there, 0.5 here; model.width: 16 there, 8 here\."
    ):
        checkpoints.check(record(3), "toy", other, "d" * 64, tmp_path)
    with pytest.raises(LtError, match=r"other data \(9 samples, digest dddddddddddd, now eeeeeeeeeeee\)"):
        checkpoints.check(record(3), "toy", SETTINGS, "e" * 64, tmp_path)
    with pytest.raises(LtError, match="newer lt"):
        Record.load(checkpoints.save(tmp_path, record(3, schema_version=99), {}))
    with pytest.raises(LtError, match=r"written by an older lt\. .*Train again"):
        Record.load(checkpoints.save(tmp_path, record(4, schema_version=1), {}))


class Tied(Objective):
    """Two layers that share a weight, a frozen one, and one stored in another memory layout."""

    def __init__(self):
        first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        second.weight = first.weight
        self.modules = {"a": first, "b": second, "c": nn.Conv2d(2, 3, 2).to(memory_format=torch.channels_last)}


def test_shared_weights_are_stored_once_and_loaded_into_both(tmp_path):
    one, other = Tied(), Tied()
    weights = checkpoints.weights_of(one)
    assert list(weights) == ["a.weight", "c.weight", "c.bias"]
    safetensors.torch.save_file(checkpoints.gathered(weights), tmp_path / "w.safetensors")
    stored = safetensors.torch.load_file(tmp_path / "w.safetensors")
    checkpoints.load_weights(other, stored, tmp_path)
    assert torch.equal(other.modules["b"].weight, one.modules["a"].weight)
    assert torch.equal(other.modules["c"].weight, one.modules["c"].weight)


def test_weights_of_another_shape_or_name_are_refused(tmp_path):
    stored = {name: tensor.detach().clone() for name, tensor in checkpoints.weights_of(Tied()).items()}
    with pytest.raises(LtError, match=r"lacks a.weight"):
        checkpoints.load_weights(Tied(), {k: v for k, v in stored.items() if k != "a.weight"}, tmp_path)
    with pytest.raises(LtError, match=r"has, unknown here, d.weight"):
        checkpoints.load_weights(Tied(), {**stored, "d.weight": torch.ones(1)}, tmp_path)
    with pytest.raises(LtError, match=r"has in another shape c.bias"):
        checkpoints.load_weights(Tied(), {**stored, "c.bias": torch.ones(1)}, tmp_path)


class Adapted(Objective):
    """A frozen layer, and a small one beside it that is trained and stored."""

    def __init__(self, base: nn.Linear, digest: str):
        base.register_module("adapter", nn.Linear(3, 3))
        self.modules, self.frozen, self.built_on = {"adapter": base.adapter}, {"base": base}, {"model.base": digest}


def test_what_is_frozen_is_named_and_compared_not_stored(tmp_path):
    one = Adapted(nn.Linear(3, 3), "a" * 64)
    place(one, torch.device("cpu"))
    assert [p.requires_grad for p in one.frozen["base"].parameters()] == [False, False, True, True], "but the adapter"
    sizes = [(size.name, size.parameters, size.trained) for size in counted(one, TrainSettings(), 1).sizes]
    assert sizes == [("adapter", 12, 12), ("base", 24, 0)]
    stored = checkpoints.gathered(checkpoints.weights_of(one))
    assert list(stored) == ["adapter.weight", "adapter.bias"]
    settings = {**flat(SETTINGS), "model.base": "runs/base"}
    path = checkpoints.save(tmp_path, record(1, settings=settings, built_on=one.built_on), {"model": stored})
    checkpoints.load_model(same := Adapted(nn.Linear(3, 3), "a" * 64), path, Record.load(path))
    assert torch.equal(same.modules["adapter"].weight, stored["adapter.weight"])
    with pytest.raises(
        LtError, match=r"another model\.base than is there now: runs/base had the digest aaaaaaaaaaaa, now b"
    ):
        checkpoints.load_model(Adapted(nn.Linear(3, 3), "b" * 64), path, Record.load(path))


@pytest.mark.parametrize("kind", [torch.optim.AdamW, Lamb])
def test_an_optimizer_goes_on_where_it_was_stored(kind):
    def trained(steps, stored=None):
        torch.manual_seed(0)
        objective = Tied()
        weights = checkpoints.weights_of(objective)
        optimizer = kind(objective.parameter_groups(0.1), lr=0.1)
        if stored:
            checkpoints.load_weights(objective, stored[0], "x")
            checkpoints.load_optimizer(optimizer, weights, stored[1])
        for step in steps:
            for number, weight in enumerate(weights.values()):
                weight.grad = torch.cos(torch.arange(weight.numel()) + step + number).view(weight.shape)
            optimizer.step()
        return checkpoints.gathered(weights), checkpoints.optimizer_tensors(optimizer, weights)

    straight, broken = trained(range(6)), trained(range(3, 6), trained(range(3)))
    for one, other in zip(straight, broken, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    toy.run(shards, out, "train.ema=0.9", "data.validation_samples=40")
    return out


def test_restore_takes_the_average_or_the_weights(trained):
    averaged, found = checkpoints.restore(trained)
    plain, _ = checkpoints.restore(checkpoints.latest(trained / "checkpoints"), "model")
    newest = checkpoints.latest(trained / "checkpoints")
    assert found.system == "toy" and not averaged.modules["net"].training
    stored = checkpoints.read_tensors(newest, Record.load(newest), "model")
    assert torch.equal(plain.modules["net"].first.weight, stored["net.first.weight"])
    assert not torch.equal(averaged.modules["net"].first.weight, plain.modules["net"].first.weight)
    assert averaged.modules["net"].seen == plain.modules["net"].seen == 30, "buffers are not averaged"


def test_a_checkpoint_tells_everything_about_itself(trained, shards):
    found = Record.load(checkpoints.latest(trained / "checkpoints"))
    assert found.card == (toy.RECIPE.folder / "tiny.yaml").read_text()
    assert found.settings["train.lr"] == 0.01 and found.settings["model.width"] == 16
    assert {"python", "torch", "accelerate", "lt-toolkit"} <= found.versions.keys()
    assert found.samples == 200 and len(found.data) == 64
    assert found.metrics["accuracy"] > 0.5 and found.score == -found.metrics["loss"]
    assert not [path for path in trained.rglob("*") if path.suffix in (".pt", ".pth", ".pkl", ".bin")]


def test_export_is_the_objectives_business(trained, tmp_path):
    with pytest.raises(LtError, match="Toy has no export format"):
        checkpoints.export(trained, tmp_path)
    assert "toy" in registry.SYSTEMS
