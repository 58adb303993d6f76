"""FILIP and Wukong from `lt train` to metrics, pictures and exports, as a person uses them, on a world of a few scenes."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lt.cli import app
from lt.datagen.shards import LtError, Sample, ShardWriter
from lt.datagen.shards.codec import decode_image
from lt.models.filip import CLIP, Filip
from lt.models.nn.tokenizers import WordTokenizer
from lt.recipes import registry
from lt.recipes.config import read_card, resolve
from lt.recipes.contrastive.export import clip_names, write_clip
from lt.recipes.contrastive.objective import ContrastiveEncoder
from lt.recipes.contrastive.pretrained import load_image_tower
from lt.recipes.filip.objective import FilipSettings
from lt.recipes.training import checkpoints
from lt.recipes.training.logging import read_log
from lt.recipes.training.optim import make_optimizer

SMALL = ["world.train=48", "world.test=32", "data.workers=0", "train.batch=16", "log.tensorboard=false"]


def settings(*more: str) -> list[str]:
    return [word for text in (*SMALL, *more) for word in ("--set", text)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("contrastive")


@pytest.fixture
def lt(folder, monkeypatch, capsys):
    """A command inside this process: words in; code, stdout and stderr out."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder)
        monkeypatch.setenv("LT_HOME", str(folder / "home"))
        monkeypatch.setattr(sys, "argv", ["lt", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.fixture
def filip(lt, folder) -> Path:
    """A run of two steps."""
    code, _, told = lt("train", "filip", "--steps", "2", *settings())
    assert code == 0, told
    return folder / "runs" / "filip-tiny"


def test_training_builds_the_world_and_ends_with_retrieval_localisation_and_pictures(lt, folder):
    code, _, told = lt("train", "filip", "--steps", "2", *settings())
    assert code == 0, told
    assert "makes data/scenes-train-64px-48: 48 samples of the built-in world scenes" in told
    assert "image_r1" in told and "found" in told
    run = folder / "runs" / "filip-tiny"
    picture = decode_image((run / "pictures" / "step-00000002-alignment.png").read_bytes())
    assert picture.shape[0] > 600 and picture.shape[1] > 1000
    (metrics,) = read_log(run, "validation")
    assert 0 <= metrics["found"] <= 100 and 2 < metrics["found_chance"] < 30
    code, _, told = lt("train", "filip", "--steps", "2", *settings())
    assert code == 0 and "Nothing to do" in told


def test_wukong_trains_in_chinese_on_the_same_world(lt, filip, folder):
    code, _, told = lt("train", "wukong", "--steps", "2", *settings())
    assert code == 0 and "makes data" not in told, told
    assert checkpoints.restore(folder / "runs" / "wukong-tiny")[0].tokenizer.pieces("两只熊猫")[1:3] == ["两", "只"]


def test_a_locked_tower_keeps_the_weights_it_is_given(lt, filip, folder):
    words = ["train", "wukong", "--out", "runs/locked", "--steps", "2", *settings("model.locked=true")]
    code, _, told = lt(*words)
    assert code == 1 and "no weights to keep" in told
    code, _, told = lt(*words, "--set", f"model.image_weights={filip}")
    assert code == 0, told
    before, after = (checkpoints.restore(run)[0].model for run in (filip, folder / "runs" / "locked"))
    for one, other in zip(before.image_tower.parameters(), after.image_tower.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(before.image_projection.weight, after.image_projection.weight)


def test_retrieval_as_json_names_data_and_model_and_caches_features(lt, filip):
    words = ["eval", "retrieval", "--checkpoint", str(filip), "--data", "data/scenes-test-64px-32", "--json"]
    code, shown, told = lt(*words)
    assert code == 0, told
    result = json.loads(shown)
    assert result["protocol"]["pictures"] == 32 and result["protocol"]["captions"] == 96
    assert set(result["metrics"]) == {f"{side}_r{k}" for side in ("image", "text") for k in (1, 5, 10)} | {
        "mean_recall"
    }
    low, value, high = (result["metrics"]["mean_recall"][name] for name in ("low", "value", "high"))
    assert 0 <= low <= value <= high <= 100
    assert len(result["data"]["digest"]) == len(result["model"]["digest"]) == 64
    code, again, told = lt(*words)
    assert "from the cache" in told and json.loads(again)["metrics"] == result["metrics"]
    assert "from the cache" not in lt(*words[:-1], "--no-cache")[2]
    code, shown, told = lt(*words, "--prompt", "three of {}")
    prompted = json.loads(shown)
    assert prompted["protocol"] == {**result["protocol"], "prompt": "three of {}"}
    assert prompted["metrics"] != result["metrics"]
    assert lt(*words, "--prompt", "three of")[0] == 2


def test_zero_shot_with_own_classes_and_prompts(lt, filip, folder):
    words = ["eval", "zero-shot", "--checkpoint", str(filip), "--data", "data/scenes-test-64px-32", "--json"]
    code, shown, told = lt(*words)
    assert code == 0, told
    result = json.loads(shown)
    classes, counted = result["protocol"]["classes"], result["protocol"]["pictures"]
    assert counted + result["passed_over"]["not-one-label"] == 32 and classes >= 2
    assert result["protocol"]["chance"] == pytest.approx(100 / classes)
    (folder / "prompts.txt").write_text("{}\na big {}\n")
    code, shown, _ = lt(*words, "--prompts", "prompts.txt", "--rule", "votes")
    assert json.loads(shown)["protocol"]["prompts"] == ["{}", "a big {}"]
    (folder / "classes.txt").write_text("shark\n")
    code, _, told = lt(*words, "--classes", "classes.txt")
    assert code == 1 and "no classes" in told
    assert lt(*words, "--rule", "vote")[0] == 2


def test_alignment_pictures_by_caption_and_by_prompt(lt, filip, folder):
    words = ["sample", "filip", "--align", "--data", "data/scenes-test-64px-32", "--count", "2"]
    code, shown, told = lt(*words)
    assert code == 0 and shown.strip() == "samples/filip/alignment.png", told
    written = json.loads((folder / "samples" / "filip" / "alignment.json").read_text())
    assert written["samples"] == 32 and written["things"] > 32 and 0 <= written["found"]["value"] <= 100
    best = np.array(written["samples_drawn"][0]["best"])
    assert best.shape == (8, 8) and best.max() < len(written["samples_drawn"][0]["words"])
    code, shown, _ = lt(*words, "--prompt", "a photo of a fox", "--label", "fox", "--out", "fox", "--json")
    assert code == 0 and json.loads(shown)["found"] is None
    assert {path.suffix for path in (folder / "fox").iterdir()} == {".png", ".json"}
    assert lt(*words, "--prompt", "a photo of a fox", "--label", "koala")[0] == 2


def test_a_prompt_needs_no_captions_and_what_cannot_be_used_or_read_is_said(lt, filip, folder):
    with ShardWriter(folder / "bare" / "shard-000000.tar", durable=False) as writer:
        writer.write(Sample("a", {"png": np.zeros((64, 64, 3), np.uint8)}))
        writer.write(Sample("b", {"png": b"no picture"}))
    words = ["sample", "filip", "--align", "--data", "bare", "--out", "bared"]
    code, _, told = lt(*words)
    assert code == 1 and "No sample of bare could be used: 2 no-caption (first: a" in " ".join(told.split())
    code, _, told = lt(*words, "--prompt", "a turquoise fox")
    assert code == 0 and "1 undecodable-image (first: b)" in told, told
    assert "33.3 % of the words are unknown to the model: turquoise" in told


def test_without_a_run_the_command_says_how_to_get_one(lt):
    code, _, told = lt("sample", "wukong", "--checkpoint", "runs/none")
    assert code == 1 and "lt train wukong" in told


def test_micro_batches_give_the_gradient_of_the_whole_batch(filip, folder):
    run = ContrastiveEncoder.load(filip).objective
    whole = _gradients(run, 16, folder)
    parts = _gradients(run, 4, folder)
    assert whole.keys() == parts.keys() and "scale.logit_scale" in whole
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-3, atol=1e-6), name


def _gradients(objective, micro: int, folder: Path) -> dict[str, torch.Tensor]:
    from lt.recipes.training.loader import Examples
    from lt.recipes.training.order import Order
    from lt.recipes.training.shards import ShardSet

    shards = ShardSet([str(folder / "data" / "scenes-train-64px-48")])
    examples = Examples(shards, Order(shards.sizes, seed=1, window=48), objective.example())
    parts = [examples.fetch(range(first, first + micro)) for first in range(0, 16, micro)]

    class Direct:
        def __call__(self, method, *values):
            return getattr(objective, method)(*values)

        def no_sync(self):
            from contextlib import nullcontext

            return nullcontext()

    objective.model.zero_grad()
    objective.step(parts, Direct())
    return {name: p.grad.clone() for name, p in objective.model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("head", ["global", "tokens"])
def test_the_exported_folder_is_a_transformers_clip_and_onnx_towers_are_equal(head, tmp_path, monkeypatch):
    from transformers import CLIPModel

    torch.manual_seed(0)
    card = ["model.size=tiny", f"model.head={head}", "text.length=16"]
    objective = registry.find_recipe("filip").objective(resolve(FilipSettings, None, card).settings)
    objective.export(tmp_path)  # raises where an ONNX tower differs
    clip = CLIPModel.from_pretrained(tmp_path).eval()
    pixels = torch.randn(2, 3, 64, 64)
    ids, mask = objective.tokenizer(["a fox to the left of a banana", "two red apples"])
    with torch.no_grad():
        hidden = clip.vision_model(pixels).last_hidden_state
        theirs = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
        words = clip.text_projection(clip.text_model(ids, attention_mask=mask.long()).last_hidden_state)
        pooled, patches = objective.model.run_image_tower(pixels)
        assert torch.allclose(theirs[:, 1:], objective.model.image_projection(patches), atol=1e-5)
        assert torch.allclose(theirs[:, 0], objective.model.image_projection(pooled), atol=1e-5)
        ours = objective.model.text_projection(objective.model.text_tower(ids))
        assert torch.allclose(words[mask], ours[mask], atol=1e-5)
    assert (tmp_path / "vocab.txt").read_text(encoding="utf-8").split("\n")[:2] == ["<pad>", "<unknown>"]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_an_exported_clip_has_the_activation_of_its_model(activation, tmp_path):
    from transformers import CLIPModel

    torch.manual_seed(0)
    vision, text = (replace(tower, activation=activation) for tower in (CLIP["tiny"].vision, CLIP["tiny"].text))
    model = Filip(replace(CLIP["tiny"], vision=vision, text=text, colder=10.0)).eval()
    write_clip(model, WordTokenizer(["a", "fox"], text.length), tmp_path)
    clip = CLIPModel.from_pretrained(tmp_path).eval()
    pixels, ids = torch.randn(2, 3, 64, 64), torch.randint(4, 500, (2, text.length))
    with torch.no_grad():
        assert torch.allclose(clip.vision_model(pixels).pooler_output, model.run_image_tower(pixels)[0], atol=1e-5)
        assert torch.allclose(clip.text_model(ids).last_hidden_state, model.text_tower(ids), atol=1e-5)
    assert clip.config.vision_config.hidden_act == clip.config.text_config.hidden_act == activation


def test_an_openai_state_loads_into_the_image_tower(tmp_path):
    objective = registry.find_recipe("wukong").objective(resolve(registry.find_recipe("wukong").settings).settings)
    model, weights = objective.model, torch.randn(96, 3, 8, 8)
    state = {f"visual.{name}": value for name, value in model.image_tower.state_dict().items()}
    torch.save({**state, "visual.conv1.weight": weights, "logit_scale": torch.ones(())}, tmp_path / "clip.pt")
    load_image_tower(model, tmp_path / "clip.pt")
    assert torch.equal(model.image_tower.conv1.weight, weights)
    torch.save({"visual.conv1.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(LtError, match="does not hold this image tower"):
        load_image_tower(model, tmp_path / "other.pt")
    (tmp_path / "evil.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(LtError, match="Cannot read the weights"):
        load_image_tower(model, tmp_path / "evil.pt")


def test_a_clip_model_of_transformers_loads_into_the_image_tower(tmp_path):
    objective = registry.find_recipe("wukong").objective(resolve(registry.find_recipe("wukong").settings).settings)
    tower = {f"image_tower.{name}": torch.randn_like(v) for name, v in objective.model.image_tower.state_dict().items()}
    theirs = {name: part.contiguous() for name, part in clip_names(tower)}
    save_file(theirs, tmp_path / "model.safetensors")
    load_image_tower(objective.model, tmp_path / "model.safetensors")
    for name, value in objective.model.image_tower.state_dict(prefix="image_tower.").items():
        assert torch.equal(value, tower[name]), name
    del theirs["vision_model.encoder.layers.0.self_attn.q_proj.bias"]
    save_file(theirs, tmp_path / "model.safetensors")
    with pytest.raises(LtError, match=r"does not hold this image tower: .*in_proj_bias"):
        load_image_tower(objective.model, tmp_path / "model.safetensors")


def test_clip_names_cover_every_weight_but_the_reduction():
    objective = registry.find_recipe("wukong").objective(resolve(registry.find_recipe("wukong").settings).settings)
    state = objective.model.state_dict()
    left_out = [name for name in state if not list(clip_names({name: state[name]}))]
    assert left_out and all(name.startswith("reduction.") for name in left_out)


CARDS = [
    (system, preset)
    for system in ("filip", "wukong")
    for preset in registry.find_recipe(system).presets
    if preset != "tiny"
]
SHAPES = {
    ("filip", "paper"): (49, 77, 256),
    ("filip", "yfcc"): (49, 77, 256),
    ("filip", "large"): (256, 77, 256),
    ("wukong", "paper"): (24, 32, 256),
    ("wukong", "vit-b"): (12, 32, 256),
    ("wukong", "swin-l"): (12, 32, 256),
}


def objective_of(system: str, preset: str):
    recipe = registry.find_recipe(system)
    card = read_card(recipe.folder / f"{preset}.yaml")
    chosen = resolve(recipe.settings, card).settings
    return recipe.objective(chosen), chosen


@pytest.mark.parametrize(("system", "preset"), CARDS)
def test_the_papers_cards_have_the_papers_shapes(system, preset):
    with torch.device("meta"):
        objective, chosen = objective_of(system, preset)
        tokens = torch.zeros(2, objective.tokenizer.length, dtype=torch.long)
        pixels = torch.zeros(2, 3, objective.size, objective.size, dtype=torch.uint8)
        images, texts, mask, _ = objective.encode(pixels, tokens, tokens == 0)
    patches, words, dim = SHAPES[system, preset]
    assert images.shape == (2, patches, dim) and texts.shape == (2, words, dim) and mask.shape == (2, words)
    train = chosen.train
    assert (train.optimizer, train.lr_scaling, train.warmup, train.betas, train.eps) == (
        "lamb",
        "sqrt",
        3000,
        (0.9, 0.999),
        1e-4,
    )
    if system == "wukong":
        assert not any(weight.requires_grad for weight in objective.model.image_tower.parameters())


CAPTIONS = {
    "filip": ["a photo of a fox", "two red apples on a table"],
    "wukong": ["一张狐狸的照片。", "桌上的两个红苹果"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("system", "preset"), [card for card in CARDS if card[0] == "wukong" or card[1] == "paper"])
def test_the_papers_cards_take_a_step_at_true_shapes(system, preset):
    torch.manual_seed(0)
    objective, chosen = objective_of(system, preset)
    optimizer = make_optimizer(objective.parameter_groups(chosen.train.weight_decay), chosen.train, torch.device("cpu"))
    ids, mask = objective.tokenizer(CAPTIONS[system])
    image = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    tower, before = next(objective.model.image_tower.parameters()), objective.model.text_projection.weight.clone()
    locked = tower.clone()
    loss, _ = objective.loss({"image": image, "tokens": ids, "mask": mask, "text": torch.tensor([1, 2])})
    loss.backward()
    optimizer.step()
    assert torch.isfinite(loss) and not torch.equal(before, objective.model.text_projection.weight)
    assert torch.equal(tower, locked) == (system == "wukong"), "Wukong's image tower stays as it is"
    spared = next(group for group in optimizer.param_groups if group["weight_decay"] == 0)["params"]
    assert any(weight is objective.model.text_tower.token_embedding.weight for weight in spared)
