"""Control pictures from files: drawn ones, and those that experts find in photographs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lt.datagen.pose import draw_openpose
from lt.datagen.shards import LtError, SampleError, UsageError
from lt.datagen.shards.codec import decode_image, to_rgb
from lt.models.perception.registry import BackendError, find, load
from lt.recipes.diffusion.controls import color_picture
from lt.recipes.pictures import Size, covering, fitted

EXPERTS = (find("edges", "opencv").target, find("pose", "mediapipe").target)
"""Who looks at photographs, as `module:Class`."""
_ASPECT = 0.02
"""Aspect ratios may differ so much (as a share) before a control picture would be visibly cut."""
_DARK, _DRAWN = 64, 0.5
"""Brightness below which a pixel is ground, and the share of a skeleton or an edge map that may be more than ground."""


def read_drawn(control: str, file: Path, size: Size) -> np.ndarray:
    """A control picture as it was drawn, uint8 RGB [h, w, 3] of the aspect of `size`; what is transparent is black.

    Raises:
        LtError: it cannot be read, has another aspect, or is a photograph where a drawing on black is wanted.
    """
    picture = read_picture(control, file, ground=0)
    if not same_aspect(picture.shape, size):
        width, height = size
        raise LtError(
            f"The {control} picture is {picture.shape[1]}x{picture.shape[0]}, the pictures are to be {width}x{height}: "
            "another aspect.",
            "Cut one to the other's aspect, or choose --size.",
        )
    share = (picture.max(axis=2) >= _DARK).mean()
    if control in ("pose", "edge") and share > _DRAWN:
        wanted = "skeleton" if control == "pose" else "edge map"
        raise LtError(
            f"{file} is no {wanted} on black: {share:.0%} of it is not dark.",
            f"To follow the {control} of a photograph: --{control}-of {file}",
        )
    return picture


def find_in_photo(control: str, file: Path, size: Size) -> np.ndarray:
    """The control picture of a photograph, as the figures world makes its own: uint8 [height, width] or [height, width, 3].

    A photograph of another aspect than `size` lies whole in the middle, on black; of its colours those of its middle are taken.

    Raises:
        UsageError: no expert is known for this control.
        LtError: the photograph cannot be read; nobody is in it; the expert is not installed.
    """
    if control not in FINDERS:
        raise UsageError(
            f"No expert here finds the {control} picture of a photograph.", f"Known: {', '.join(FINDERS)}."
        )
    photo = read_picture(control, file)
    try:
        found = FINDERS[control](photo, size)
    except BackendError as error:
        raise LtError(error.message, error.hint) from None
    if found is None:
        raise LtError(
            f"Nobody is found in the photograph {file}.",
            "Name one that shows a person from the head to the hips at least, or a drawn skeleton: --pose FILE",
        )
    return found


def read_picture(control: str, file: Path, ground: int = 255) -> np.ndarray:
    """A picture, uint8 RGB [h, w, 3], where it is transparent over a grey `ground`: photographs over white, control pictures
    over black (0), which is where nothing is drawn. Raises LtError if it cannot be read.
    """
    try:
        return to_rgb(decode_image(file.read_bytes()), ground)
    except (OSError, SampleError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LtError(f"Cannot read the {control} picture {file}: {reason}.") from None


def same_aspect(shape: Sequence[int], size: Size) -> bool:
    """Whether a picture of this shape [h, w, ...] has the aspect of (width, height)."""
    return abs(shape[1] * size[1] / (shape[0] * size[0]) - 1) <= _ASPECT


def _within(own: Size, size: Size) -> tuple[Size, Size]:
    """Where a photograph of the size `own` lies in pictures of `size`: its size there, and (left, top)."""
    if same_aspect(own[::-1], size):
        return size, (0, 0)
    scale = min(size[0] / own[0], size[1] / own[1])
    wide, high = (max(1, round(side * scale)) for side in own)
    return (wide, high), ((size[0] - wide) // 2, (size[1] - high) // 2)


def _edges(photo: np.ndarray, size: Size) -> np.ndarray:
    """At the size of the pictures: the edges of a large photograph would vanish when scaled down."""
    detector: Any = load("edges", "opencv")
    (wide, high), (left, top) = _within((photo.shape[1], photo.shape[0]), size)
    edges = np.zeros((size[1], size[0]), np.uint8)
    edges[top : top + high, left : left + wide] = detector.edges([fitted(photo, wide, high)])[0]
    return edges


def _skeletons(photo: np.ndarray, size: Size) -> np.ndarray | None:
    """Found at the photograph's own size, drawn at the pictures'; None where nobody is found."""
    people = load("pose", "mediapipe").poses([photo])[0]
    if not len(people):
        return None
    own = (photo.shape[1], photo.shape[0])
    within, corner = _within(own, size)
    wide, high, left, top = covering(own, within)
    people[:, :, :2] = people[:, :, :2] * (wide / own[0], high / own[1]) - (left, top) + corner
    return draw_openpose(people, *size)


FINDERS: dict[str, Callable[[np.ndarray, Size], np.ndarray | None]] = {
    "pose": _skeletons,
    "edge": _edges,
    "color": color_picture,
}
"""What finds a control in a photograph, by the control's name."""
