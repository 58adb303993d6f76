"""What can be wrong inside a sample: fields that do not decode or are not what their name says, layers that do not add up."""

from collections.abc import Iterator

import numpy as np

from lt.datagen.shards import codec
from lt.datagen.shards.compose import recomposition_error
from lt.datagen.shards.errors import SampleError
from lt.datagen.shards.sample import Sample, layer_field

_FULL_CANVAS = ("background.png", "parts.png")


def content_problems(sample: Sample, tolerance: float = 0.0) -> Iterator[tuple[str, str, float | None]]:
    """What is wrong inside a sample's fields, as (what, detail, figure).

    Args:
        tolerance: largest recomposition error (RMS over sRGB bytes / 255) of layered samples.
    """
    good = True
    for name in sample.fields:
        try:
            if codec.is_image(name):
                _check_kind(name, sample.encoded(name))
            if codec.kind_of(name) == "json":
                codec.decode_json(name, sample.encoded(name), strict=True)
            sample[name]
        except SampleError as error:
            good = False
            yield error.reason, f"{name}: {error.detail}", error.figure
    if len(pictures := [name for name in codec.PICTURE_FIELDS if name in sample]) > 1:
        yield "several-pictures", " and ".join(pictures), len(pictures)
    if good and pictures:
        yield from _layer_problems(sample, tolerance)


def _check_kind(name: str, data: bytes) -> None:
    kind, stated = codec.picture_kind(data), codec.kind_of(name).replace("jpeg", "jpg")
    if kind and kind != stated:
        raise SampleError("wrong-extension", f"the bytes are {kind}")


def _layer_problems(sample: Sample, tolerance: float) -> Iterator[tuple[str, str, float | None]]:
    """The layer invariant: every layer there, all of one size, and together they give the picture."""
    picture, layers = sample.picture, sample.layer_fields
    for name in [*_FULL_CANVAS, *layers]:
        if name in sample and sample[name].shape[:2] != picture.shape[:2]:
            yield "wrong-size", f"{name} is {_size_of(sample[name])}, the picture {_size_of(picture)}", None
            return
    if not layers and "background.png" not in sample:
        return
    stated = sample.meta.get("layers") if isinstance(sample.get("json", {}), dict) else None
    if layers != [layer_field(z) for z in range(len(layers))]:
        yield "missing-layer", f"only {', '.join(layers)}", len(layers)
        return
    if isinstance(stated, list) and len(stated) != len(layers):
        yield "missing-layer", f"{len(layers)} layers, json.layers tells of {len(stated)}", len(layers)
        return
    if "background.png" not in sample:
        yield "missing-field", "layers without background.png", None
        return
    try:
        error = recomposition_error(picture, sample["background.png"], [sample[name] for name in layers])
    except ValueError as problem:
        yield "wrong-layer", str(problem), None
        return
    if error > tolerance:
        yield "recomposition", f"error {error:.6f}, the manifest allows {tolerance:.6f}", error


def _size_of(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"
