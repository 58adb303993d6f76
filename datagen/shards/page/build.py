"""Write the page: pictures as WebP, texts as json inside scripts (a page opened from `file://` may not fetch), then index.html.

    out/index.html, page.css, page.js
    out/data/index.js            keys, captions and pictures of all samples: what the grid shows and the search looks through
    out/data/samples-0000.js     all else of 100 samples, loaded when one of them is opened
    out/data/rejects.js
    out/images/0000/17.webp      picture; 17-thumb.webp, 17-background.webp, 17-layer-00.webp

Captions and metadata come from strangers: they are only ever json data, `<` is escaped in it, and the page puts them into the
document as text. Its content security policy allows no inline script.
"""

import io
import json
import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.cores import cores
from lt.datagen.shards.captions import UNTOLD, captions_by_language
from lt.datagen.shards.errors import SampleError
from lt.datagen.shards.manifest import Manifest
from lt.datagen.shards.reader import Shards
from lt.datagen.shards.sample import Reject, Sample
from lt.datagen.shards.storage import write_bytes

CHUNK = 100
"""Samples in one data file and one folder of pictures."""
_THUMBNAIL, _VIEW = 224, 768  # pixels, long side
_MOST_REJECTS = 20_000
_STATIC = ("page.css", "page.js", "index.html")  # index.html last: a page that opens is a page that is whole


@dataclass
class Built:
    """How the page came out: where to look, samples shown, and those that could not be drawn."""

    index: Path
    samples: int = 0
    rejects: list[Reject] = field(default_factory=list)


def build_page(
    shards: Shards, out: Path, title: str, limit: int | None = None, progress: Callable[[int], None] | None = None
) -> Built:
    """Write a page of `shards` into the folder `out`.

    Args:
        limit: only the first so many samples.
        progress: called with the number of samples done.

    Raises:
        LtError: the folder cannot be written, or the shards cannot be read.
    """
    built = Built(out / "index.html")
    index: list[list[str]] = []
    chunk: list[dict[str, Any]] = []
    for entry in _drawn(islice(shards.samples(built.rejects.append), limit), out, built.rejects):
        index.append([entry["key"], *entry.pop("texts"), entry["image"]])
        chunk.append(entry)
        if len(chunk) == CHUNK:
            _write_chunk(out, built.samples // CHUNK, chunk)
            chunk = []
        built.samples += 1
        if progress:
            progress(built.samples)
    if chunk:
        _write_chunk(out, built.samples // CHUNK, chunk)
    stored = [reject for _, reject in shards.rejects(on_bad=built.rejects.append)]
    rejects = [*stored, *built.rejects]
    _write_data(out / "data" / "rejects.js", "rejects", [_reject_row(reject) for reject in rejects[:_MOST_REJECTS]])
    _write_data(out / "data" / "index.js", "index", _summary(shards, title, index, rejects))
    for name in _STATIC:
        write_bytes(out / name, (files("lt.datagen.shards.page") / name).read_bytes(), durable=False)
    return built


def _drawn(samples: Iterable[Sample], out: Path, rejects: list[Reject]) -> Iterator[dict[str, Any]]:
    """Entries of the samples in their order; pictures are made by threads, a few samples ahead (Pillow frees the interpreter)."""
    workers = cores()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Sample, Future[dict[str, Any]]]] = deque()
        number = 0
        iterator = iter(samples)
        while True:
            for sample in islice(iterator, 2 * workers + 1 - len(waiting)):
                waiting.append((sample, pool.submit(_draw, sample, number, out)))
                number += 1
            if not waiting:
                return
            sample, future = waiting.popleft()
            try:
                yield future.result()
            except SampleError as error:
                rejects.append(Reject.of(sample, error.reason, error.figure, error.detail))


def _draw(sample: Sample, number: int, out: Path) -> dict[str, Any]:
    """Write the pictures of one sample; its entry for the page."""
    folder = out / "images" / f"{number // CHUNK:04d}"
    picture = sample.picture
    height, width = picture.shape[:2]
    scale = min(1.0, _VIEW / max(width, height))
    views = {"": picture}
    views |= {f"-{name.removesuffix('.png')}": sample[name] for name in _view_fields(sample)}
    for suffix, pixels in views.items():
        _write_webp(folder / f"{number}{suffix}.webp", pixels, scale)
    _write_webp(folder / f"{number}-thumb.webp", picture, min(1.0, _THUMBNAIL / max(width, height)))
    meta, captions = sample.readable("json"), captions_by_language(sample)
    meta = meta if isinstance(meta, dict) else {"json": meta} if meta is not None else {}
    return {
        "key": sample.key,
        "texts": [_joined(captions, UNTOLD, "en"), _joined(captions, "zh")],
        "captions": captions,
        "image": f"images/{number // CHUNK:04d}/{number}",
        "size": [width, height],
        "views": [suffix for suffix in views if suffix],
        "layers": [layer if isinstance(layer, dict) else {} for layer in sample.listed("layers")],
        "boxes": _boxes(sample),
        "fields": sample.fields,
        "lineage": [step for step in sample.listed("lineage") if isinstance(step, dict)],
        "meta": {name: value for name, value in meta.items() if name not in ("lineage", "layers")},
    }


def _view_fields(sample: Sample) -> list[str]:
    extra = [name for name in ("edge.png", "pose.png", "source.png", "mask.png") if name in sample]
    return (["background.png"] if "background.png" in sample else []) + sample.layer_fields + extra


def _boxes(sample: Sample) -> list[list[Any]]:
    """[label, x, y, width, height] in pixels of every layer, or of every instance where there are no layers."""
    found = []
    for entry in sample.listed("layers") or sample.listed("instances"):
        box = entry.get("bbox") if isinstance(entry, dict) else None
        if (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
        ):
            found.append([str(entry.get("category", "")), *box])
    return found


def _joined(captions: dict[str, list[str]], *languages: str) -> str:
    return " · ".join(text for language in languages for text in captions.get(language, []))


def _write_webp(path: Path, pixels: np.ndarray, scale: float) -> None:
    image = Image.fromarray(pixels)
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=86, method=2)
    write_bytes(path, buffer.getvalue(), durable=False)


def _summary(shards: Shards, title: str, index: list[list[str]], rejects: list[Reject]) -> dict[str, Any]:
    told = shards.manifest or Manifest(pipeline="", complete=True)
    counts = Counter((reject.stage, reject.reason) for reject in rejects)
    return {
        "title": title,
        "chunk": CHUNK,
        "total": len(shards),
        "samples": index,
        "reasons": [[stage, reason, count] for (stage, reason), count in counts.most_common()],
        "shown_rejects": min(len(rejects), _MOST_REJECTS),
        "pipeline": told.pipeline,
        "complete": told.complete,
        "licences": told.licences,
        "stages": [stage.model_dump() for stage in told.stages],
    }


def _reject_row(reject: Reject) -> list[Any]:
    figure = reject.figure if reject.figure is not None and math.isfinite(reject.figure) else None
    return [reject.key, reject.stage, reject.reason, figure, reject.detail]


def _write_chunk(out: Path, number: int, entries: list[dict[str, Any]]) -> None:
    _write_data(out / "data" / f"samples-{number:04d}.js", "chunk", [number, entries])


def _write_data(path: Path, name: str, value: Any) -> None:
    """A script that hands `value` to the page. `<` and line separators are escaped, so no text can end the script."""
    text = json.dumps(_finite(value), ensure_ascii=True, default=str, allow_nan=False).replace("<", "\\u003c")
    write_bytes(path, f"ltPage.{name}({text});\n".encode(), durable=False)


def _finite(value: Any) -> Any:
    """Numbers that json does not know (inf, nan) become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
