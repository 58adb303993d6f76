"""`lt sample pangu`: pictures with their lineage from prompts and control pictures, by one model or several."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_runs import SHORT, WORLD, run
from diffusion_sampling import PROMPT, TINY, drawn, sample
from PIL import Image
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.engine.run import run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import LtError, captions_of, open_shards
from lt.recipes import registry
from lt.recipes.draw.painters import open_painter
from lt.recipes.draw.prompts import PromptSource
from lt.recipes.pangu.painters import locate_runs
from lt.recipes.pangu.together import DrawTogether
from lt.recipes.training import checkpoints
from lt.recipes.training.loop import train
from lt.recipes.training.plan import make_plan


def test_with_nothing_said_it_draws_the_test_figures(here, tmp_path):
    words = ["--controls", "pose", "--count", "10", "--out", str(tmp_path)]
    first_line = sample(*words).splitlines()[0]  # says whose pictures these are, and of what
    assert first_line.startswith("pangu: structure, texture, pose branch of structure; 64x64 pixels")
    assert "no --prompt: the figures world's test split" in first_line
    shards = open_shards(str(tmp_path))
    assert len(shards) == 10
    first = shards["figure-test-0-000000-seed-0"]
    assert first.fields == ["json", "png", "pose.png", "txt"] and first.picture.shape == (64, 64, 3)
    source = open_shards("data/figures-test-64px-16")["figure-test-0-000000"]
    assert first["txt"] == captions_of(source)[0] and np.array_equal(first["pose.png"], source["pose.png"])
    stages = {entry["stage"]: entry for entry in first.meta["lineage"]}
    assert stages["captions"]["parents"] == ["figure-test-0-000000"]
    assert stages["pangu"]["seed"] == first.meta["seed"] == 0 and len(stages["pangu"]["model"]) == 64
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape == (4 * 64 + 2 * 36 + 7 * 2, 8 * 64 + 9 * 2, 3)
    assert "Nothing to do" in sample(*words)
    verified = CliRunner().invoke(app, ["shards", "verify", str(tmp_path)])
    assert verified.exit_code == 0, verified.output


def test_a_seed_gives_its_picture_in_any_batch(here, tmp_path):
    found = locate_runs(TINY)
    for batch, seed, count in ((5, 0, 5), (2, 0, 5), (8, 3, 1)):
        source = PromptSource("pangu", (PROMPT,), count, seed, (64, 64))
        stage = DrawTogether(found, (), 64, 64, steps=2, batch=batch)
        assert run_pipeline(Pipeline("pangu", source, (stage,)), tmp_path / f"{batch}", workers=0).complete
    five, two, alone = (drawn(tmp_path / str(batch)) for batch in (5, 2, 8))
    assert five.keys() == two.keys() == set(range(5)) and alone.keys() == {3}
    assert max(np.abs(five[seed] - two[seed]).max() for seed in five) <= 1
    assert np.abs(five[3] - alone[3]).max() <= 1
    assert np.abs(five[0] - five[1]).mean() > 2, "other seeds, other pictures"


def test_prompts_in_both_languages_and_the_control_picture_matter(here, tmp_path, controls):
    (here / "prompts.txt").write_text(f"{PROMPT}\n\n一个穿着红色T恤的孩子\n", encoding="utf-8")
    common = ("--prompts", "prompts.txt", "--count", "3")
    sample(*common, "--out", str(tmp_path / "plain"))
    said = sample(*common, "--controls", "pose", "--pose", str(controls["pose"]), "--out", str(tmp_path / "posed"))
    assert "2 prompts as asked" in said
    plain, posed = (list(open_shards(str(tmp_path / name))) for name in ("plain", "posed"))
    assert [one.meta["captions"] for one in plain][:2] == [{"en": PROMPT}, {"zh": "一个穿着红色T恤的孩子"}]
    assert posed[0]["pose.png"].shape == (64, 64, 3) and "pose.png" not in plain[0]
    assert not np.array_equal(plain[0].picture, posed[0].picture)
    assert np.asarray(Image.open(tmp_path / "posed" / "grid.png")).shape == (2 * 64 + 36 + 8, 3 * 64 + 8, 3)
    with pytest.raises(LtError, match="was made with other settings"):
        sample(*common, "--seed", "1", "--out", str(tmp_path / "plain"))


def test_a_diffusers_folder_draws_the_pixels_that_diffusers_draws(here, tmp_path, controls):
    from diffusers import DiffusionPipeline

    checkpoints.export(Path("runs/pangu-tiny"), tmp_path / "base")
    said = sample("--base", str(tmp_path / "base"), "--prompt", PROMPT, "--seed", "5", "--out", str(tmp_path / "out"))
    assert "StableDiffusionPipeline in" in said
    pipe = DiffusionPipeline.from_pretrained(tmp_path / "base")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(5)
    theirs = pipe(PROMPT, num_inference_steps=2, guidance_scale=6.0, generator=generator, output_type="np").images[0]
    (ours,) = drawn(tmp_path / "out").values()
    assert np.abs(ours - np.round(theirs * 255)).max() <= 1
    checkpoints.export(Path("runs/pangu-tiny-pose"), tmp_path / "posed")
    pose = ("--controls", "pose", "--pose", str(controls["pose"]), "--prompt", PROMPT, "--seed", "5")
    sample("--base", f"{tmp_path / 'posed'}:pose", *pose, "--out", str(tmp_path / "with-pose"))
    (followed,) = drawn(tmp_path / "with-pose").values()
    assert not np.array_equal(followed, ours)


def test_pipelines_of_other_shapes_draw_alone_and_together(tmp_path, tiny_sd, tiny_sdxl, tiny_pixart):
    for name, pipe in (("sd", tiny_sd), ("xl", tiny_sdxl), ("px", tiny_pixart)):
        pipe.save_pretrained(tmp_path / name)
        sample(
            "--base",
            str(tmp_path / name),
            "--prompt",
            "a red apple",
            "--size",
            "48x32",
            "--out",
            str(tmp_path / f"{name}-out"),
        )
        (picture,) = drawn(tmp_path / f"{name}-out").values()
        assert picture.shape == (32, 48, 3) and picture.std() > 1
    xl, sd, px = (str(tmp_path / name) for name in ("xl", "sd", "px"))
    said = sample(
        "--base", xl, "--coop", f"{sd}=0.4", "--coop", f"{px}=0.2", "--prompt", "apple", "--out", str(tmp_path / "all")
    )
    assert "at 0.4 and PixArtAlphaPipeline in" in said and "1 prompt as asked" in said
    assert "it/s" not in said, "no bars where stderr is no terminal"
    sample("--base", xl, "--prompt", "apple", "--out", str(tmp_path / "xl-alone"))
    assert not np.array_equal(*(next(iter(drawn(tmp_path / name).values())) for name in ("all", "xl-alone")))


def test_a_second_model_draws_along(here, tmp_path, controls):
    """Alone with itself it is itself; with a hardly heard one too; what another follows is seen, and by its share."""
    checkpoints.export(Path("runs/pangu-tiny-pose"), tmp_path / "posed")
    Image.fromarray(np.asarray(Image.open(controls["pose"]))[:, ::-1]).save(tmp_path / "mirrored.png")
    own = ("--checkpoint", TINY[0], "--checkpoint", TINY[1], "--prompt", PROMPT)

    def picture(name: str, *words: str) -> np.ndarray:
        told = sample(*own, *words, "--out", str(tmp_path / name))
        assert not words or "together with" in told
        return next(iter(drawn(tmp_path / name).values()))

    def posed(name: str, pose: Path, weight: float) -> np.ndarray:
        return picture(name, "--coop", f"{tmp_path / 'posed'}={weight:f}", "--controls", "pose", "--pose", str(pose))

    alone = picture("alone")
    assert np.abs(picture("twice", "--coop", f"{'+'.join(TINY)}=0.5") - alone).max() <= 1
    assert np.abs(posed("hardly", controls["pose"], 1e-6) - alone).max() <= 1
    half, more = (posed(f"{weight}", controls["pose"], weight) for weight in (0.5, 0.9))
    assert 1 < np.abs(half - alone).mean() < np.abs(more - alone).mean()
    assert not np.array_equal(posed("mirrored", tmp_path / "mirrored.png", 0.9), more), "its branch sees the skeleton"


def test_a_second_style_pulls_and_a_scale_of_zero_is_none(here, tmp_path):
    common = ("--prompt", PROMPT, "--count", "2")
    sample(*common, "--out", str(tmp_path / "plain"))
    sample(*common, "--style", "一个=0", "--out", str(tmp_path / "none"))
    sample(*common, "--style", "a man=3", "--out", str(tmp_path / "one"))
    sample(*common, "--style", "a man=3", "--style", "green=1.5", "--out", str(tmp_path / "two"))
    plain, none, one, two = (drawn(tmp_path / name) for name in ("plain", "none", "one", "two"))
    assert all(np.array_equal(plain[seed], none[seed]) for seed in plain)
    assert not np.array_equal(plain[0], one[0]) and not np.array_equal(one[0], two[0])


def test_style_guidance_is_the_paper_s_formula(here):
    """eps = eps_0 + s (eps_c - eps_0) + s_style (eps_style - eps_c), with the style before the prompt."""
    painter = open_painter(locate_runs(TINY))
    guided = painter.told([PROMPT], (64, 64), 6.0, styles=[("a man", 4.0)])
    z, t = torch.randn(1, *painter.latent_shape(64, 64), generator=torch.Generator().manual_seed(0)), torch.tensor(700)
    with torch.no_grad():
        texts = ("", PROMPT, f"a man {PROMPT}")
        empty, text, styled = (painter.model(z, t, painter.conditions([one], (64, 64), {})[0]) for one in texts)
        ours = guided(z, t)
    assert torch.allclose(ours, empty + 6 * (text - empty) + 4 * (styled - text), atol=1e-5)
    assert not torch.allclose(ours, empty + 6 * (text - empty), atol=1e-3)


def test_a_low_resolution_model_begins_and_hands_over(here, tmp_path, tiny_sd):
    both = "+".join(TINY)
    common = ("--prompt", PROMPT, "--size", "64x32", "--steps", "4")
    sample(*common, "--out", str(tmp_path / "alone"))
    said = sample(*common, "--low", f"{both}@32x16", "--out", str(tmp_path / "small"))
    assert "begun by structure, texture at 32x16; 64x32 pixels" in said
    (alone,), (begun,) = drawn(tmp_path / "alone").values(), drawn(tmp_path / "small").values()
    assert begun.shape == (32, 64, 3) and np.abs(alone - begun).mean() > 2
    tiny_sd.save_pretrained(tmp_path / "sd")
    said = sample("--prompt", PROMPT, "--low", str(tmp_path / "sd"), "--out", str(tmp_path / "other"))
    side = tiny_sd.unet.config.sample_size * 2 ** (len(tiny_sd.vae.config.block_out_channels) - 1)
    assert f"at {side}x{side}; 64x64 pixels" in said, "as large as it draws by itself"
    (other,) = drawn(tmp_path / "other").values()
    assert other.shape == (64, 64, 3) and not np.array_equal(other, alone)


def test_a_scheduler_that_cannot_begin_in_the_middle_is_refused(tmp_path, tiny_sd):
    from diffusers import PNDMScheduler

    folder = str(tmp_path / "sd")
    tiny_sd.save_pretrained(folder)
    PNDMScheduler.from_config(tiny_sd.scheduler.config).save_pretrained(tmp_path / "sd" / "scheduler")
    index = tmp_path / "sd" / "model_index.json"
    index.write_text(index.read_text().replace(type(tiny_sd.scheduler).__name__, "PNDMScheduler"))
    with pytest.raises(LtError, match="Nothing can be handed over to this model: PNDMScheduler cannot restart"):
        sample("--base", folder, "--low", folder, "--prompt", "apple", "--out", str(tmp_path / "out"))


def test_a_branch_of_another_generator_is_refused(here):
    whole = here / "runs" / "pangu-tiny-whole"
    if not whole.exists():
        run("pangu", "tiny-whole", "train.steps=3")
    with pytest.raises(LtError, match="pose branch of structure generator has nothing to steer among: whole"):
        open_painter(locate_runs([str(whole), "runs/pangu-tiny-pose"]))
    assert open_painter(locate_runs([str(whole)])).controls == ()
    other = here / "runs" / "other"
    plan = make_plan(registry.find_recipe("pangu"), "tiny", None, [*WORLD, *SHORT, "train.seed=1"], other)
    train(plan, note=lambda _: None)
    with pytest.raises(LtError, match="pose branch was trained for another structure generator"):
        open_painter(locate_runs([str(other), TINY[1], "runs/pangu-tiny-pose"]))
