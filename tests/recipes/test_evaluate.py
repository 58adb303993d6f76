"""Bootstrap, retrieval, localisation, zero-shot: exact metrics on small numbers."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lt.datagen.shards import LtError, Sample, ShardWriter, UsageError
from lt.models.nn.contrastive import Features
from lt.models.nn.tokenizers import WordTokenizer
from lt.recipes.evaluate import features, zero_shot
from lt.recipes.evaluate.bootstrap import resampled
from lt.recipes.evaluate.localisation import found, found_metrics, on_thing
from lt.recipes.evaluate.readers import open_collection
from lt.recipes.evaluate.report import evaluate_retrieval, evaluate_zero_shot
from lt.recipes.evaluate.retrieval import recalls
from lt.recipes.evaluate.things import things_of
from lt.recipes.words import unknown_words


def vectors(*rows):
    return Features(F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)[:, None])


def test_the_bootstrap_interval_covers_the_mean_and_narrows_with_the_root_of_the_size():
    rng = np.random.default_rng(0)
    small, large = (resampled(x := rng.normal(5, 2, (n, 1)), np.ones_like(x))[0] for n in (100, 10000))
    assert small.low < small.value < small.high
    assert large.error == pytest.approx(2 / 100, rel=0.1) and small.error == pytest.approx(2 / 10, rel=0.25)
    assert resampled(np.ones((3, 1)), np.ones((3, 1)))[0][:3] == (1, 1, 1)


def test_a_ratio_is_resampled_by_rows():
    numerators, denominators = np.array([[2.0], [0.0]]), np.array([[2.0], [1.0]])
    interval = resampled(numerators, denominators)[0]
    assert interval.value == pytest.approx(2 / 3) and interval.low == 0 and interval.high == 1


def test_the_bootstrap_refuses_what_has_no_rows():
    with pytest.raises(ValueError, match="at least one row"):
        resampled(np.zeros((0, 1)), np.zeros((0, 1)))


def test_retrieval_with_several_captions():
    images = vectors([1, 0], [0, 1])
    texts = vectors([1, 0.1], [0.1, 1], [0.2, 1])  # the second caption of the first picture fits the second picture
    owner, numbers = torch.tensor([0, 0, 1]), torch.tensor([10, 11, 12])
    result = recalls(images, texts, numbers, owner)
    assert result.image_ranks.tolist() == [0, 1] and result.text_ranks.tolist() == [0, 1, 0]
    metrics = result.metrics()
    assert metrics["image_r1"] == 50 and metrics["text_r1"] == pytest.approx(200 / 3) and metrics["image_r5"] == 100
    expected = (50 + 100 + 100 + 200 / 3 + 100 + 100) / 6
    assert metrics["mean_recall"] == pytest.approx(expected)
    interval = result.intervals()["mean_recall"]
    assert interval.low <= interval.value <= interval.high


def test_equal_texts_are_equally_right():
    images, texts = vectors([1, 0], [1, 0.1]), vectors([1, 0], [1, 0])
    assert recalls(images, texts, torch.tensor([5, 5])).metrics()["image_r1"] == 100
    assert recalls(images, texts, torch.tensor([5, 6])).metrics()["image_r1"] == 0


def test_features_that_are_all_the_same_score_nothing():
    same = Features(torch.ones(20, 1, 4) / 2)
    assert recalls(same, same, torch.arange(20)).metrics()["mean_recall"] == 0


def test_token_wise_retrieval_uses_one_similarity_for_each_direction():
    torch.manual_seed(0)
    images = Features(F.normalize(torch.randn(6, 5, 8), dim=-1))
    mask = torch.arange(4)[None] < torch.tensor([4, 3, 2, 4, 1, 2])[:, None]
    texts = Features(F.normalize(torch.randn(6, 4, 8), dim=-1) * mask[..., None], mask)
    products = torch.einsum("ikd,jld->ijkl", images.tokens, texts.tokens)
    s_i = products.masked_fill(~mask[None, :, None], -1e9).amax(3).mean(2)
    s_t = (products.amax(2) * mask).sum(2) / mask.sum(1)
    result = recalls(images, texts, torch.arange(6))
    assert result.image_ranks.tolist() == [int((row > row[i]).sum()) for i, row in enumerate(s_i)]
    assert result.text_ranks.tolist() == [int((row > row[j]).sum()) for j, row in enumerate(s_t.T)]


def test_localisation_of_one_thing():
    patches, words = torch.eye(4)[None], torch.eye(4)[None, [2, 0]]
    names = torch.tensor([[[True, False], [False, True], [False, False]]])  # the third is no thing
    cells = torch.tensor([[[0, 0, 1.0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]]])
    result = found(patches, words, names, cells)
    assert result.hits.tolist() == [1, 0] and result.chance.tolist() == [0.25, 0.5] and result.rows.tolist() == [0, 0]
    assert found_metrics([result]) == {"found": 50.0, "found_chance": 37.5}
    assert found_metrics([]) == {}


def test_a_name_of_two_words_looks_with_both():
    patches = torch.tensor([[[1.0, 0], [0.7, 0.7], [0, 1]]])
    words = torch.tensor([[[1.0, 0], [0, 1]]])
    cells = torch.tensor([[[0, 1.0, 0]]])
    assert found(patches, words, torch.tensor([[[True, True]]]), cells).hits.tolist() == [1]


def test_small_things_count_where_they_are_largest():
    assert on_thing(torch.tensor([0.1, 0.04, 0.0])).tolist() == [True, False, False]
    assert on_thing(torch.tensor([1.0, 0.3, 0.2])).tolist() == [True, True, False]
    assert on_thing(torch.zeros(3)).tolist() == [False] * 3


def test_labels_of_samples():
    single = {"layers": [{"category": "koala"}, {"category": "koala"}]}
    assert zero_shot.label_of(Sample("a", {"cls": b"3"}), "en") == ("3", "3")
    assert zero_shot.label_of(Sample("a", {"json": {"label": 7}}), "en") == ("7", "7")
    assert zero_shot.label_of(Sample("a", {"json": single}), "zh") == ("koala", "考拉")
    assert (
        zero_shot.label_of(Sample("a", {"json": {"layers": [{"category": "koala"}, {"category": "panda"}]}}), "en")
        is None
    )
    assert zero_shot.label_of(Sample("a", {"txt": "x"}), "en") is None


@pytest.mark.parametrize(
    "meta",
    [
        [],
        "text",
        {"layers": 12},
        {"layers": ["koala"]},
        {"layers": [{"category": ["koala"]}]},
        {"layers": [{"caption": 7}]},
    ],
)
def test_json_of_other_shapes_tells_nothing(meta):
    layers = {"json": meta, "layer-00.png": np.zeros((2, 2, 4), np.uint8)}
    assert zero_shot.label_of(Sample("a", layers), "en") is None
    assert things_of(Sample("a", layers), "en", "a koala", WordTokenizer(["a", "koala"], 8)) == []


def test_classes_by_label_name_or_number(tmp_path):
    (tmp_path / "classes.txt").write_text("n01\ttench\nn02\tgoldfish\n", encoding="utf-8")
    classes = zero_shot.read_classes(tmp_path / "classes.txt")
    assert classes.names == ["tench", "goldfish"]
    known, numbers = zero_shot.known_classes([("n02", ""), ("tench", ""), ("1", "")], classes)
    assert known is classes and numbers.tolist() == [1, 0, 1]
    with pytest.raises(LtError, match="no classes, such as shark"):
        zero_shot.known_classes([("shark", "shark")], classes)
    occurring, numbers = zero_shot.known_classes([("b", "B"), ("a", "A"), ("b", "B")], None)
    assert occurring.names == ["A", "B"] and numbers.tolist() == [1, 0, 1]


@pytest.mark.parametrize("text", ["", "a\na\n"])
def test_bad_class_files_are_refused(tmp_path, text):
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    with pytest.raises(LtError):
        zero_shot.read_classes(tmp_path / "classes.txt")


def test_the_shipped_prompts_are_templates_without_repetition():
    assert zero_shot.shipped_prompts() == ["chinese", "english", "world-chinese", "world-english"]
    for name in zero_shot.shipped_prompts():
        prompts = zero_shot.read_prompts(name)
        assert len(set(prompts)) == len(prompts) >= 7
    assert len(zero_shot.read_prompts("chinese")) == 78


def test_prompts_must_have_a_place_for_the_class(tmp_path):
    (tmp_path / "prompts.txt").write_text("# a comment\na photo of a cat\n", encoding="utf-8")
    with pytest.raises(LtError, match="must hold"):
        zero_shot.read_prompts(str(tmp_path / "prompts.txt"))
    (tmp_path / "prompts.txt").write_bytes(b"a photo of {} \xff")
    with pytest.raises(LtError, match="Cannot read the prompts"):
        zero_shot.read_prompts(str(tmp_path / "prompts.txt"))
    with pytest.raises(UsageError, match="No prompts 'enlgish'"):
        zero_shot.read_prompts("enlgish")


def test_accuracies_count_ties_against_the_model():
    scored = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.0, 0.2, 0.9]])
    metrics = zero_shot.accuracies(scored, np.array([0, 0, 0]))
    assert metrics["top1"].value == pytest.approx(100 / 3) and metrics["top5"].value == 100


class Brightness(features.Encoder):
    """An encoder of one system that is no dual encoder: the brightness of a picture, the number that a text begins with."""

    def __init__(self, record):
        super().__init__(record, "en", 1, "mean", "levels.txt", "mean")

    def prepared(self, pixels):
        return pixels.mean(dtype=np.float32)

    def images(self, pictures):
        return self._features(pictures)

    def texts(self, texts):
        return self._features([float(text.split()[0]) for text in texts])

    def _features(self, levels):
        angles = torch.tensor(np.asarray(levels), dtype=torch.float32) / 255
        return Features(torch.stack([angles.cos(), angles.sin()], 1)[:, None])


@pytest.fixture
def greys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LT_HOME", str(tmp_path / "home"))
    (tmp_path / "levels.txt").write_text("{} of 255\n")
    with ShardWriter(tmp_path / "greys" / "shard-000000.tar", durable=False) as writer:
        for level in (0, 90, 200):
            meta = {"captions": {"en": f"{level} grey"}, "label": f"{level} grey"}
            writer.write(Sample(f"g-{level}", {"png": np.full((4, 4, 3), level, np.uint8), "json": meta}))
    record = SimpleNamespace(
        files={"model.safetensors": "0f"}, system="bright", preset="tiny", step=1, data={}, settings={}
    )
    return open_collection("greys"), record


def test_any_objective_with_an_encoder_is_evaluated(greys, monkeypatch):
    collection, record = greys
    monkeypatch.setattr(features.checkpoints, "restore", lambda where: (SimpleNamespace(encoder=Brightness), record))
    encoder, notes = features.load_encoder(Path("runs/bright")), []
    found = evaluate_retrieval(encoder, collection, note=notes.append)
    assert found.metrics["mean_recall"].value == 100 and found.model["digest"] == "0f"
    assert found.protocol["size"] == 1 and "bright (tiny, step 1)" in notes[0]
    again = evaluate_zero_shot(encoder, collection, note=notes.append)
    assert again.metrics["top1"].value == 100 and "features from the cache" in notes[1]
    assert again.protocol["prompts"] == ["{} of 255"] and again.protocol["rule"] == "mean"


def test_what_has_no_encoder_is_refused(greys, monkeypatch):
    monkeypatch.setattr(features.checkpoints, "restore", lambda where: (object(), greys[1]))
    with pytest.raises(LtError, match="checkpoint of bright, which has no shared space"):
        features.load_encoder(Path("runs/bright"))


# Labels, caches, unknown words


def imagenet(folder, suffix="png"):
    """Samples as ImageNet's shards have them: a picture and the number of its class, no caption."""
    with ShardWriter(folder / "shard-000000.tar", durable=False) as writer:
        for number, level in enumerate((0, 90, 200)):
            picture = np.full((4, 4, 3), level, np.uint8)
            writer.write(Sample(f"g-{level}", {suffix: picture, "cls": str(number).encode()}))
    return open_collection(str(folder), language=None)


def test_pictures_with_a_class_and_no_caption_are_classified_by_the_names_of_a_file(greys, tmp_path):
    encoder, collection = Brightness(greys[1]), imagenet(tmp_path / "imagenet")
    (tmp_path / "names.txt").write_text("0 grey\n90 grey\n200 grey\n")
    found = evaluate_zero_shot(encoder, collection, tmp_path / "names.txt", note=lambda line: None)
    assert found.metrics["top1"].value == 100 and found.protocol["pictures"] == 3
    (tmp_path / "names.txt").write_text("a\t0 grey\nb\t90 grey\nc\t90 grey\n")
    notes = []
    found = evaluate_zero_shot(encoder, collection, tmp_path / "names.txt", note=notes.append)
    assert found.metrics["top1"].value == pytest.approx(100 / 3) and "such as 90 grey: these tie" in notes[0]
    with pytest.raises(LtError, match="Labels are numbers, such as 0") as caught:
        evaluate_zero_shot(encoder, collection, note=lambda line: None)
    assert "--classes" in (caught.value.hint or "")
    with pytest.raises(LtError, match="3 no-caption"):
        evaluate_retrieval(encoder, open_collection(str(tmp_path / "imagenet")), note=lambda line: None)


def test_features_are_found_again_for_the_same_pictures_only(greys, tmp_path):
    from PIL import Image

    encoder, levels = Brightness(greys[1]), [0, 90, 200]
    (tmp_path / "a.token").write_text("".join(f"{n}.png#0\t{level} grey\n" for n, level in enumerate(levels)))

    def evaluated(folder, shown):
        (tmp_path / folder).mkdir(exist_ok=True)
        for number, level in enumerate(shown):
            Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / folder / f"{number}.png")
        notes = []
        collection = open_collection(str(tmp_path / "a.token"), tmp_path / folder)
        found = evaluate_retrieval(encoder, collection, note=notes.append)
        return found.metrics["image_r1"].value, found.data["digest"], "from the cache" in notes[0]

    right = evaluated("a", levels)
    turned = evaluated("b", [200, 0, 90])
    assert right[0] == 100 and turned[0] == 0 and right[1] != turned[1] and not turned[2]
    assert evaluated("a", levels) == (100, right[1], True)
    assert evaluated("a", [200, 0, 90]) == (0, turned[1], True), "the same pictures in another folder"


def test_a_picture_that_cannot_be_read_is_named_also_where_the_others_come_from_the_cache(greys, tmp_path):
    encoder = Brightness(greys[1])
    imagenet(tmp_path / "set")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "a.token").write_text("broken.png#0\t5 grey\nwhole.png#0\t200 grey\n")
    (tmp_path / "whole.png").write_bytes(next(iter(imagenet(tmp_path / "set").items())).sample.encoded("png"))
    for cached in (False, True):
        notes = []
        found = evaluate_retrieval(encoder, open_collection(str(tmp_path / "a.token")), note=notes.append)
        assert found.passed_over == {"undecodable-image": 1} and found.protocol["captions"] == 1
        assert ("from the cache" in notes[0]) == cached and "undecodable-image (first: broken)" in notes[1]


def test_another_setting_of_the_model_is_another_cache(greys):
    collection, record = greys
    kept = []
    for settings in ({"model.head": "tokens"}, {"model.head": "global"}, {"model.head": "tokens", "train.lr": 1}):
        encoder = Brightness(SimpleNamespace(**{**vars(record), "settings": settings}))
        kept.append(features.encode_pictures(encoder, collection).from_cache)
    assert kept == [False, False, True]


def test_words_that_the_model_never_learned_are_named(greys):
    class Learned(Brightness):
        def unknown(self, texts):
            return unknown_words(["90", "200"], texts)

    notes = []
    found = evaluate_retrieval(Learned(greys[1]), greys[0], note=notes.append)
    assert found.data["unknown_words"] == {"share": pytest.approx(4 / 6), "words": ["grey", "0"]}
    assert "66.7 % of the words are unknown to the model: grey, 0" in notes[-1]
    assert unknown_words([], []) == (0.0, [])
