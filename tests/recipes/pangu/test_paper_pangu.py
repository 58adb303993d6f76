"""The paper's cards and what only they use: size buckets, the pooled text, the paper's U-Net."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_diffusion_cache import write_autoencoder
from transformers import ChineseCLIPTextConfig, ChineseCLIPTextModel, CLIPTextConfig, CLIPTextModelWithProjection

from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import LtError, Sample, ShardWriter, UsageError, open_shards
from lt.models.nn.autoencoder import small_autoencoder
from lt.models.nn.unet import PANGU, multiply_adds
from lt.models.pangu import BUCKETS_512, BUCKETS_1024
from lt.recipes import registry
from lt.recipes.config import read_card, resolve
from lt.recipes.diffusion import settings as diffusion_settings
from lt.recipes.diffusion.texts import hugging_face_tokenizer, load_text_encoders, text_digest, world_tokenizer
from lt.recipes.draw.painters import open_painter
from lt.recipes.draw.prompts import PromptSource
from lt.recipes.pangu.objective import PanguObjective, restore
from lt.recipes.pangu.painters import locate_runs
from lt.recipes.pangu.together import DrawTogether
from lt.recipes.training import checkpoints
from lt.recipes.training.estimate import Size
from lt.recipes.training.loop import dry_run, train
from lt.recipes.training.plan import make_plan

SIZES = ((48, 80), (64, 64), (80, 48))
SMALL = replace(
    PANGU,
    channels=(16, 32),
    depths=(0, 1),
    heads=(2, 2),
    text_width=56,
    pooled_width=24,
    id_width=16,
    layers=1,
    groups=8,
)


def write_pair(folder: Path, chinese: int, english: int, pooled: int) -> tuple[str, str]:
    """A Chinese CLIP text encoder, and one of OpenCLIP's kind where an SDXL folder has it; of one layer and random weights."""
    torch.manual_seed(0)
    words = world_tokenizer()
    common = {"vocab_size": words.vocabulary, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    one, two = folder / "chinese-clip", folder / "sdxl" / "text_encoder_2"
    ChineseCLIPTextModel(ChineseCLIPTextConfig(**common, hidden_size=chinese)).save_pretrained(one)
    marks = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = CLIPTextConfig(**common, **marks, hidden_size=english, projection_dim=pooled)
    CLIPTextModelWithProjection(config).save_pretrained(two)
    for place in (one, folder / "sdxl" / "tokenizer_2"):
        hugging_face_tokenizer(words).save_pretrained(place)
    return str(one), str(two)


def write_data(folder: Path) -> Path:
    """Fourteen pictures of three aspects."""
    rng = np.random.default_rng(0)
    with ShardWriter(folder / "shard-000000.tar", durable=False) as writer:
        for number in range(14):
            width, height = ((60, 100), (90, 90), (128, 70))[number % 3]
            picture = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
            said = {"en": [f"a picture {number}", "a red apple"], "zh": ["一个红色苹果"]}
            writer.write(Sample(f"p-{number:02d}", {"png": picture, "json": {"captions": said}}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("paper")
    write_autoencoder(folder / "vae")
    write_pair(folder, 24, 32, 24)
    write_data(folder / "data")
    return folder


@pytest.fixture
def plan_of(folder, monkeypatch):
    """Overrides to the plan of a short run in the current folder: a small U-Net of the paper's kind, three buckets."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LT_HOME", str(folder / "home"))
    monkeypatch.setitem(diffusion_settings.UNETS, "pangu", SMALL)

    def plan(out: str, *overrides: str):
        own = ["model.unet=pangu", f"model.buckets={[list(size) for size in SIZES]}", "model.autoencoder=vae"]
        own += ["model.text=[chinese-clip,sdxl/text_encoder_2]", "model.text_length=12", "data.train=data"]
        own += ["data.validation=data", "train.steps=6", "train.batch=2", "train.warmup=1", "log.save_every=3"]
        own += ["log.tensorboard=false", "data.workers=0", "train.precision=fp32", "log.validate_every=6"]
        return make_plan(registry.find_recipe("pangu"), "tiny", None, [*own, *overrides], folder / out)

    return plan


def test_buckets_train_one_size_a_batch_and_go_on_where_they_were(plan_of, folder):
    notes: list[str] = []
    assert train(plan_of("run"), notes.append).status == "done"
    assert "  structure: 14 of 14 pictures in 3 sizes about 64 pixels, t from 500 to 999" in notes
    assert "  batches of one size: each epoch leaves out 2 of 14 samples, which fill no batch" in notes
    same = checkpoints.Record.load(folder / "run" / "checkpoints" / "step-00000006").files
    (folder / "run" / "checkpoints" / "step-00000006").rename(folder / "gone")
    assert train(plan_of("run", "data.workers=1"), notes.append).status == "done"
    assert any("continues from" in note for note in notes)
    assert checkpoints.Record.load(folder / "run" / "checkpoints" / "step-00000006").files == same


def test_a_row_brings_its_bucket_and_the_pooled_text(plan_of, folder):
    out = folder / "rows"
    train(plan_of("rows", "train.steps=2"), [].append)
    objective = restore(out)
    (cache,) = {one.parent for one in (folder / "home" / "latents").glob("*/manifest.json")}
    samples = {sample.key: sample for sample in open_shards(cache)}
    assert samples["p-02"].fields == ["embed.npy", "json", "latent-02.npy", "pooled.npy"]
    rows = {key: objective.example()(sample, None) for key, sample in samples.items()}
    assert [rows[f"p-0{n}"]["latent"].shape for n in range(3)] == [(4, 20, 12), (4, 16, 16), (4, 12, 20)]
    assert [rows[f"p-0{n}"]["ids"].tolist() for n in range(3)] == [[0], [1], [2]]
    chinese, english = load_text_encoders(objective.settings.model.text, 12, text_digest(objective.settings.model.text))
    said = [rows["p-01"]["caption"]]
    features, pooled = english.read(said)
    assert pooled is not None
    paper = {"text": torch.cat([chinese.read(said)[0], features], -1), "pooled": pooled, "ids": torch.ones(1, 1)}
    ours = objective.caption_condition(said) | objective.size_condition(64, 64, 1)
    assert ours.keys() == paper.keys() and all(torch.equal(ours[name], paper[name]) for name in paper)
    for name in ("text", "pooled"):
        assert np.allclose(rows["p-01"][name], paper[name][0], atol=4e-3), "half precision in the cache"
    with pytest.raises(LtError, match=r"64x48 is no size this model has learned; its sizes: 48x80, 64x64, 80x48"):
        objective.size_condition(64, 48, 1)


def test_what_does_not_fit_the_papers_network_is_named(plan_of):
    with pytest.raises(UsageError, match=r"told the number of a bucket: set model.buckets"):
        plan_of("wrong", "model.buckets=[]")
    with pytest.raises(UsageError, match=r"reads pooled text: name frozen encoders in model.text"):
        plan_of("wrong", "model.text=[]")
    with pytest.raises(UsageError, match="buckets are 2 to 99 sizes"):
        plan_of("wrong", "model.buckets=[[64, 64]]")
    with pytest.raises(UsageError, match="buckets"):
        plan_of("wrong", "model.buckets=77")
    with pytest.raises(LtError, match="80 wide, the U-Net reads 56"):
        train(plan_of("wrong", "model.text=[chinese-clip,sdxl/text_encoder_2,chinese-clip]"), [].append)
    with pytest.raises(LtError, match="No size of picture has a whole batch of 8 samples; the commonest has 5"):
        train(plan_of("wrong", "train.batch=8"), [].append)


def true_size(preset: str) -> PanguObjective:
    """The objective of a paper card at its true shapes, on the meta device; autoencoder and encoders are thin but as wide."""
    recipe = registry.find_recipe("pangu")
    settings = resolve(recipe.settings, read_card(recipe.folder / f"{preset}.yaml")).settings
    load_text_encoders(settings.model.text, 77, text_digest(settings.model.text))  # not on the meta device
    with torch.device("meta"):
        return PanguObjective(settings)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("true")
    chinese, _ = write_pair(folder / "models", 768, 1280, 1280)
    Path(chinese).rename(folder / "models" / "chinese-clip-vit-large")
    small_autoencoder((8, 8, 8, 8)).save_pretrained(folder / "models" / "sdxl" / "vae")
    return folder


@pytest.mark.parametrize(
    ("preset", "sizes", "steps", "keep_from"),
    [("paper", BUCKETS_1024.sizes, range(500, 1000), 0), ("paper-texture", BUCKETS_512.sizes, range(500), 512)],
)
def test_the_papers_cards_take_a_step_at_true_shapes(models, monkeypatch, preset, sizes, steps, keep_from):
    monkeypatch.chdir(models)
    objective = true_size(preset)
    model = objective.settings.model
    assert model.buckets == sizes and model.stage.timesteps == objective.denoiser.timesteps == steps
    assert model.stage.keep_from == keep_from
    assert sum(weight.numel() for weight in objective.unet.parameters()) == 2_565_825_284
    objective.unet.train()
    width, height = sizes[0]
    said = {"text": torch.empty(2, 77, 2048), "pooled": torch.empty(2, 1280), "ids": torch.zeros(2, 1)}
    batch = {"latent": torch.empty(2, 4, height // 8, width // 8), **said}
    loss, _ = objective.loss({name: value.to("meta") for name, value in batch.items()})
    loss.backward()
    assert loss.shape == () and all(weight.grad is not None for weight in objective.unet.parameters())


def test_a_dry_run_without_the_pretrained_weights_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notes: list[str] = []
    found = dry_run(make_plan(registry.find_recipe("pangu"), "paper-texture"), notes.append)
    assert found.sizes == [Size("unet", 2_565_825_284, 2_565_825_284)] and found.seconds_per_step is None
    assert found.memory == 5 * 4 * 2_565_825_284, "weights, gradients, two states, moving average"
    forward = multiply_adds(PANGU, 64, 64, 77)
    assert found.multiply_adds_per_step == 4 * forward * 2048, "forward, forward again, backward"
    assert "counted by its shapes, for pretrained weights are missing" in notes[0]
    assert notes[-1].endswith("multiply-adds a step of 2,048 samples, 1.3e+21 in all (counted)")
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_both_generators_draw_in_a_size_that_the_first_has_learned(plan_of, folder):
    train(plan_of("structure", "train.steps=2"), [].append)
    small = "model.buckets=[[24, 40], [32, 32], [40, 24]]"
    train(plan_of("texture", "train.steps=2", "model.generator=texture", "model.low=32", small), [].append)
    found = locate_runs([str(folder / "texture"), str(folder / "structure")])
    source = PromptSource("pangu", ("a red apple", "一个红色苹果"), 2, 0, (48, 80))
    pipeline = Pipeline("pangu", source, (DrawTogether(found, (), 48, 80, steps=2),))
    assert run_pipeline(pipeline, folder / "drawn", workers=0).complete
    assert [sample.picture.shape for sample in open_shards(folder / "drawn")] == [(80, 48, 3)] * 2
    condition, empty = open_painter(found).conditions(["a red apple"], (80, 48), {})
    assert condition["ids"].tolist() == empty["ids"].tolist() == [[2]]
    with pytest.raises(LtError, match="48x64 is no size this model has learned"):
        open_painter(found).conditions(["a red apple"], (48, 64), {})
