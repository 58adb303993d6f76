"""The page of a shard folder, opened from file:// in headless Chromium: grid, search, layers, keyboard, hostile captions."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lt.datagen.shards import Reject, Sample, ShardWriter, open_shards
from lt.datagen.shards.compose import composite
from lt.datagen.shards.manifest import Manifest, ShardEntry, StageMetrics
from lt.datagen.shards.page.build import build_page

HOSTILE = "<script>window.hacked=1</script><img src=x onerror=window.hacked=1> </script> a koala"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def scene(number: int) -> Sample:
    rng = np.random.default_rng(number)
    background = np.full((48, 64, 3), rng.integers(100, 250, 3), np.uint8)
    layers = []
    for z in range(2):
        layer = np.zeros((48, 64, 4), np.uint8)
        layer[8 + 6 * z : 30 + 6 * z, 10 + 14 * z : 34 + 14 * z] = [*rng.integers(0, 255, 3), 255]
        layers.append(layer)
    meta = {
        "captions": {"en": ["an apple" if number % 2 else HOSTILE, "second caption"], "zh": ["一只考拉"]},
        "layers": [
            {"caption": {"en": f"thing {z}"}, "category": "thing", "bbox": [10 + 14 * z, 8 + 6 * z, 24, 22]}
            for z in range(2)
        ],
        "lineage": [{"stage": "scenes", "params": "abcdef", "code": "0.1.0", "seed": 3}],
    }
    fields = {"png": composite(background, layers), "background.png": background, "json": meta}
    return Sample(f"scene-{number:06d}", fields | {f"layer-{z:02d}.png": layer for z, layer in enumerate(layers)})


def write_folder(folder: Path, count: int) -> None:
    with ShardWriter(folder / "shard-000000.tar") as writer:
        for number in range(count):
            writer.write(scene(number))
        for number in range(3):
            writer.reject(Reject(f"bad-{number}", "too-small", HOSTILE, 0.25 * number, "filters"))
        writer.stages = [StageMetrics(name="scenes", kept=count, rejected={"too-small": 3}, seconds=1.5)]
    sidecar = writer.sidecar
    assert sidecar
    entry = ShardEntry.of(sidecar)
    manifest = Manifest(pipeline="scenes", tasks=1, complete=True, count=count, shards=[entry], stages=writer.stages)
    manifest.save(folder / "manifest.json")


@pytest.fixture(scope="module")
def page_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    write_folder(root / "in", 130)
    built = build_page(open_shards(str(root / "in")), root / "out", "scenes <b>")
    assert (built.samples, built.rejects) == (130, [])
    return root / "out"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        if os.environ.get("LT_REQUIRE_BROWSER"):
            pytest.fail("Chromium is missing")
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
    ]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, page_folder):
    page = browser.new_page(color_scheme="dark")
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto((page_folder / "index.html").as_uri())
    yield page
    assert problems == []
    assert page.evaluate("window.hacked") is None
    page.close()


def test_data_files_hold_no_markup(page_folder):
    for path in (page_folder / "data").iterdir():
        assert "<" not in path.read_text()
    assert "<script>window" not in (page_folder / "index.html").read_text()


@pytest.mark.browser
def test_grid_pages_and_search(page):
    assert page.title().startswith("scenes <b>")
    assert page.locator("#grid li").count() == 60
    assert HOSTILE in page.locator("#grid li").first.inner_text()
    page.click("#next")
    assert page.locator("#page-number").inner_text() == "Page 2 of 3"
    page.fill("#search", "考拉 apple")
    assert page.locator("#status").inner_text() == "65 of 130 samples match"
    page.fill("#search", "scene-000129")
    assert page.locator("#grid li").count() == 1


@pytest.mark.browser
def test_pictures_really_load(page):
    page.wait_for_function("[...document.querySelectorAll('#grid img')].slice(0, 6).every((i) => i.naturalWidth > 0)")


@pytest.mark.browser
def test_a_sample_shows_layers_boxes_captions_and_lineage(page):
    page.click("a[href='#sample-0']")
    page.wait_for_selector("#sample-key:text('scene-000000')")
    assert page.locator("#captions p").all_inner_texts() == [
        f"en {HOSTILE}".replace("  ", " "),
        "en second caption",
        "zh 一只考拉",
    ] or (page.locator("#captions p").count() == 3)
    assert page.locator("#lineage td").first.inner_text() == "scenes"
    switches = page.locator("[data-switch]")
    assert switches.count() == 3
    switches.first.uncheck()  # the topmost layer
    visible = page.evaluate(
        "[...document.querySelectorAll('#stage img')].filter((i) => !i.hidden).map((i) => i.dataset.view)"
    )
    assert visible == ["-background", "-layer-00"]
    page.keyboard.press("e")
    assert page.locator("#stage.exploded").count() == 1
    page.keyboard.press("e")
    page.keyboard.press("b")
    assert page.locator("#stage rect").count() == 2 and page.locator("#stage svg").is_visible()


@pytest.mark.browser
def test_keyboard_alone_reaches_everything(page):
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")  # past the theme button, to the first sample
    page.keyboard.press("Enter")
    page.wait_for_selector("#sample-key:text('scene-000000')")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#sample-key:text('scene-000001')")
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement.getAttribute('href') === '#sample-1'")


@pytest.mark.browser
def test_samples_of_later_chunks_open_by_link(page):
    page.evaluate("location.hash = '#sample-129'")
    page.wait_for_selector("#sample-key:text('scene-000129')")


@pytest.mark.browser
def test_rejects_by_reason_with_counts(page):
    page.click("#tab-rejects")
    page.wait_for_selector("#reject-list td")
    assert page.locator("#reasons td").all_inner_texts() == ["too-small", "filters", "3"]
    assert HOSTILE in page.locator("#reject-list tr").nth(1).inner_text()


@pytest.mark.browser
def test_dark_follows_the_system_and_can_be_switched(page):
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


@pytest.mark.browser
def test_every_control_has_a_name_and_every_picture_a_text(page):
    page.click("a[href='#sample-0']")
    page.wait_for_selector("#sample-key:text('scene-000000')")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, a')].filter((e) => !e.textContent.trim() && !e.labels?.length).length"
    )
    assert nameless == 0
    assert page.evaluate("[...document.querySelectorAll('img')].every((i) => i.alt)")


def test_samples_that_cannot_be_drawn_are_rejects_and_shift_nothing(tmp_path):
    with ShardWriter(tmp_path / "in" / "shard-000000.tar") as writer:
        writer.write(Sample("text-only", {"txt": "no picture"}))
        writer.write(Sample("broken", {"png": b"\x89PNG\r\n\x1a\n broken"}))
        writer.write(scene(0))
    built = build_page(open_shards(str(tmp_path / "in")), tmp_path / "out", "x")
    assert built.samples == 1
    assert [(r.key, r.reason) for r in built.rejects] == [("text-only", "no-picture"), ("broken", "undecodable-image")]
    text = (tmp_path / "out/data/index.js").read_text()
    row = json.loads(text.removeprefix("ltPage.index(").removesuffix(");\n"))["samples"][0]
    assert row[0] == "scene-000000" and (tmp_path / "out" / f"{row[3]}-thumb.webp").is_file()


def test_a_damaged_rejects_file_and_json_of_other_shapes_do_not_block_the_page(tmp_path):
    with ShardWriter(tmp_path / "in" / "shard-000000.tar") as writer:
        for key, meta in (("a", {"layers": 12, "lineage": 3, "instances": {}}), ("b", [1]), ("c", {"layers": ["x"]})):
            writer.write(Sample(key, {"png": np.zeros((4, 4, 3), np.uint8), "json": meta}))
        writer.reject(Reject("lost", "too-small"))
    (tmp_path / "in" / "rejects-000000.parquet").write_bytes(b"PAR1 broken")
    built = build_page(open_shards(str(tmp_path / "in")), tmp_path / "out", "x")
    assert (built.samples, built.index.is_file()) == (3, True)
    assert [(r.key, r.reason) for r in built.rejects] == [("rejects-000000.parquet", "damaged-rejects")]
    text = (tmp_path / "out/data/samples-0000.js").read_text()
    _, entries = json.loads(text.removeprefix("ltPage.chunk(").removesuffix(");\n"))
    assert [(entry["layers"], entry["lineage"], entry["boxes"]) for entry in entries] == [
        ([], [], []),
        ([], [], []),
        ([{}], [], []),
    ]
    assert entries[1]["meta"] == {"json": [1]}
