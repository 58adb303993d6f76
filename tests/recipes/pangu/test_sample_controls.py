"""Control pictures of `lt sample pangu`: from files, from photographs, from shards."""

import importlib.resources

import numpy as np
import pytest
from diffusion_runs import BRIEF, run
from diffusion_sampling import PROMPT, sample
from PIL import Image

from lt.datagen.pose import draw_openpose
from lt.datagen.shards import LtError, UsageError, open_shards
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.datagen.sources.figures import FiguresSource
from lt.models.perception.registry import find, load
from lt.recipes.diffusion.controls import control_picture
from lt.recipes.draw.control_files import find_in_photo
from lt.recipes.draw.prompts import PromptSource, ShardPrompts

LACKING = find("pose", "mediapipe").missing
with_pose_model = pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}: make setup")
SHIPPED = importlib.resources.files("lt.datagen.sources.photos") / "images"


@pytest.fixture
def photos(tmp_path):
    """A person, and a cup of coffee."""
    for name in ("astronaut", "coffee"):
        (tmp_path / f"{name}.jpg").write_bytes((SHIPPED / f"{name}.jpg").read_bytes())
    return tmp_path


def test_edges_and_colours_of_a_picture_are_those_of_the_world(here):
    figure = FiguresSource(1, "test", size=64).sample(0)
    file = here / "photo.png"
    Image.fromarray(figure.picture).save(file)
    first, second = PromptSource("pangu", (PROMPT,), 2, 7, (64, 64), photos=(("edge", file), ("color", file))).read(
        [0, 2]
    )
    assert np.array_equal(first["edge.png"], figure["edge.png"])
    assert np.array_equal(first["color.png"], control_picture(figure, "color", (64, 64)))
    assert np.array_equal(second["edge.png"], first["edge.png"])
    assert (first.meta["seed"], second.meta["seed"]) == (7, 8)
    with pytest.raises(UsageError, match=r"No expert here finds the layout picture.*Known: pose, edge, color"):
        find_in_photo("layout", here / "photo.png", (64, 64))


@with_pose_model
def test_the_pose_in_a_photograph_is_drawn_where_the_person_is(photos):
    file = photos / "astronaut.jpg"
    (people,) = load("pose", "mediapipe").poses([to_rgb(decode_image(file.read_bytes()))])
    assert np.array_equal(find_in_photo("pose", file, (512, 512)), draw_openpose(people, 512, 512))
    small = find_in_photo("pose", file, (64, 64))
    assert np.array_equal(small, draw_openpose(people / (8, 8, 1), 64, 64)) and small.any()


@with_pose_model
def test_without_a_person_there_is_no_pose(photos):
    with pytest.raises(
        LtError, match=r"Nobody is found in the photograph .*coffee\.jpg.*a drawn skeleton: --pose FILE"
    ):
        find_in_photo("pose", photos / "coffee.jpg", (96, 64))


@with_pose_model
def test_one_photograph_gives_pose_and_edges(here, photos, tmp_path):
    if not (here / "runs" / "pangu-tiny-edge").exists():
        run("pangu", "tiny-edge", "train.steps=2")
    photo = str(photos / "astronaut.jpg")
    said = sample("--prompt", PROMPT, "--pose-of", photo, "--edge-of", photo, "--out", str(tmp_path / "out"))
    assert "pose branch of structure, edge branch of structure" in said
    (one,) = open_shards(str(tmp_path / "out"))
    assert one["pose.png"].shape == (64, 64, 3) and one["edge.png"].shape == (64, 64)
    assert np.array_equal(one["pose.png"], find_in_photo("pose", photos / "astronaut.jpg", (64, 64)))


def test_layout_and_colours_come_from_the_world_and_from_files(here, tmp_path):
    for control in ("layout", "color"):
        if not (here / "runs" / f"pangu-tiny-{control}").exists():
            run("pangu", f"tiny-{control}", *BRIEF)
    said = sample("--controls", "layout,color", "--count", "2", "--out", str(tmp_path / "world"))
    assert "layout branch of structure, color branch of structure" in said
    first = next(iter(open_shards(str(tmp_path / "world"))))
    figure = FiguresSource(2, "test", size=64).sample(0)
    for control in ("layout", "color"):
        assert np.array_equal(first[f"{control}.png"], control_picture(figure, control, (64, 64)))
        Image.fromarray(first[f"{control}.png"]).save(tmp_path / f"{control}.png")
    files = ("--layout", str(tmp_path / "layout.png"), "--color", str(tmp_path / "color.png"))
    sample("--prompt", first["txt"], *files, "--out", str(tmp_path / "files"))
    (same,) = open_shards(str(tmp_path / "files"))
    assert same.meta["seed"] == first.meta["seed"]
    assert np.abs(same.picture.astype(int) - first.picture.astype(int)).max() <= 1, "the same request, the same picture"


def test_a_picture_of_another_size_is_scaled_aloud(here, tmp_path, controls):
    words = ("--prompt", PROMPT, "--pose", str(controls["half"]), "--out", str(tmp_path / "out"))
    assert "the pose picture is scaled from 32x32 to 64x64" in sample(*words)
    (one,) = open_shards(str(tmp_path / "out"))
    assert one["pose.png"].shape == (64, 64, 3)
    assert "is scaled" not in sample(*words[:2], "--pose", str(controls["pose"]), "--out", str(tmp_path / "same"))


def test_samples_of_another_aspect_or_without_the_control_are_rejected(here, tmp_path):
    sample("--controls", "pose", "--count", "2", "--out", str(tmp_path / "world"))
    wide = ShardPrompts(str(tmp_path / "world"), 2, 0, (64, 32), ("pose",))
    assert [one.reason for one in wide.read([0, 2])] == ["pose-of-another-aspect"] * 2
    bare = ShardPrompts(str(tmp_path / "world"), 2, 0, (64, 64), ("edge", "layout"))
    assert [one.reason for one in bare.read([0, 2])] == ["no-edge"] * 2
    said = sample("--data", str(tmp_path / "world"), "--count", "5", "--out", str(tmp_path / "again"))
    assert f"{tmp_path / 'world'} holds 2 samples: so many pictures, not 5" in said
