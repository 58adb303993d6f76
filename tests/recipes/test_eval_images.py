"""`lt eval images`: distances with exact answers and against torch-fidelity, controls, the judge, protocols, the command."""

import io
import json
import sys

import numpy as np
import pytest
import torch

from lt.cli import app
from lt.datagen.engine.run import run_pipeline
from lt.datagen.pose import COCO_KEYPOINTS
from lt.datagen.shards import LtError, Sample, SampleError, UsageError, open_shards
from lt.datagen.sources.figure_traits import ATTRIBUTES, IN_EVERY_WORDING, described
from lt.datagen.worlds import world_pipeline
from lt.recipes import registry
from lt.recipes.evaluate.images import report
from lt.recipes.evaluate.images.controls import edge_metrics, edge_scores, pck, text_accuracy
from lt.recipes.evaluate.images.distances import (
    frechet_distance,
    inside,
    kernel_distance,
    precision_recall,
    with_interval,
)
from lt.recipes.evaluate.images.inception import Inception
from lt.recipes.evaluate.images.pictures import PictureSet, extract
from lt.recipes.judge import judge as judging
from lt.recipes.judge.judge import Judge, true_points
from lt.recipes.judge.objective import Row, mirrored, points_found
from lt.recipes.training.loop import train
from lt.recipes.training.plan import make_plan
from lt.recipes.training.run import Outcome

rng = np.random.default_rng(0)


def white(count: int, width: int) -> np.ndarray:
    """Samples whose mean is exactly 0 and whose covariance is exactly the identity."""
    values = np.random.default_rng(count).normal(size=(count, width))
    values -= values.mean(0)
    return values @ np.linalg.inv(np.linalg.cholesky(np.cov(values, rowvar=False))).T


# Distances


def test_the_frechet_distance_of_known_gaussians():
    base = white(200, 3)
    spread = np.array([1.0, 2.0, 0.5])
    moved = white(300, 3) * spread + [3, 0, 4]
    assert frechet_distance(base, moved) == pytest.approx(25 + ((1 - spread) ** 2).sum(), rel=1e-9)
    assert frechet_distance(base, base) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(moved, base) == pytest.approx(frechet_distance(base, moved), rel=1e-9)


def test_the_frechet_distance_of_covariances_that_do_not_commute():
    a, b = np.array([[2.0, 0.0], [0.7, 1.0]]), np.array([[1.0, -0.9], [0.0, 1.5]])
    s1, s2 = a @ a.T, b @ b.T
    wanted = np.trace(s1) + np.trace(s2) - 2 * np.sqrt(np.linalg.eigvals(s1 @ s2)).sum().real
    assert frechet_distance(white(50, 2) @ a.T, white(60, 2) @ b.T) == pytest.approx(wanted, rel=1e-9)


def test_degenerate_features_stay_real():
    flat = np.hstack([white(60, 2), np.zeros((60, 3))])
    assert frechet_distance(flat, flat) == pytest.approx(0, abs=1e-9)


def test_distances_refuse_what_they_cannot_measure():
    with pytest.raises(ValueError, match="want at least 5"):
        frechet_distance(rng.normal(size=(4, 4)), rng.normal(size=(40, 4)))
    with pytest.raises(ValueError, match="of one d"):
        kernel_distance(rng.normal(size=(9, 4)), rng.normal(size=(9, 5)))
    with pytest.raises(ValueError, match="want at least 4"):
        inside(rng.normal(size=(9, 4)), rng.normal(size=(3, 4)))


def test_the_kernel_distance_by_hand_and_in_blocks():
    a, b = np.array([[0.0], [1.0]]), np.array([[2.0], [0.0]])
    own, other = 1.0, 1.0  # k(0, 1) = k(2, 0) = 1, twice each over 2 pairs
    cross = (1 + 1 + 27 + 1) / 4  # k(0, 2), k(0, 0), k(1, 2), k(1, 0)
    assert kernel_distance(a, b) == pytest.approx(own + other - 2 * cross)
    first, second = rng.normal(size=(400, 4)), rng.normal(size=(400, 4))
    whole, cut = kernel_distance(first, second), kernel_distance(first, second, block=100)
    assert abs(whole) < 0.05 and abs(cut) < 0.1 and whole != cut
    assert kernel_distance(first, second + 1) > 1


def test_precision_and_recall_tell_quality_from_variety():
    reference = rng.normal(size=(200, 2))
    precision, recall = precision_recall(reference, reference)
    assert precision.value == recall.value == 100
    precision, recall = precision_recall(reference[:20] * 0.01, reference)
    assert precision.value == 100 and recall.value < 10
    precision, recall = precision_recall(reference + 50, reference)
    assert precision.value == recall.value == 0


def test_parity_with_torch_fidelity():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    first = torch.from_numpy(rng.normal(size=(150, 8)) @ rng.normal(size=(8, 8)))
    second = torch.from_numpy(rng.normal(size=(150, 8)) + 0.5)
    theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (first, second)), verbose=False)
    assert frechet_distance(first.numpy(), second.numpy()) == pytest.approx(*theirs.values(), rel=1e-8)
    options = {"kid_kernel": "poly", "kid_kernel_poly_degree": 3, "kid_kernel_poly_coef0": 1}
    options["kid_kernel_poly_gamma"] = None
    ours = kernel_distance(first.numpy(), second.numpy())
    assert ours == pytest.approx(kernel_mmd(first.numpy(), second.numpy(), **options), rel=1e-9)
    found = [interval.value / 100 for interval in precision_recall(first.numpy(), second.numpy())]
    assert found == pytest.approx(calculate_precision_recall_full(first, second, neighborhood=3), abs=1e-6)


def test_the_jackknife_covers_what_many_samples_say():
    def gap(a: np.ndarray, b: np.ndarray) -> float:
        return float(a.mean() - b.mean())

    draw = np.random.default_rng(1)
    intervals = [with_interval(gap, draw.normal(size=(90, 1)), draw.normal(size=(110, 1))) for _ in range(200)]
    assert 0.9 <= np.mean([i.low <= 0 <= i.high for i in intervals]) <= 0.99
    assert np.mean([i.error for i in intervals]) == pytest.approx((1 / 90 + 1 / 110) ** 0.5, rel=0.1)


# Controls


def test_edges_are_matched_within_a_pixel():
    wanted = np.zeros((12, 12), np.uint8)
    wanted[:, 5] = 255
    assert edge_scores(wanted, wanted) == (1, 1)
    assert edge_scores(np.roll(wanted, 1, 1), wanted) == (1, 1)
    assert edge_scores(np.roll(wanted, 2, 1), wanted) == (0, 0)
    half = wanted.copy()
    half[6:] = 0
    precision, recall = edge_scores(half, wanted)
    assert precision == 1 and recall == pytest.approx(7 / 12), "the row next to the last edge still counts"
    none = np.zeros_like(wanted)
    assert np.isnan(edge_scores(none, wanted)[0]) and edge_scores(none, wanted)[1] == 0


def test_edge_metrics_leave_out_what_cannot_be_asked():
    nan = float("nan")
    metrics = edge_metrics([(1.0, 0.5), (nan, 0.0), (nan, nan)])
    assert metrics["edge_precision"].value == pytest.approx(100)
    assert metrics["edge_recall"].value == pytest.approx(25)
    assert metrics["edge_f"].value == pytest.approx((2 / 3 + 0) / 2 * 100)


def test_key_points_count_relative_to_the_figure_and_only_where_visible():
    true = np.array([[[0.0, 0.0], [10.0, 0.0], [0.0, 20.0], [99.0, 99.0]]])
    visible = np.array([[True, True, True, False]])
    found = true + np.array([[[2.0, 0.0], [0.0, 2.1], [1.0, 1.0], [0.0, 0.0]]])
    assert points_found(found, true, visible).tolist() == [[True, False, True, False]], "within 0.1 of 20"
    assert pck(found, true, visible).value == pytest.approx(200 / 3)
    assert pck(found, true, visible, threshold=0.2).value == 100


# The judge: a short training, and what is measured with it


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with figures and a judge of a few steps, as `Judge.load` would leave it."""
    folder = tmp_path_factory.mktemp("judge")
    for split, count in (("train", 64), ("test", 48)):
        pipeline = world_pipeline("figures", count=count, split=split, seed=0, size=64)
        run_pipeline(pipeline, folder / split, workers=0)
    overrides = [f"data.train={folder / 'train'}", f"data.validation={folder / 'test'}", "train.batch=16"]
    overrides += [
        "train.steps=30",
        "log.every=5",
        "log.tensorboard=false",
        "model.widths=[16,24,32]",
        "model.features=12",
    ]
    train(make_plan(registry.find_recipe("judge"), "tiny", None, overrides, folder / "run"), note=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def judge(home) -> Judge:
    return Judge.open(home / "run")


def test_a_judge_whose_training_was_stopped_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_HOME", str(tmp_path))
    monkeypatch.setattr(judging, "train", lambda plan, note: Outcome("stopped", plan.out, 3, 30))
    with pytest.raises(LtError, match="Stopped while the world's judge was trained"):
        Judge.load(lambda line: None)


@pytest.fixture(scope="module")
def figures(home) -> list[Sample]:
    return list(open_shards(home / "test"))


def test_the_judge_learns_and_stores_its_held_out_accuracy(home, judge):
    from lt.recipes.training.logging import read_log

    losses = [line["loss"] for line in read_log(home / "run", "train")]
    assert losses[-1] < losses[0]
    assert {"attributes", "said", "pck", "pck_hidden", *ATTRIBUTES} == judge.record.metrics.keys()
    assert judge.record.score == min(judge.record.metrics["said"], judge.record.metrics["pck"])
    assert len(judge.digest) == 64 and judge.record.data


def test_the_stored_accuracies_are_those_that_the_judge_has_on_the_test_figures(judge, figures):
    pictures = [sample.picture for sample in figures]
    true, seen = zip(*(true_points(sample, 64) for sample in figures), strict=True)
    found = pck(judge.key_points(pictures), np.stack(true), np.stack(seen)).value
    assert found == pytest.approx(judge.record.metrics["pck"], abs=0.3)
    said = text_accuracy(judge, pictures, figures)["all"].value
    assert said == pytest.approx(judge.record.metrics["said"], abs=0.5)


def test_the_judge_speaks_in_pixels_and_names(judge, figures):
    pictures = [sample.picture for sample in figures]
    assert judge.features(pictures).shape == (48, 12)
    large = [np.kron(picture, np.ones((2, 2, 1), np.uint8)) for picture in pictures[:4]]
    found = judge.key_points([*pictures[:4], *large])
    assert found.shape == (8, 17, 2) and (found >= 0).all() and (found[:4] <= 64).all()
    assert np.median(np.abs(found[4:] - 2 * found[:4])) < 8, "the same picture, twice as large"
    told = judge.attributes(pictures)
    assert all(set(told[name]) <= set(values) and len(told[name]) == 48 for name, values in ATTRIBUTES.items())
    with pytest.raises(LtError, match="square"):
        judge.key_points([pictures[0][:, :32]])


def test_text_accuracy_counts_what_captions_say(judge, figures, monkeypatch):
    pictures = [sample.picture for sample in figures]
    truth = {
        name: [described(sample).get(name, values[0]) for sample in figures] for name, values in ATTRIBUTES.items()
    }
    monkeypatch.setattr(Judge, "attributes", lambda *_: truth)
    assert text_accuracy(judge, pictures, figures)["all"].value == 100
    truth["top_colour"] = ["none of them"] * len(figures)
    found = text_accuracy(judge, pictures, figures)
    assert found["top_colour"].value == 0 and found["hat"].value == 100 and found.keys() == {"all", *IN_EVERY_WORDING}
    with pytest.raises(SampleError, match=r"json\.figure"):
        text_accuracy(judge, pictures[:1], [Sample("a", {"json": {}})])


def test_labels_are_in_the_captions(figures):
    for sample in figures:
        told, said = described(sample), sample.meta["captions"]["en"]
        for wording in said:
            assert told["top_colour"] in wording and told["person"] in wording and told["top"] in wording
            assert ("from behind" in wording) == (told["view"] == "back")
            assert ("waist up" in wording) == (told["half"] == "half")
            assert (" cap" in wording) == bool(told["hat"])
        assert ("bottom" in told) == (told["half"] == ""), "what a half figure wears below cannot be seen"


def test_a_mirrored_row_is_that_of_the_mirrored_figure(figures):
    row = Row(64)(figures[0], None)
    other = mirrored(row)
    twice = mirrored(other)
    assert all(np.allclose(row[name], twice[name]) for name in row)
    assert (other["image"][:, :, 0] == row["image"][:, :, 63]).all()
    left, right = COCO_KEYPOINTS.index("left_wrist"), COCO_KEYPOINTS.index("right_wrist")
    assert other["points"][left, 0] == pytest.approx(1 - row["points"][right, 0])
    places = [place for place, name in enumerate(ATTRIBUTES) if name in ("side", "facing")]
    swapped = {0: 0, 1: 2, 2: 1}
    expected = [swapped[int(v)] if place in places else int(v) for place, v in enumerate(row["labels"])]
    assert other["labels"].tolist() == expected and {"left", "right"} & {described(s)["side"] for s in figures}


def test_exact_points_scale_with_the_picture(figures):
    points, seen = true_points(figures[0], 128)
    stored = np.array(figures[0].meta["keypoints"][0])
    assert np.allclose(points, stored[:, :2] * 2) and (seen == (stored[:, 2] == 2)).all()


# The command


def drawn_shards(home, figures, name: str, change=lambda picture: picture):
    """Samples as `lt sample pangu` writes them, drawn from the test figures."""
    from lt.datagen.shards.writer import ShardWriter

    folder = home / name
    if not folder.is_dir():
        folder.mkdir()
        with ShardWriter(folder / "shard-000000.tar") as writer:
            for sample in figures:
                fields = {"png": change(sample.picture), "txt": sample["txt"], "edge.png": sample["edge.png"]}
                fields["json"] = {"captions": {"en": sample["txt"]}, "seed": 0, "prompt_of": sample.key}
                writer.write(Sample(f"{sample.key}-seed-0", fields))
    return folder


@pytest.fixture
def here(home, judge, monkeypatch, capsys):
    """`lt eval images` inside this process, with the short judge in the place of the trained one."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("LT_HOME", str(home / "cache"))
    monkeypatch.setattr(Judge, "load", classmethod(lambda cls, note=print: judge))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lt", "eval", "images", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


def test_true_pictures_are_perfect_and_noisy_ones_are_not(home, figures, here):
    drawn_shards(home, figures, "perfect")
    drawn_shards(home, figures, "dark", lambda picture: picture // 3)
    code, shown, told = here("perfect", "--reference", "test", "--controls", "edge,pose,caption", "--json")
    assert code == 0, told
    perfect = json.loads(shown)
    expected = text_accuracy(Judge.load(), [figure.picture for figure in figures], figures)
    assert perfect["metrics"]["said"]["value"] == pytest.approx(expected["all"].value)
    assert perfect["metrics"]["said_top_colour"]["value"] == pytest.approx(expected["top_colour"].value)
    assert perfect["metrics"]["world_frechet"]["value"] == pytest.approx(0, abs=1e-6)
    assert perfect["metrics"]["edge_f"]["value"] == perfect["metrics"]["precision"]["value"] == 100
    assert perfect["protocol"]["extractor"]["name"] == "world judge"
    (home / "perfect.json").write_text(shown)
    code, shown, told = here(
        "dark", "--reference", "test", "--controls", "edge,pose,caption", "--against", "perfect.json", "--json"
    )
    assert code == 0, told
    dark = json.loads(shown)
    assert dark["metrics"]["edge_recall"]["value"] < 90
    change = dark["differences"]["edge_f"]
    assert change["value"] == pytest.approx(dark["metrics"]["edge_f"]["value"] - 100) and change["high"] < 0
    assert dark["data"]["digest"] != perfect["data"]["digest"]


def test_a_table_for_people_and_features_from_the_cache(home, figures, here):
    drawn_shards(home, figures, "perfect")
    code, shown, told = here("perfect", "--reference", "test")
    assert code == 0 and "world_kernel" in shown and "by world judge; 48 pictures of 64x64" in told
    cached = extract(PictureSet(str(home / "test"), None, (64, 64)), Judge.load())
    assert cached.from_cache and cached.features.shape == (48, 12)


@pytest.mark.parametrize("field", ["controls", "reference", "limit"])
def test_figures_of_other_protocols_are_not_compared(home, figures, here, field):
    drawn_shards(home, figures, "perfect")
    _, shown, _ = here("perfect", "--reference", "test", "--json")
    (home / "before.json").write_text(shown)
    words = {"controls": ["--controls", "edge"], "limit": ["--limit", "40"], "reference": []}[field]
    reference = "train" if field == "reference" else "test"
    code, _, told = here("perfect", "--reference", reference, *words, "--against", "before.json")
    named = {"controls": "controls", "reference": "reference.digest", "limit": "pictures is 48 there, 40 here"}[field]
    assert code == 1 and "cannot be compared" in told and named in told
    with pytest.raises(LtError, match="Want what"):
        report.Before.read(home / "run")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["perfect", "--reference", "test", "--limit", "19"], 1, "too few to compare"),
        (["nowhere", "--reference", "test"], 1, "No shards"),
        (["perfect", "--reference", "test", "--controls", "egde"], 2, "Did you mean edge?"),
        (["perfect", "--reference", "test", "--extractor", "nowhere.pth"], 1, "Cannot read the weights nowhere.pth"),
        (["perfect", "--reference", "train", "--controls", "pose"], 1, "48 no-source"),
        (["perfect", "--reference", "train", "--controls", "caption"], 1, "48 no-source"),
        (["train", "--reference", "test", "--clip", "run"], 1, "checkpoint of judge"),
    ],
)
def test_errors_are_for_people(home, figures, here, words, code, message):
    drawn_shards(home, figures, "perfect")
    found, _, told = here(*words)
    assert found == code and message in " ".join(told.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reference", "test", "--limit", "19"], "too few to compare"),
        (["--reference", "train", "--controls", "pose"], "48 no-source"),
        (["--reference", "train", "--controls", "caption"], "48 no-source"),
        (["--reference", "test", "--against", "nowhere.json"], "Cannot read nowhere.json"),
        (
            ["--reference", "test", "--controls", "pose", "--extractor", "nowhere.pth"],
            "Cannot read the weights nowhere",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_judge_is_trained(
    home, figures, here, monkeypatch, words, message
):
    def trained(cls, note):
        raise AssertionError("the judge was asked for")

    drawn_shards(home, figures, "perfect")
    monkeypatch.setattr(Judge, "load", classmethod(trained))
    code, _, told = here("perfect", *words)
    assert code == 1 and message in " ".join(told.split())


def test_what_has_nothing_to_count_is_left_out_of_the_json_with_its_reason(home, figures, here):
    def refused(constant):
        raise AssertionError(f"{constant} is no json")

    drawn_shards(home, figures, "blank", lambda picture: picture * 0 + 90)
    code, shown, told = here("blank", "--reference", "test", "--controls", "edge", "--json")
    found = json.loads(shown, parse_constant=refused)
    assert code == 0 and found["metrics"]["edge_recall"]["value"] == 0, told
    assert "edge_precision" not in found["metrics"]
    assert "anything to count" in found["left_out"]["edge_precision"] and "edge_precision is left out" in told
    _, table, _ = here("blank", "--reference", "test", "--controls", "edge")
    assert "edge_recall" in table and "nan" not in table and "edge_precision" not in table


def test_the_frechet_distance_is_left_out_aloud_where_pictures_are_few(home, figures, judge):
    features = judge.features([sample.picture for sample in figures])[:20]
    narrow, wide = features[:, :4], np.tile(features, 2)
    metrics, left_out = report._distances(narrow, narrow + 1e-3, judge)
    assert "world_frechet" in metrics and not left_out
    metrics, left_out = report._distances(wide, wide, judge)
    assert "world_frechet" not in metrics
    assert "20 pictures are too few for features of 24 numbers; it takes more than 27" in left_out["world_frechet"]


def test_sets_without_pictures_are_named(home, figures, judge):
    from lt.datagen.shards.writer import ShardWriter

    (home / "texts").mkdir()
    with ShardWriter(home / "texts" / "shard-000000.tar") as writer:
        writer.write(Sample("a", {"txt": "no picture"}))
    with pytest.raises(LtError, match="texts holds no picture"):
        PictureSet(str(home / "texts")).own_size
    with pytest.raises(LtError, match="texts holds no picture"):
        extract(PictureSet(str(home / "texts"), None, (64, 64)), judge, cache=False)


def test_sizes_must_agree(home, figures):
    small = drawn_shards(home, figures[:2], "small", lambda picture: picture[::2, ::2])
    with pytest.raises(LtError, match="enlarging the reference"):
        list(PictureSet(str(small), None, (64, 64)).samples())
    widths = iter([64, 32])
    mixed = drawn_shards(home, figures[:2], "mixed", lambda picture: picture[: next(widths)])
    with pytest.raises(LtError, match="not all of one size"):
        list(PictureSet(str(mixed)).samples())
    shrunk = next(PictureSet(str(home / "test"), None, (32, 32)).samples())
    assert shrunk.picture.shape == (32, 32, 3)


def test_clip_score_is_the_cosine_of_picture_and_prompt(home, figures):
    from lt.models.nn.contrastive import Features
    from lt.recipes.evaluate.images.controls import clip_score

    class Told:
        """An encoder that knows two directions: the picture's and the text's lie 60 degrees apart."""

        language = "en"

        def prepared(self, pixels):
            return pixels

        def images(self, pictures):
            return Features(torch.tensor([[[1.0, 0.0]]]).expand(len(pictures), 1, 2))

        def texts(self, texts):
            return Features(torch.tensor([[[0.5, 0.75**0.5]]]).expand(len(texts), 1, 2))

    folder = drawn_shards(home, figures, "perfect")
    score, prompts, bad = clip_score(PictureSet(str(folder)), Told())
    assert score.value == pytest.approx(50) and prompts == [figure["txt"] for figure in figures] and not bad
    Told.language = "zh"
    with pytest.raises(LtError, match="has a prompt"):
        clip_score(PictureSet(str(folder)), Told())


# Inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of Inception's shape with random numbers: it says nothing of quality, and goes the way that the real one goes."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_):
            pass

    torch.manual_seed(0)
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(Blank("blank", ["2048"], feature_extractor_weights_path=nothing).state_dict(), path)
    return path


def test_inception_loads_from_a_path_and_gives_torch_fidelitys_features(weights, figures):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    pictures = [sample.picture for sample in figures[:2]]
    ours = Inception.load(weights)
    theirs = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(weights))
    batch = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    assert np.array_equal(ours.features(pictures), theirs(batch)[0].numpy())
    assert ours.features(pictures).shape == (2, 2048) and ours.distances == ("fid", "kid")


def test_inception_refuses_other_files(weights, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(LtError, match="no file of tensors"):
        Inception.load(tmp_path / "text.pth")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(LtError, match="weights of another network"):
        Inception.load(tmp_path / "other.pth")


def test_unknown_controls_are_named():
    assert report.checked_controls(" edge, pose") == ["edge", "pose"] and report.checked_controls("") == []
    with pytest.raises(UsageError, match="'depth'"):
        report.checked_controls("depth")
