"""Samples as files that other programs open: a folder of PNGs, OpenRaster, Photoshop, COCO annotations.

`ora` opens in GIMP and Krita, `psd` in those and in Photoshop; both hold background and layers at their place, named by caption.
"""

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from lt import __version__
from lt.datagen.shards import codec
from lt.datagen.shards.captions import captions_by_language, main_caption, texts_of
from lt.datagen.shards.compose import alpha_box, over
from lt.datagen.shards.errors import LtError, SampleError, UsageError
from lt.datagen.shards.sample import Reject, Sample, safe_key
from lt.datagen.shards.storage import atomic_file, write_bytes, write_json

_ORA_VERSION = "0.0.3"
_THUMBNAIL = 256  # pixels, the largest side the OpenRaster specification allows
_NAME_LENGTH = 60
_PSD_SIDE = 30_000  # pixels, the largest that the format knows


@dataclass(frozen=True)
class Layer:
    """A layer cut to its visible box: `pixels` RGBA [h, w, 4] with its upper left corner at (x, y) of the canvas."""

    name: str
    pixels: np.ndarray
    x: int
    y: int


@dataclass
class Exported:
    """How an export ended: samples written now, samples that were there already, and rejects."""

    out: Path
    written: int = 0
    present: int = 0
    rejects: list[Reject] = field(default_factory=list)


def export(
    samples: Iterable[Sample | Reject], out: Path, kind: str, progress: Callable[[int], None] | None = None
) -> Exported:
    """Write `samples` below `out` as `kind`: png | ora | psd | coco. Files that are there already are left as they are.

    Args:
        samples: rejects among them, which could not be read, are passed on with those that cannot be exported.
        progress: called with the number of samples seen so far.

    Raises:
        UsageError: unknown kind. LtError: the folder cannot be written, or a package is missing.
    """
    if kind not in _WRITERS:
        raise UsageError(f"Unknown export format {kind!r}.", f"Known: {', '.join(FORMATS)}.")
    done, coco = Exported(out), _Coco()
    for number, sample in enumerate(samples, 1):
        if isinstance(sample, Reject):
            done.rejects.append(sample)
            continue
        try:
            name = safe_key(sample.key)
            target = (
                out / "images" / f"{name}.{sample.picture_field}" if kind == "coco" else out / f"{name}{_SUFFIX[kind]}"
            )
            if kind == "coco":
                coco.add(sample, number, target.name)
            if target.exists():
                done.present += 1
            else:
                _WRITERS[kind](sample, target)
                done.written += 1
        except SampleError as error:
            done.rejects.append(Reject.of(sample, error.reason, error.figure, error.detail))
        if progress:
            progress(number)
    if kind == "coco":
        coco.save(out / "annotations")
    return done


def layers_of(sample: Sample) -> list[Layer]:
    """Background first, then the layers from the lowest up, each cut to its visible box; wholly transparent ones are left out.
    Of an edited picture: source and result."""
    if "source.png" in sample and "background.png" not in sample:
        return _before_and_after(sample)
    if "background.png" not in sample:
        raise SampleError("no-layers", f"no background.png among {sample.fields}")
    layers = [Layer("background", _rgba(sample["background.png"]), 0, 0)]
    for number, (name, entry) in enumerate(zip(sample.layer_fields, _described(sample), strict=True)):
        pixels = _layer(sample, name, layers[0].pixels)
        if box := alpha_box(pixels[:, :, 3]):
            x, y, width, height = box
            layers.append(Layer(_layer_name(entry, number), pixels[y : y + height, x : x + width], x, y))
    return layers


def merged(layers: list[Layer]) -> np.ndarray:
    """What the layers give, the first of which fills the canvas: uint8 RGB [h, w, 3], as `compose.composite`."""
    picture = layers[0].pixels[:, :, :3].copy()
    for layer in layers[1:]:
        height, width = layer.pixels.shape[:2]
        over(picture[layer.y : layer.y + height, layer.x : layer.x + width], layer.pixels)
    return picture


def _layer(sample: Sample, name: str, canvas: np.ndarray) -> np.ndarray:
    pixels = sample[name]
    if pixels.shape != (*canvas.shape[:2], 4):
        raise SampleError("bad-layer", f"{name} is {list(pixels.shape)}, want RGBA of {_sides(canvas)} pixels")
    return pixels


def _sides(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _before_and_after(sample: Sample) -> list[Layer]:
    """What was edited, and over it the result where it may differ."""
    source, result, mask = _rgba(sample["source.png"]), _rgba(sample.picture), sample.get("mask.png")
    if result.shape != source.shape:
        raise SampleError("wrong-size", f"source.png is {_sides(source)}, the picture {_sides(result)}")
    if mask is not None and mask.shape == result.shape[:2]:
        result = np.dstack([result[:, :, :3], mask])
    return [Layer("source", source, 0, 0), Layer("result", result, 0, 0)]


def write_png_folder(sample: Sample, folder: Path) -> None:
    """`<key>/` with the picture as it is stored, background.png, layer-00.png ..., caption.txt and sample.json."""
    names = [name for name in sample.fields if codec.is_image(name)]
    if not names:
        raise SampleError("no-picture", f"no pictures among {sample.fields}")
    for name in names:
        stem = f"picture.{name}" if name in codec.PICTURE_FIELDS else name
        write_bytes(folder / stem, sample.encoded(name), durable=False)
    if caption := main_caption(sample):
        write_bytes(folder / "caption.txt", caption.encode(), durable=False)
    write_json(folder / "sample.json", sample.readable("json"))


def write_ora(sample: Sample, path: Path) -> None:
    """One OpenRaster file: a zip with `mimetype` first, `stack.xml`, the layers, the merged picture and a thumbnail."""
    layers = layers_of(sample)
    height, width = layers[0].pixels.shape[:2]
    image = ElementTree.Element("image", version=_ORA_VERSION, w=str(width), h=str(height))
    stack = ElementTree.SubElement(image, "stack")
    files: list[tuple[str, bytes]] = []
    for number, layer in reversed(list(enumerate(layers))):  # OpenRaster lists the topmost first
        source = f"data/layer{number:03d}.png"
        files.append((source, codec.encode_image(layer.pixels, "png")))
        place = {"x": str(layer.x), "y": str(layer.y), "opacity": "1.0", "visibility": "visible"}
        ElementTree.SubElement(
            stack, "layer", {"name": layer.name, "src": source, "composite-op": "svg:src-over", **place}
        )
    whole = merged(layers)
    files.append(("mergedimage.png", codec.encode_image(whole, "png")))
    files.append(("Thumbnails/thumbnail.png", codec.encode_image(_thumbnail(whole), "png")))
    with atomic_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        # first and not compressed, so that `file` knows it
        archive.writestr(zipfile.ZipInfo("mimetype"), "image/openraster")
        archive.writestr(zipfile.ZipInfo("stack.xml"), ElementTree.tostring(image, "utf-8", xml_declaration=True))
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(name), data)


def write_psd(sample: Sample, path: Path) -> None:
    """One layered Photoshop file with what the layers give as its merged image."""
    try:
        from psd_tools import PSDImage
    except ImportError:
        raise LtError("Writing PSD needs psd-tools.", "pip install 'lt-toolkit[export]'") from None
    layers = layers_of(sample)
    whole = _rgba(merged(layers))
    if max(whole.shape) > _PSD_SIDE:
        raise SampleError(
            "too-large-for-psd", f"{_sides(whole)} pixels, a side has {_PSD_SIDE:,} at most", max(whole.shape)
        )
    document = PSDImage.frompil(Image.fromarray(whole))  # in an RGB document alpha would become a mask
    for layer in layers:
        made = document.create_pixel_layer(Image.fromarray(layer.pixels), "layer", layer.y, layer.x)
        made.name = layer.name  # also as Unicode: the name given at creation may hold MacRoman only
    buffer = io.BytesIO()
    document.save(buffer)
    write_bytes(path, buffer.getvalue(), durable=False)


def write_picture(sample: Sample, path: Path) -> None:
    """The picture as it is stored."""
    write_bytes(path, sample.encoded(sample.picture_field), durable=False)


class _Coco:
    """`instances.json` (masks as RLE, from alpha >= 128) and `captions.json` of the pictures that are added."""

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._captions: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, sample: Sample, image: int, name: str) -> None:
        """Add what is told of the picture `image`, whose file is called `name`. Raises SampleError; nothing is added then."""
        picture = sample.picture
        height, width = picture.shape[:2]
        found = list(self._instances(sample, image, picture))
        said = [
            {"image_id": image, "caption": text, "language": language or "en"}
            for language, texts in captions_by_language(sample).items()
            for text in texts
        ]
        self._images.append({"id": image, "file_name": name, "width": width, "height": height})
        self._annotations += [{"id": number, **entry} for number, entry in enumerate(found, len(self._annotations) + 1)]
        self._captions += [{"id": number, **entry} for number, entry in enumerate(said, len(self._captions) + 1)]

    def save(self, folder: Path) -> None:
        categories = [{"id": number, "name": name, "supercategory": ""} for name, number in self._categories.items()]
        told = {
            "info": {"description": "exported by lt", "version": __version__},
            "licenses": [],
            "images": self._images,
        }
        instances = {**told, "annotations": self._annotations, "categories": categories}
        write_json(folder / "instances.json", instances)
        write_json(folder / "captions.json", {**told, "annotations": self._captions})

    def _instances(self, sample: Sample, image: int, picture: np.ndarray) -> Iterator[dict[str, Any]]:
        for name, entry in zip(sample.layer_fields, _described(sample), strict=True):
            mask = _layer(sample, name, picture)[:, :, 3] >= 128
            if box := alpha_box(mask):
                category = str(entry.get("category") or "object")
                yield {
                    "image_id": image,
                    "category_id": self._categories.setdefault(category, len(self._categories) + 1),
                    "segmentation": {"size": list(mask.shape), "counts": run_lengths(mask)},
                    "area": int(mask.sum()),
                    "bbox": list(box),
                    "iscrowd": 0,
                }


def _described(sample: Sample) -> list[dict[str, Any]]:
    """What `json.layers` tells of each layer; {} where it tells nothing."""
    told = [entry if isinstance(entry, dict) else {} for entry in sample.listed("layers")]
    return [*told, *({} for _ in sample.layer_fields)][: len(sample.layer_fields)]


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed RLE of a mask [h, w]: lengths of runs down the columns, zeros first."""
    flat = mask.T.reshape(-1).astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def _layer_name(entry: dict[str, Any], number: int) -> str:
    caption = entry.get("caption")
    said = texts_of(caption.get("en") if isinstance(caption, dict) else caption) or texts_of(entry.get("category"))
    shown = "".join(char for char in "".join(said[:1]) if char.isprintable())
    return f"{number:02d} {shown}"[:_NAME_LENGTH].strip()


def _rgba(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(codec.to_rgb(pixels)).convert("RGBA"))


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.asarray(image)


_WRITERS: dict[str, Callable[[Sample, Path], None]] = {
    "png": write_png_folder,
    "ora": write_ora,
    "psd": write_psd,
    "coco": write_picture,
}
_SUFFIX = {"png": "", "ora": ".ora", "psd": ".psd"}
FORMATS = tuple(_WRITERS)
