"""What can be wrong inside a sample: fields that do not decode or are not what their name says, layers that do not add up."""

import math
from collections.abc import Collection, Container, Iterator

import numpy as np

from lt.datagen.shards import codec
from lt.datagen.shards.compose import recomposition_error
from lt.datagen.shards.errors import SampleError
from lt.datagen.shards.sample import Sample, is_numbered, layer_field

_FULL_CANVAS = ("background.png", "parts.png")


def content_problems(
    sample: Sample, tolerance: float = 0.0, vouched: Container[str] = ()
) -> Iterator[tuple[str, str, float | None]]:
    """What is wrong inside a sample's fields, as (what, detail, figure).

    Args:
        tolerance: largest recomposition error (RMS over sRGB bytes / 255) of layered samples.
        vouched: fields that are known to decode. Layers are looked at all the same, unless `json.recomposition` says how well
            they give the picture.
    """
    good = True
    for name in sample.fields:
        if name in vouched:
            continue
        try:
            if codec.is_image(name) and (kind := codec.other_kind(name, sample.encoded(name))):
                raise SampleError("wrong-extension", f"the bytes are {kind}")
            if codec.kind_of(name) == "json":
                codec.decode_json(name, sample.encoded(name), strict=True)
            else:
                sample[name]
        except SampleError as error:
            good = False
            yield error.reason, f"{name}: {error.detail}", error.figure
    if len(pictures := [name for name in codec.PICTURE_FIELDS if name in sample]) > 1:
        yield "several-pictures", " and ".join(pictures), len(pictures)
    if not good or not pictures:
        return
    layered = "background.png" in sample or bool(sample.layer_fields)
    if layered and (missing := _missing_layer(sample)):
        yield missing
    elif not all(name in vouched for name in sample.fields if codec.is_image(name)) or (
        layered and _told_error(sample) > tolerance
    ):
        yield from _layer_problems(sample, tolerance, layered)


def is_settled(fields: Collection[str], vouched: Container[str]) -> bool:
    """Whether `content_problems` would find nothing in samples of these fields, whatever they hold."""
    pictures = sum(name in codec.PICTURE_FIELDS for name in fields)
    layered = any(name == "background.png" or is_numbered(name) for name in fields)
    return pictures < 2 and not layered and all(name in vouched for name in fields)


def _missing_layer(sample: Sample) -> tuple[str, str, float | None] | None:
    layers, meta = sample.layer_fields, sample.readable("json")
    stated = meta.get("layers") if isinstance(meta, dict) else None
    if layers != [layer_field(z) for z in range(len(layers))]:
        return "missing-layer", f"only {', '.join(layers)}", len(layers)
    if isinstance(stated, list) and len(stated) != len(layers):
        return "missing-layer", f"{len(layers)} layers, json.layers tells of {len(stated)}", len(layers)
    return None if "background.png" in sample else ("missing-field", "layers without background.png", None)


def _told_error(sample: Sample) -> float:
    """The recomposition error that the sample itself tells; infinite where it tells none."""
    meta = sample.readable("json")
    told = meta.get("recomposition") if isinstance(meta, dict) else None
    rms = told.get("rms") if isinstance(told, dict) else None
    return rms if isinstance(rms, int | float) else math.inf


def _layer_problems(sample: Sample, tolerance: float, layered: bool) -> Iterator[tuple[str, str, float | None]]:
    """The layer invariant: all layers of one size, and together they give the picture."""
    picture, layers = sample.picture, sample.layer_fields
    for name in [*_FULL_CANVAS, *layers]:
        if name in sample and sample[name].shape[:2] != picture.shape[:2]:
            yield "wrong-size", f"{name} is {_size_of(sample[name])}, the picture {_size_of(picture)}", None
            return
    if not layered:
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
