"""`lt sample pangu`: pictures with their lineage from prompts and control pictures; what is wrong is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusion_runs import SHORT, WORLD, run
from PIL import Image
from typer.testing import CliRunner

from lt.cli.app import app
from lt.datagen.engine.run import run_pipeline
from lt.datagen.shards import LtError, UsageError, open_shards
from lt.datagen.sources.figures import FiguresSource
from lt.recipes import checkpoints, registry
from lt.recipes.loop import train
from lt.recipes.pangu import painters
from lt.recipes.pangu.requests import PromptSource
from lt.recipes.pangu.sample import Draw, make_pipeline
from lt.recipes.plan import make_plan

LT = Path(sys.executable).with_name("lt")
PROMPT = "a child in a red shirt and blue trousers waving"
TINY = ["runs/pangu-tiny", "runs/pangu-tiny-texture"]


def sample(*words: str) -> str:
    """`lt sample pangu`, in this process; what it says on stderr. Errors are raised."""
    result = CliRunner().invoke(app, ["sample", "pangu", "--steps", "2", *words])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stderr


@pytest.fixture(scope="module")
def controls(folder) -> dict[str, Path]:
    """A skeleton, an edge map, and a skeleton of another aspect, as files."""
    figure = FiguresSource(1, "test", size=64).sample(0)
    made = {"pose": figure["pose.png"], "edge": figure["edge.png"], "wide": figure["pose.png"][16:48]}
    for name, picture in made.items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in made}


def test_with_nothing_said_it_draws_the_test_figures(here, tmp_path):
    words = ["sample", "pangu", "--controls", "pose", "--count", "10", "--steps", "2", "--out", str(tmp_path)]
    ended = subprocess.run([LT, *words], cwd=here, env={**os.environ}, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "pangu: structure, texture, pose branch of structure; 64x64 pixels" in ended.stderr
    assert "no --prompt: the figures world's test split" in ended.stderr
    shards = open_shards(str(tmp_path))
    assert len(shards) == 10
    first = shards["figure-test-0-000000-seed-0"]
    assert first.fields == ["json", "png", "pose.png", "txt"] and first.picture.shape == (64, 64, 3)
    source = open_shards("data/figures-test-64px-256")["figure-test-0-000000"]
    assert first["txt"] == source.caption() and np.array_equal(first["pose.png"], source["pose.png"])
    stages = {entry["stage"]: entry for entry in first.meta["lineage"]}
    assert stages["captions"]["parents"] == ["figure-test-0-000000"]
    assert stages["pangu"]["seed"] == first.meta["seed"] == 0 and len(stages["pangu"]["model"]) == 64
    assert np.asarray(Image.open(tmp_path / "grid.png")).shape == (4 * 64 + 5 * 2, 8 * 64 + 9 * 2, 3)
    again = subprocess.run([LT, *words], cwd=here, env={**os.environ}, capture_output=True, text=True)
    assert again.returncode == 0 and "Nothing to do" in again.stderr
    verified = subprocess.run([LT, "shards", "verify", str(tmp_path)], cwd=here, capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def drawn(out: Path) -> dict[int, np.ndarray]:
    return {one.meta["seed"]: one.picture.astype(int) for one in open_shards(str(out))}


def test_a_seed_gives_its_picture_in_any_batch(here, tmp_path):
    found = painters.find_runs(TINY)
    for batch, seed, count in ((5, 0, 5), (2, 0, 5), (8, 3, 1)):
        source = PromptSource((PROMPT,), count, seed, (64, 64))
        stage = Draw((found,), (), 64, 64, steps=2, batch=batch)
        assert run_pipeline(make_pipeline(source, stage), tmp_path / f"{batch}", workers=0).complete
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
    assert np.asarray(Image.open(tmp_path / "posed" / "grid.png")).shape == (2 * 64 + 6, 3 * 64 + 8, 3)
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
    checkpoints.export(Path("runs/pangu-tiny-pose"), tmp_path / "posed")
    pose = ("--controls", "pose", "--pose", str(controls["pose"]), "--prompt", PROMPT)
    own = ("--checkpoint", TINY[0], "--checkpoint", TINY[1])
    sample(*own, "--prompt", PROMPT, "--out", str(tmp_path / "alone"))
    said = sample(*own, *pose, "--coop", f"{tmp_path / 'posed'}=0.5", "--out", str(tmp_path / "both"))
    assert "together with StableDiffusionControlNetPipeline in" in said and "at 0.5" in said
    (alone,), (both,) = drawn(tmp_path / "alone").values(), drawn(tmp_path / "both").values()
    assert not np.array_equal(alone, both)


def test_edges_of_a_photograph_are_those_of_the_world(here):
    figure = FiguresSource(1, "test", size=64).sample(0)
    Image.fromarray(figure.picture).save(here / "photo.png")
    source = PromptSource((PROMPT,), 2, 7, (64, 64), photos=(("edge", str(here / "photo.png")),))
    first, second = source.read([0, 2])
    assert np.array_equal(first["edge.png"], figure["edge.png"]) and np.array_equal(
        second["edge.png"], first["edge.png"]
    )
    assert (first.meta["seed"], second.meta["seed"]) == (7, 8)
    with pytest.raises(UsageError, match="No expert here finds the pose picture"):
        PromptSource((PROMPT,), 1, 0, (64, 64), photos=(("pose", str(here / "photo.png")),))


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["--prompt", " "], UsageError, "The prompt is empty"),
        (["--prompt", PROMPT, "--controls", "pos"], UsageError, r"Unknown control 'pos'\. Known: pose, edge"),
        (["--prompt", PROMPT, "--controls", "edge"], LtError, r"pangu-tiny-edge is not there.*--preset tiny-edge"),
        (["--prompt", PROMPT, "--controls", "pose"], UsageError, "no control picture for pose. Name it: --pose FILE"),
        (["--prompt", PROMPT, "--pose", "{wide}"], LtError, "is 64x32, the pictures are to be 64x64: another aspect"),
        (["--prompt", PROMPT, "--pose", "none.png"], LtError, "Cannot read the pose picture none.png"),
        (["--prompt", PROMPT, "--edge", "{edge}", "--edge-of", "{edge}"], UsageError, "two control pictures for edge"),
        (["--pose", "{pose}"], UsageError, "A control picture needs a prompt"),
        (["--prompt", PROMPT, "--size", "66x64"], UsageError, "must be multiples of 4. Try --size 64x64"),
        (["--prompt", PROMPT, "--size", "64"], UsageError, "want WIDTHxHEIGHT"),
        (["--prompt", PROMPT, "--checkpoint", "runs/vae-tiny"], LtError, "is a checkpoint of vae, not of pangu"),
        (["--prompt", PROMPT, "--checkpoint", "runs/none"], LtError, "runs/none is not there"),
        (["--prompt", PROMPT, "--checkpoint", TINY[0]], LtError, "cannot draw alone.*--preset tiny-texture"),
        (["--prompt", PROMPT, "--coop", "runs/pangu-tiny"], UsageError, "want MODEL=WEIGHT"),
        (["--prompt", PROMPT, "--coop", f"{'+'.join(TINY)}=1.5"], UsageError, "Coop weights are"),
        (["--prompt", PROMPT, "--data", "data"], UsageError, "either prompts or --data"),
        (["--prompts", "none.txt"], LtError, "Cannot read the prompts none.txt: No such file"),
        (["--base", "runs", "--checkpoint", "runs"], UsageError, "either --base or --checkpoint"),
    ],
)
def test_wrong_calls_are_named(here, tmp_path, controls, words, kind, message):
    with pytest.raises(kind, match=f"(?s){message}"):
        sample(*(word.format(**controls) for word in words), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_long_prompt_is_cut_aloud(here, tmp_path):
    said = sample("--prompt", f"{PROMPT} " * 40, "--out", str(tmp_path / "out"))
    assert "are not read: the text encoder has no places for them" in said
    assert len(drawn(tmp_path / "out")) == 1


def test_a_branch_of_another_generator_is_refused(here):
    whole = here / "runs" / "pangu-tiny-whole"
    if not whole.exists():
        run("pangu", "tiny-whole", "train.steps=3")
    with pytest.raises(LtError, match="pose branch of structure generator has nothing to steer among: whole"):
        painters.load(painters.find_runs([str(whole), "runs/pangu-tiny-pose"]))
    assert painters.load(painters.find_runs([str(whole)])).controls == ()
    other = here / "runs" / "other"
    plan = make_plan(registry.find("pangu"), "tiny", None, [*WORLD, *SHORT, "train.seed=1"], other)
    train(plan, note=lambda _: None)
    with pytest.raises(LtError, match="pose branch was trained for another structure generator"):
        painters.load(painters.find_runs([str(other), TINY[1], "runs/pangu-tiny-pose"]))
