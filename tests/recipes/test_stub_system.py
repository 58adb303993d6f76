"""A system is one file, one folder and one registry line: a stub trains, draws, edits, measures and appears everywhere."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lt.cli import app
from lt.datagen.shards import open_shards
from lt.recipes import registry


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("person")


@pytest.fixture
def lt(folder, monkeypatch, capsys):
    """`lt` with the stub in its registry: words in; code, stdout and stderr out."""
    monkeypatch.setitem(registry.SYSTEMS, "stub", "stub")
    monkeypatch.chdir(folder)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lt", *words])
        with pytest.raises(SystemExit) as ended:
            app.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return call


@pytest.mark.parametrize("verb", ["train", "sample", "edit", "reproduce"])
def test_it_appears_under_every_verb(lt, verb):
    _, shown, _ = lt(verb, "--help")
    assert "  stub " in shown
    code, shown, _ = lt(verb, "stub", "--help")
    assert code == 0 and f"Example: lt {verb} stub" in shown


def test_its_own_names_appear_under_eval_and_datagen(lt):
    assert "  shade " in lt("eval", "--help")[1] and "  squares " in lt("datagen", "--help")[1]
    code, shown, _ = lt("datagen", "squares", "--help")
    assert code == 0 and "How many squares.  [default: 2; x>=1]" in shown and "data/squares-<count>" in shown
    assert "--devices" in shown and "Example: lt datagen squares" in shown
    assert lt("datagen", "squares", "--count", "0")[0] == 2


def test_it_trains_draws_and_is_measured(lt, folder):
    code, _, told = lt("train", "stub")
    assert code == 0 and "Done: 40 steps" in told
    code, shown, _ = lt("eval", "shade", "--json")
    assert code == 0 and json.loads(shown)["shade"] == pytest.approx(0.1, abs=0.05)
    assert "shade" in lt("eval", "shade")[1]
    assert lt("sample", "stub", "--count", "3")[0] == 0
    drawn = [sample["png"] for sample in open_shards(str(folder / "samples" / "stub"))]
    assert len(drawn) == 3 and abs(int(drawn[0][0, 0, 0]) - 25) < 13


def test_it_makes_data_and_edits_them(lt, folder):
    assert lt("datagen", "squares", "--count", "3")[0] == 0
    code, _, told = lt("edit", "stub", "data/squares-3", "--instruction", "invert", "--box", "8,8,16,32")
    assert code == 0 and "Look at: lt shards page edits/stub" in told
    sample = next(iter(open_shards(str(folder / "edits" / "stub"))))
    expected = np.full((64, 64, 3), 26, np.uint8)
    expected[8:40, 8:24] = 229
    assert (sample["png"] == expected).all() and (sample["source.png"] == 26).all()
    assert (sample["mask.png"] == np.where(expected[:, :, 0] == 229, 255, 0)).all() and sample["txt"] == "invert"
    edit = {"instruction": "invert", "seed": 0, "parent": "0", "scores": {"changed": 0.125}}
    assert sample.meta["edit"] == edit
    assert [step["stage"] for step in sample.meta["lineage"]] == ["squares", "shards", "requests", "invert"]


def test_a_picture_is_edited_by_its_mask_into_layers(lt, folder):
    Image.new("RGB", (20, 10), "white").save(folder / "a.png")
    mask = Image.new("L", (20, 10))
    mask.paste(255, (5, 0, 10, 10))
    mask.save(folder / "mask.png")
    words = ["a.png", "--instruction", "night", "--instruction", "fog", "--mask", "mask.png", "--format", "ora"]
    code, _, told = lt("edit", "stub", *words, "--out", "night")
    assert code == 0 and "2 results are in night-ora as ora" in told
    assert sorted(path.name for path in (folder / "night-ora").iterdir()) == ["a-0.ora", "a-1.ora"]
    shards = list(open_shards(str(folder / "night")))
    assert [sample["txt"] for sample in shards] == ["night", "fog"]
    for sample in shards:
        assert [step["stage"] for step in sample.meta["lineage"]] == ["folder", "requests", "invert"]
    assert (shards[0]["png"][:, :5] == 255).all() and (shards[0]["png"][:, 5:10] == 0).all()
    assert lt("shards", "page", "night")[0] == 0
    assert {"0.webp", "0-source.webp", "0-mask.webp"} <= {p.name for p in Path("night-page/images/0000").iterdir()}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a.png", "--mask", "m.png", "--box", "1,2,3,4"], 2, "give either --mask or --box"),
        (["a.png", "--box", "1,2"], 2, "want X,Y,WIDTH,HEIGHT"),
        (["a.png", "--mask", "nowhere.png"], 1, "There is no mask nowhere.png"),
        (["a.png", "--mask", "text.png"], 1, "Cannot read the mask text.png: "),
        (["a.png", "--seed", str(2**64)], 2, "--seed"),
        (["nowhere"], 1, "There is no nowhere.\n  Name a picture, a folder of pictures, or shards"),
        (["nowhere.png"], 1, "There is no nowhere.png."),
    ],
)
def test_mistakes_are_explained(lt, folder, words, code, message):
    Image.new("RGB", (20, 10), "white").save(folder / "a.png")
    (folder / "text.png").write_text("no picture")
    ended, _, told = lt("edit", "stub", *words)
    assert ended == code and message in told


def test_ctrl_c_stops_an_edit_and_the_same_command_goes_on(lt, folder, monkeypatch):
    assert lt("datagen", "squares", "--count", "24")[0] == 0
    assert lt("shards", "reshard", "data/squares-24", "--samples", "8", "--out", "eights")[0] == 0
    words = ("edit", "stub", "eights", "--instruction", "no", "--out", "stopped")
    editor, asked = sys.modules["stub.work"].Invert, []
    plain = editor.edited

    def pressed(self, requests):
        asked.append(requests[0].key)
        if len(asked) == 2:  # a group a shard
            signal.raise_signal(signal.SIGINT)
        return plain(self, requests)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
    monkeypatch.setattr(editor, "edited", pressed)
    code, _, told = lt(*words)
    assert code == 1 and "the same command again continues" in told and "Traceback" not in told
    monkeypatch.setattr(editor, "edited", plain)
    code, _, told = lt(*words)
    assert code == 0 and "24 samples in 3 shards" in told and "1 of 3 tasks were done before" in told
    edited = list(open_shards(str(folder / "stopped")))
    assert len({sample.key for sample in edited}) == 24 and all((one["png"] == 229).all() for one in edited)


def test_its_claim_is_judged(lt):
    code, shown, _ = lt("reproduce", "stub", "--seeds", "1", "--jobs", "1")
    assert code == 0 and "Squares are dark: CONFIRMED" in shown


def test_doctor_knows_it(lt):
    found = {one["name"]: one["detail"] for one in json.loads(lt("doctor", "--json")[1]) if one["topic"] == "system"}
    assert found["stub"] == "train, sample, edit, eval, datagen, reproduce"
    assert found["pangu"].startswith("train, sample, reproduce") and "lt:pangu-tiny-pose" in found["pangu"]


def test_without_an_editor_lt_edit_says_so(lt, monkeypatch):
    monkeypatch.delitem(registry.SYSTEMS, "stub")
    assert "No system does so yet." in lt("edit", "--help")[1]


def test_it_is_small():
    """Sixty lines besides imports, docstrings and blank lines."""
    files = [Path(__file__).with_name("stub_model.py"), *Path(__file__).parent.glob("stub/*.py")]
    lines = [line.strip() for file in files for line in file.read_text().splitlines()]
    code = [line for line in lines if line and not line.startswith(("import ", "from ", '"""'))]
    assert len(code) <= 60
