"""Caches of latents and text features: right, found again, and never stale."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lt.datagen.shards import LtError, Sample, ShardWriter, captions_of, open_shards
from lt.datagen.sources.figures import FiguresSource
from lt.datagen.sources.scenes import ScenesSource
from lt.models.nn.autoencoder import AutoencoderSpace, small_autoencoder
from lt.models.nn.tokenizers import split_words
from lt.recipes.diffusion import autoencoders
from lt.recipes.diffusion.cache import bucket_of, cached, latent_field, picture_stage, text_stage
from lt.recipes.diffusion.controls import color_picture, layout_picture
from lt.recipes.diffusion.texts import (
    hugging_face_tokenizer,
    load_text_encoders,
    text_digest,
    world_tokenizer,
)
from lt.recipes.pictures import channels_first, fitted, to_signed
from lt.recipes.training.shards import ShardSet


def write_autoencoder(folder: Path, seed: int = 0) -> Path:
    """A random AutoencoderKL as diffusers stores it: 64 pixels to 16x16x4 latents."""
    torch.manual_seed(seed)
    vae = small_autoencoder((8, 8, 16))
    vae.register_to_config(scaling_factor=0.7)
    vae.save_pretrained(folder)
    return folder


def write_pictures(folder: Path, sizes: tuple[int, ...] = (64, 64, 64, 32), seed: int = 0, code: str = "") -> Path:
    rng = np.random.default_rng(seed)
    with ShardWriter(folder / "shard-000000.tar", durable=False) as writer:
        for number, size in enumerate(sizes):
            picture = np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((size // 4, size // 4, 1), np.uint8))
            said = {"en": [f"picture {number}", f"number {number}"], "zh": [f"第{number}张图"]}
            meta = {"captions": said, "layers": [{}], "lineage": [{"stage": "made", "code": code}]}
            fields = {"png": picture, "edge.png": picture[:, :, 0], "json": meta}
            assert writer.write(Sample(f"p-{number}", fields))
    return folder


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def data(tmp_path) -> Path:
    return write_pictures(tmp_path / "data")


@pytest.fixture
def vae(tmp_path) -> Path:
    return write_autoencoder(tmp_path / "vae")


def latents(folder: str) -> dict[str, np.ndarray]:
    return {sample.key: sample["latent.npy"] for sample in open_shards(folder)}


def test_latents_are_those_of_the_autoencoder_and_are_made_once(data, vae, notes):
    (folder,) = cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append)
    assert len(notes) == 1 and "4 latents" in notes[0]
    from diffusers import AutoencoderKL

    space = AutoencoderSpace(AutoencoderKL.from_pretrained(vae).eval())
    source = open_shards(str(data))["p-0"]
    with torch.no_grad():
        wanted = space.encode(to_signed(torch.from_numpy(channels_first(source.picture))[None]))[0]
    np.testing.assert_allclose(latents(folder)["p-0"], wanted.numpy(), atol=1e-5)
    sample = open_shards(folder)["p-3"]
    assert sample.fields == ["edge.png", "json", "latent.npy"]
    assert sample["latent.npy"].shape == (4, 16, 16) and "layers" not in sample.meta
    assert sample.meta["latent"]["enlarged"] is True
    assert sample.meta["lineage"][-1]["model"] == autoencoders.locate(str(vae)).digest
    assert cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append) == [folder]
    assert len(notes) == 1, "found again in silence"


def test_small_pictures_are_rejected_where_only_sharp_ones_count(data, vae, notes):
    (folder,) = cached([str(data)], [picture_stage(str(vae), 64, 64, keep_from=64)], notes.append)
    shards = open_shards(folder)
    assert [sample.key for sample in shards] == ["p-0", "p-1", "p-2"]
    assert [(r.key, r.reason, r.figure) for _, r in shards.rejects()] == [("p-3", "too-small", 32)]


@pytest.mark.parametrize("change", ["weights", "configuration", "source", "size"])
def test_whatever_changes_the_cache_is_another_one(data, vae, notes, change):
    def make(size: int = 64) -> str:
        return cached([str(data)], [picture_stage(str(vae), size, size)], notes.append)[0]

    before = make()
    if change == "weights":
        write_autoencoder(vae, seed=1)
    elif change == "configuration":
        config = vae / "config.json"
        config.write_text(config.read_text().replace('"scaling_factor": 0.7', '"scaling_factor": 0.9'))
    elif change == "source":
        write_pictures(data, seed=1)
    after = make(32 if change == "size" else 64)
    assert after != before
    old, new = latents(before), latents(after)
    assert all(old[key].shape != new[key].shape or not np.allclose(old[key], new[key]) for key in old)


def test_data_made_again_by_an_edited_code_are_the_same_data(data, vae, notes):
    """A run that began on them goes on, and its cache is found."""
    found = cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append)
    before = ShardSet([str(data)]).digest, ShardSet(found).digest
    write_pictures(data, code="5d6c7b8a")
    assert cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append) == found and len(notes) == 1
    shutil.rmtree(found[0])
    cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append)
    assert "5d6c7b8a" in str(open_shards(found[0])["p-0"].meta["lineage"])
    assert (ShardSet([str(data)]).digest, ShardSet(found).digest) == before


def test_a_cache_of_another_encoder_put_in_its_place_is_refused(data, vae, tmp_path, notes):
    (right,) = cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append)
    other = write_autoencoder(tmp_path / "other", seed=1)
    (wrong,) = cached([str(data)], [picture_stage(str(other), 64, 64)], notes.append)
    shutil.rmtree(right)
    shutil.copytree(wrong, right)
    with pytest.raises(LtError, match="made with other settings"):
        cached([str(data)], [picture_stage(str(vae), 64, 64)], notes.append)


def test_an_autoencoder_that_changes_between_naming_and_loading_is_refused(vae):
    located = autoencoders.locate(str(vae))
    write_autoencoder(vae, seed=1)
    with pytest.raises(LtError, match="was changed while it was in use"):
        autoencoders.load(located)


def test_what_is_no_autoencoder_is_named(tmp_path):
    with pytest.raises(LtError, match=r"There is no autoencoder in .*vae-tiny\. Train it first: lt train vae"):
        autoencoders.locate(str(tmp_path / "vae-tiny"))
    with pytest.raises(LtError, match="is no checkpoint"):
        autoencoders.locate(str(tmp_path))


def write_clip(folder: Path, seed: int = 0) -> Path:
    from lt.models.nn.captions import small_text_encoder

    torch.manual_seed(seed)
    tokenizer = world_tokenizer()
    small_text_encoder(tokenizer.vocabulary, tokenizer.length, 32).save_pretrained(folder)
    hugging_face_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(5)
    tokenizer = world_tokenizer()
    config = T5Config(vocab_size=tokenizer.vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(folder)
    hugging_face_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def test_text_features_of_several_encoders_stand_side_by_side(data, vae, tmp_path, notes):
    folders = (str(write_clip(tmp_path / "clip")), str(write_t5(tmp_path / "t5")))
    stages = [picture_stage(str(vae), 64, 64), text_stage(folders, 8)]
    (cache,) = cached([str(data)], stages, notes.append)
    sample = open_shards(cache)["p-1"]
    assert sample.meta["embed"]["texts"] == ["picture 1", "number 1", "第1张图"]
    embed = sample["embed.npy"]
    assert embed.shape == (3, 8, 32 + 16) and embed.dtype == np.float16
    clip, t5 = load_text_encoders(folders, 8, text_digest(folders))
    np.testing.assert_allclose(embed[0, :, :32], clip.read(["picture 1"])[0][0].numpy(), atol=2e-3)
    features = t5.read(["a cat", "a black cat on a table"])[0]
    assert (features[0, 4:] == 0).all() and features[0, 3].abs().sum() > 0, "start, a, cat, end; then padding"
    write_clip(tmp_path / "clip", seed=1)
    with pytest.raises(LtError, match="their files changed"):
        load_text_encoders(folders, 9, stages[1].digest)
    (again,) = cached([str(data)], [stages[0], text_stage(folders, 8)], notes.append)
    assert again != cache and not np.allclose(open_shards(again)["p-1"]["embed.npy"], embed)


def test_the_vocabulary_knows_figures_and_the_exported_tokenizer_agrees():
    tokenizer = world_tokenizer()
    source = FiguresSource(12, "test", size=64)
    captions = [text for number in range(12) for text in captions_of(source.sample(number))]
    assert len(captions) == 12 * 6 and any("一" in caption for caption in captions)
    theirs = hugging_face_tokenizer(tokenizer)
    odd = ["", "A  RED apple，ＢＬＵＥ!", "unknownword 穿着", "café x₂ don't", "red " * 100]
    for caption in [*captions, *odd]:
        row = theirs(caption, padding="max_length", max_length=tokenizer.length, truncation=True)["input_ids"]
        assert row == tokenizer([caption]).ids[0].tolist(), caption
    known = set(tokenizer.words)
    assert {word for caption in captions for word in split_words(caption)} <= known
    assert max(len(split_words(caption)) for caption in captions) <= tokenizer.length - 2


def test_buckets_bring_each_picture_to_its_nearest_size(tmp_path, vae, notes):
    rng, sizes = np.random.default_rng(0), ((32, 64), (48, 48), (64, 32))
    with ShardWriter(tmp_path / "mixed" / "shard-000000.tar", durable=False) as writer:
        for number, (height, width) in enumerate([(90, 50), (64, 64), (20, 45), (80, 41)]):
            picture = rng.integers(0, 256, (height, width, 3), np.uint8)
            writer.write(Sample(f"p-{number}", {"png": picture, "txt": "a picture"}))
    (folder,) = cached([str(tmp_path / "mixed")], [picture_stage(str(vae), 48, 48, 30, sizes)], notes.append)
    samples = {sample.key: sample for sample in open_shards(folder)}
    assert {key: sample.fields[1] for key, sample in samples.items()} == {
        "p-0": "latent-00.npy",
        "p-1": "latent-01.npy",
        "p-3": "latent-00.npy",
    }, "p-2 is too small"
    assert [bucket_of(sample.fields) for sample in samples.values()] == [0, 1, 0]
    assert samples["p-0"].meta["latent"] | {"model": ""} == {
        "model": "",
        "size": [32, 64],
        "enlarged": False,
        "bucket": 0,
    }
    space = autoencoders.load(autoencoders.locate(str(vae)))
    source = open_shards(str(tmp_path / "mixed"))
    for key, size in (("p-0", (32, 64)), ("p-1", (48, 48)), ("p-3", (32, 64))):
        pixels = channels_first(fitted(source[key].picture, *size))
        wanted = space.encode(to_signed(torch.from_numpy(pixels)[None]))[0]
        found = samples[key][latent_field(samples[key].meta["latent"]["bucket"])]
        np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    with pytest.raises(LtError, match="hold no latents in buckets"):
        bucket_of(["json", "latent.npy"])


def test_control_pictures_are_made_where_a_run_wants_them(tmp_path, vae, notes):
    made = ScenesSource(3, "test", size=64)
    with ShardWriter(tmp_path / "scenes" / "shard-000000.tar", durable=False) as writer:
        for number in range(3):
            writer.write(made.sample(number))
        writer.write(Sample("plain", {"png": made.sample(0).picture, "txt": "nothing is named"}))

    def cache(control: str):
        return open_shards(
            cached([str(tmp_path / "scenes")], [picture_stage(str(vae), 64, 64, 0, (), control)], print)[0]
        )

    plain, pose, color, layout = (cache(control) for control in ("", "pose", "color", "layout"))
    assert plain.root == pose.root, "what shards hold is no matter of the cache"
    assert {name for sample in plain for name in sample.fields} == {"json", "latent.npy", "txt"}
    assert len(color) == 4 and len(layout) == 3
    assert [(reject.key, reject.reason) for _, reject in layout.rejects()] == [("plain", "no-layout")]
    for number in range(3):
        scene = made.sample(number)
        assert np.array_equal(color[scene.key]["color.png"], color_picture(scene.picture, (64, 64)))
        assert np.array_equal(layout[scene.key]["layout.png"], layout_picture(scene, (64, 64)))
        assert np.array_equal(layout[scene.key]["latent.npy"], plain[scene.key]["latent.npy"])
