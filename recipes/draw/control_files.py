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
from lt.recipes.diffusion.pictures import Size, covering, fitted

EXPERTS = (find("edges", "opencv").target, find("pose", "mediapipe").target)
"""Who looks at photographs, as `module:Class`."""
_ASPECT = 0.02
"""Aspect ratios may differ so much (as a share) before a control picture would be visibly cut."""


def find_in_photo(control: str, file: Path, size: Size) -> np.ndarray:
    """The control picture of a photograph, as the figures world makes its own: uint8 [height, width] or [height, width, 3].

    Raises:
        UsageError: no expert is known for this control.
        LtError: the photograph cannot be read or has another aspect; nobody is in it; the expert is not installed.
    """
    if control not in FINDERS:
        raise UsageError(
            f"No expert here finds the {control} picture of a photograph.", f"Known: {', '.join(FINDERS)}."
        )
    photo = read_picture(control, file, size)
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


def read_picture(control: str, file: Path, size: Size, ground: int = 255) -> np.ndarray:
    """A picture of the aspect of `size`, uint8 RGB [h, w, 3], where it is transparent over a grey `ground`: photographs over
    white, control pictures over black (0), which is where nothing is drawn.

    Raises:
        LtError: it cannot be read, or has another aspect.
    """
    try:
        picture = to_rgb(decode_image(file.read_bytes()), ground)
    except (OSError, SampleError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LtError(f"Cannot read the {control} picture {file}: {reason}.") from None
    if not same_aspect(picture.shape, size):
        width, height = size
        raise LtError(
            f"The {control} picture is {picture.shape[1]}x{picture.shape[0]}, the pictures are to be {width}x{height}: "
            "another aspect.",
            "Cut one to the other's aspect, or choose --size.",
        )
    return picture


def same_aspect(shape: Sequence[int], size: Size) -> bool:
    """Whether a picture of this shape [h, w, ...] has the aspect of (width, height)."""
    return abs(shape[1] * size[1] / (shape[0] * size[0]) - 1) <= _ASPECT


def _edges(photo: np.ndarray, size: Size) -> np.ndarray:
    """At the size of the pictures: the edges of a large photograph would vanish when scaled down."""
    detector: Any = load("edges", "opencv")
    return detector.edges([fitted(photo, *size)])[0]


def _skeletons(photo: np.ndarray, size: Size) -> np.ndarray | None:
    """Found at the photograph's own size, drawn at the pictures'; None where nobody is found."""
    people = load("pose", "mediapipe").poses([photo])[0]
    if not len(people):
        return None
    own = (photo.shape[1], photo.shape[0])
    wide, high, left, top = covering(own, size)
    people[:, :, :2] = people[:, :, :2] * (wide / own[0], high / own[1]) - (left, top)
    return draw_openpose(people, *size)


FINDERS: dict[str, Callable[[np.ndarray, Size], np.ndarray | None]] = {
    "pose": _skeletons,
    "edge": _edges,
    "color": color_picture,
}
"""What finds a control in a photograph, by the control's name."""
