"""A sample, its vocabulary of fields, and a reject.

A sample is a WebDataset sample: files `<key>.<field>` lying next to each other. This module defines the vocabulary:

| field | what |
|---|---|
| `jpg` `png` `webp` | the picture (one of them) |
| `txt` | the main caption, UTF-8 |
| `json` | everything else: captions per language, size, source, boxes, scores, `lineage` |
| `background.png` | RGB, the size of the picture |
| `layer-00.png` ... | RGBA foreground layers, full canvas, z ascending: 00 lies lowest |
| `parts.png` | indexed mask of named parts (names in json) |
| `pose.png` `edge.png` `layout.png` `color.png` | control images |
| `source.png` `mask.png` | what an edited picture was made from, and where (grey, 255 = may change) |
| `camera.npy` | where a rendered picture is seen from |
| `latent.npy` `embed.npy` `pooled.npy` `codes.npy` | cached tensors, keyed by the digest of what made them |
| `latent-00.npy` ... | several latents, or the one of a bucket of sizes |
| `key.txt` | the key that the sample had in foreign shards, where ours may not hold it |
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lt.datagen.shards import codec
from lt.datagen.shards.errors import SampleError

MAX_KEY_BYTES = 90
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_\-+=@,]*(/[A-Za-z0-9_][A-Za-z0-9_\-+=@,]*)*")
_META_FOLDER = re.compile(r"__[^/]*__/")  # stock webdataset skips what lies in such a folder
_FIELD = re.compile(r"[a-z0-9][a-z0-9_\-]*(\.[a-z0-9_\-]+)*")
_MAX_FIELD_BYTES = 60
_LAYER = re.compile(r"layer-\d\d\.png")
_NUMBERED = re.compile(r"layer-\d\d\.png|latent-\d\d\.npy")
FOREIGN_KEY = "key.txt"
_FIXED_FIELDS = frozenset(
    {*codec.PICTURE_FIELDS, "txt", "json", FOREIGN_KEY, "background.png", "parts.png"}
    | {"pose.png", "edge.png", "layout.png", "color.png"}
    | {"source.png", "mask.png", "camera.npy"}
    | {"latent.npy", "embed.npy", "pooled.npy", "codes.npy"}
)


def check_key(key: str) -> str:
    """Return `key` if it is ASCII, at most 90 bytes, without dots or path tricks.

    Raises:
        SampleError: `bad-key`, `key-too-long`.
    """
    if len(key.encode("utf-8", "replace")) > MAX_KEY_BYTES:
        raise SampleError(
            "key-too-long", f"{key[:60]!r}... has {len(key)} characters, the limit is {MAX_KEY_BYTES}", len(key)
        )
    if not _KEY.fullmatch(key) or _META_FOLDER.match(key):
        raise SampleError("bad-key", f"{key!r}: want letters, digits and _-+=@, in ASCII, no dots")
    return key


def check_field(name: str) -> str:
    """Return `name` if it can be the end of a file name in a tar that every reader splits in the same way.

    Raises:
        SampleError: `bad-field`.
    """
    if len(name) > _MAX_FIELD_BYTES or not _FIELD.fullmatch(name):
        raise SampleError(
            "bad-field", f"{name[:80]!r}: want at most {_MAX_FIELD_BYTES} of a-z, 0-9 and _-, with dots between"
        )
    return name


def safe_key(text: str) -> str:
    """A valid key made from any text: other characters become `_`; long ones are cut and closed with a digest."""
    key = re.sub(r"[^A-Za-z0-9_\-+=@,]", "_", text).lstrip("-+=@,") or "_"
    if key == text and len(key) <= MAX_KEY_BYTES:
        return key
    return f"{key[:70]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def our_key(key: str) -> str:
    """`key`, or one made from it where shards of ours may not hold it."""
    try:
        return check_key(key)
    except SampleError:
        return safe_key(key)


def is_known_field(name: str) -> bool:
    return name in _FIXED_FIELDS or is_numbered(name)


def is_numbered(name: str) -> bool:
    """A field of which samples hold any number: layers and latents."""
    return _NUMBERED.fullmatch(name) is not None


def layer_field(z: int) -> str:
    """The field of the layer that lies `z`-th from below: `layer-00.png`."""
    return f"layer-{z:02d}.png"


class Sample:
    """A key and its fields. Values are decoded when first asked for and encoded when written.

        sample["jpg"]            uint8 [h, w, 3]        sample["json"], sample.meta     dict, may be changed in place
        sample["txt"] = "a cat"  replaces the field     sample.encoded("jpg")           the bytes as they are in the tar

    Pictures and arrays must not be changed in place: assign the changed copy.
    """

    __slots__ = ("_bytes", "_values", "key")

    def __init__(self, key: str, fields: Mapping[str, Any] | None = None):
        self.key = key
        self._bytes: dict[str, bytes] = {}
        self._values: dict[str, Any] = {}
        for name, value in (fields or {}).items():
            self[name] = value

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            value = codec.decode(name, self._bytes[name])
            if value is self._bytes[name]:  # a field of an unknown kind
                return value
            self._values[name] = value
        return self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values.pop(name, None)
        self._bytes.pop(name, None)
        target = self._bytes if isinstance(value, bytes) else self._values
        target[name] = value

    def adopted(self) -> "Sample":
        """The sample under a key that shards of ours may hold; the field `key.txt` keeps one that had to go."""
        if (key := our_key(self.key)) == self.key:
            return self
        return Sample(key, {**self._bytes, **self._values, FOREIGN_KEY: self.key.encode()})

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self._values.pop(name, None)
        self._bytes.pop(name, None)

    def __contains__(self, name: str) -> bool:
        return name in self._bytes or name in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def __repr__(self) -> str:
        return f"Sample({self.key!r}, {self.fields})"

    @property
    def fields(self) -> list[str]:
        """The names of the fields, sorted: this is also their order in the tar."""
        return sorted(self._bytes.keys() | self._values.keys())

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 - this is what `get` means here

    def readable(self, name: str) -> Any:
        """The value of a field, None where there is none or it is damaged."""
        try:
            return self.get(name)
        except SampleError:
            return None

    def listed(self, name: str) -> list[Any]:
        """The list `json.<name>`; empty where json tells none, or holds something else there, as foreign json may."""
        meta = self.readable("json")
        told = meta.get(name) if isinstance(meta, dict) else None
        return told if isinstance(told, list) else []

    def is_decoded(self, name: str) -> bool:
        """Whether the field is known to be good: it was decoded, or is a value that is yet to be encoded."""
        return name in self._values

    def encoded(self, name: str) -> bytes:
        """The bytes of a field. Raises SampleError if its value cannot be encoded, KeyError if there is none."""
        is_stale = name in self._values and (name not in self._bytes or codec.kind_of(name) == "json")
        if is_stale:
            return codec.encode(name, self._values[name])
        return self._bytes[name]

    @property
    def meta(self) -> dict[str, Any]:
        """The `json` field as a dict that may be changed in place; an empty one is added where there is none."""
        if "json" not in self:
            self._values["json"] = {}
        value = self["json"]
        if not isinstance(value, dict):
            raise SampleError("invalid-json", f"the json field is a {type(value).__name__}, want an object")
        return value

    @property
    def picture_field(self) -> str:
        """Which of `jpg`, `png`, `webp` holds the picture. Raises SampleError `no-picture`."""
        if found := next((name for name in codec.PICTURE_FIELDS if name in self), None):
            return found
        raise SampleError("no-picture", f"none of {', '.join(codec.PICTURE_FIELDS)} among {self.fields}")

    @property
    def picture(self) -> np.ndarray:
        """The picture as uint8 RGB [h, w, 3]; grey is repeated, alpha laid over white."""
        return codec.to_rgb(self[self.picture_field])

    def image(self, least: int = 0) -> Image.Image:
        """`picture` as Pillow has it; a JPEG at the smallest of its own scales whose sides have `least` pixels, 0 = in full."""
        data = self._bytes.get(self.picture_field)
        return Image.fromarray(self.picture) if data is None else codec.rgb_image(data, least)

    @property
    def layer_fields(self) -> list[str]:
        """`layer-00.png`, `layer-01.png` ... from the lowest to the highest."""
        return [name for name in self.fields if _LAYER.fullmatch(name)]


@dataclass(slots=True)
class Reject:
    """A sample that was dropped: by which stage, why, and by which figure. Nothing is lost: `meta` is its json field."""

    key: str
    reason: str
    detail: str = ""
    figure: float | None = None
    stage: str = ""
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, sample: Sample, reason: str, figure: float | None = None, detail: str = "") -> "Reject":
        """Reject `sample`; the engine fills in the stage."""
        meta = sample.readable("json")
        return cls(sample.key, reason, detail, figure, meta=dict(meta) if isinstance(meta, dict) else {})
