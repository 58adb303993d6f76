"""Poses of people in photographs: MediaPipe's BlazePose, from the two .tflite files of its wheel, run by LiteRT.

Bazarevsky et al., "BlazePose: On-device Real-time Body Pose Tracking" (2020), and MediaPipe's graph `pose_landmark_cpu` for still
pictures, whose constants stand here: a detector finds people with the middle of their hips and a circle around them; the circle's
square, turned upright, goes to the landmark network; its coarse points are refined by its heat maps.

MediaPipe itself asks for protobuf 4 and another OpenCV, so only its files are taken: `pip install --no-deps`.
"""

import importlib.util
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from lt.models.perception.registry import BackendError

DETECTOR = "modules/pose_detection/pose_detection.tflite"
LANDMARKS = "modules/pose_landmark/pose_landmark_full.tflite"
COCO_OF_LANDMARKS = (0, 2, 5, 7, 8, 11, 12, 13, 14, 15, 16, 23, 24, 25, 26, 27, 28)
"""Which of BlazePose's 33 landmarks is the i-th key point of COCO-17."""

_SIDE_OF_DETECTOR, _SIDE_OF_CROP, _LANDMARKS = 224, 256, 39  # the last 6 landmarks serve tracking in videos
_ANCHORS = ((28, 2), (14, 2), (7, 6))  # cells a side, anchors a cell
_CONFIDENT, _OVERLAP, _ENLARGED = 0.5, 0.3, 1.25
_KERNEL = 9  # pixels of a heat map around a coarse point that refine it; 9 gives MediaPipe 0.10.21's points


@dataclass(frozen=True)
class Crop:
    """A square in a picture: its middle and side in pixels, turned clockwise by `angle` radians."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def of(self, image: np.ndarray, size: int, border: int) -> np.ndarray:
        """What lies in it, uint8 [size, size, 3]; `border` is OpenCV's way to go on outside the picture."""
        flags, from_pixels = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, np.diag([1 / size, 1 / size, 1.0])
        return cv2.warpAffine(image, self._matrix() @ from_pixels, (size, size), flags=flags, borderMode=border)

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Points [n, 2] with the crop as 0..1, as pixels of the picture."""
        return np.c_[points, np.ones(len(points))] @ self._matrix().T

    def _matrix(self) -> np.ndarray:
        """[2, 3]: a point of the crop, 0..1, to pixels."""
        turned = self.side * np.array(
            [[math.cos(self.angle), -math.sin(self.angle)], [math.sin(self.angle), math.cos(self.angle)]]
        )
        return np.c_[turned, np.array([self.x, self.y]) - turned @ [0.5, 0.5]]


class MediaPipePose:
    """PoseEstimator: the people that BlazePose ("full") finds, the surest first. Processors only.

    Args:
        folder: a copy of the folder `mediapipe` of MediaPipe's wheel; the installed one when empty.

    Raises:
        BackendError: the two files are not there.
    """

    def __init__(self, folder: str = ""):
        where = Path(folder) if folder else _installed()
        self._detector, self._network = _Network(where / DETECTOR), _Network(where / LANDMARKS)
        self._anchors = _anchors()

    def poses(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._poses(image) for image in images]

    def _poses(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        found = [coco_keypoints(self.landmarks(image, crop), width, height) for crop in self.people(image)]
        return np.array([keypoints for keypoints in found if keypoints.any()]).reshape(-1, 17, 3)

    def people(self, image: np.ndarray) -> list[Crop]:
        """Where people are, as the square that the landmark network is to see."""
        height, width = image.shape[:2]
        whole = Crop(width / 2, height / 2, max(width, height))
        shown = whole.of(image, _SIDE_OF_DETECTOR, cv2.BORDER_CONSTANT).astype(np.float32) / 127.5 - 1
        boxes, logits = self._detector(shown)
        scores = _sigmoid(logits.reshape(-1))
        sure = scores >= _CONFIDENT
        values = boxes.reshape(-1, 6, 2)[sure] / _SIDE_OF_DETECTOR
        values[:, [0, 2, 3, 4, 5]] += self._anchors[sure, None]  # all are offsets from the anchor but the box's size
        merged = suppressed(values, scores[sure])
        return [_upright(whole.to_picture(value[2:4])) for value in merged]

    def landmarks(self, image: np.ndarray, crop: Crop) -> np.ndarray:
        """The 33 landmarks [33, 4] as (x, y, visibility, presence) in pixels and 0..1; all zero where there is no person."""
        shown = crop.of(image, _SIDE_OF_CROP, cv2.BORDER_REPLICATE).astype(np.float32) / 255
        outputs = {output.size: output for output in self._network(shown)}
        coarse = outputs[_LANDMARKS * 5].reshape(_LANDMARKS, 5).astype(np.float64)
        if float(outputs[1].item()) < _CONFIDENT:
            return np.zeros((33, 4))
        heat = next(output for output in outputs.values() if output.shape[-1] == _LANDMARKS)[0]
        points = refined(coarse[:33, :2] / _SIDE_OF_CROP, heat[:, :, :33])
        return np.c_[crop.to_picture(points), _sigmoid(coarse[:33, 3:5])]


def coco_keypoints(landmarks: np.ndarray, width: int, height: int) -> np.ndarray:
    """BlazePose's landmarks [33, 4] as COCO-17 key points [17, 3].

    2 (seen) where the visibility is at least one half, 1 (hidden) where only the presence is; 0 elsewhere and outside of the
    picture.
    """
    x, y, visibility, presence = landmarks[list(COCO_OF_LANDMARKS)].T
    inside = (presence >= _CONFIDENT) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    grade = inside * (1 + (visibility >= _CONFIDENT))
    return np.stack([x * inside, y * inside, grade], axis=1)


def suppressed(values: np.ndarray, scores: np.ndarray) -> Iterator[np.ndarray]:
    """Weighted non-maximum suppression: what overlaps the surest is averaged with it, by score.

    Args:
        values: [n, 6, 2]: middle and size of a box, then four points.
        scores: [n], 0..1.
    """
    while len(scores):
        near = _overlaps(values, values[scores.argmax()]) > _OVERLAP
        yield np.average(values[near], axis=0, weights=scores[near])
        values, scores = values[~near], scores[~near]


def refined(points: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Coarse points moved to the centre of mass of their heat map around them, where it is sure of anything.

    Args:
        points: [n, 2], the crop as 0..1.
        heat: [h, w, n], logits.
    """
    height, width, _ = heat.shape
    moved = points.copy()
    for n, (x, y) in enumerate((points * (width, height)).astype(int)):
        if not (0 <= x < width and 0 <= y < height):
            continue
        reach = _KERNEL // 2
        top, left = max(0, y - reach), max(0, x - reach)
        mass = _sigmoid(heat[top : y + reach + 1, left : x + reach + 1, n])
        if mass.max() >= _CONFIDENT:
            rows, columns = np.indices(mass.shape)
            moved[n] = np.sum((columns + left) * mass), np.sum((rows + top) * mass)
            moved[n] /= np.array([width, height]) * mass.sum()
    return moved


def _upright(points: np.ndarray) -> Crop:
    """The square around a person from the middle of the hips and a point on the circle, [2, 2]; turned so that it stands."""
    (x, y), (to_x, to_y) = points
    side = 2 * math.hypot(to_x - x, to_y - y) * _ENLARGED
    return Crop(float(x), float(y), side, math.pi / 2 - math.atan2(y - to_y, to_x - x))


def _overlaps(values: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Intersection over union [n] of boxes with one of them."""
    low = np.maximum(values[:, 0] - values[:, 1] / 2, one[0] - one[1] / 2)
    high = np.minimum(values[:, 0] + values[:, 1] / 2, one[0] + one[1] / 2)
    common = np.clip(high - low, 0, None).prod(axis=1)
    return common / (values[:, 1].prod(axis=1) + one[1].prod() - common)


def _anchors() -> np.ndarray:
    """Middles of the detector's anchors [2254, 2], the picture as 0..1."""
    grids = []
    for cells, each in _ANCHORS:
        y, x = np.divmod(np.arange(cells * cells).repeat(each), cells)
        grids.append((np.stack([x, y], axis=1) + 0.5) / cells)
    return np.concatenate(grids)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.astype(np.float64).clip(-100, 100)))


def _installed() -> Path:
    spec = importlib.util.find_spec("mediapipe")
    assert spec is not None and spec.origin is not None, "the registry asks for the package first"
    return Path(spec.origin).parent


class _Network:
    """A .tflite file: one picture in, its outputs."""

    def __init__(self, file: Path):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        if not file.is_file():
            raise BackendError(
                f"{file} is not there.", "Want the folder `mediapipe` of the wheel of mediapipe 0.10.14 or 0.10.21."
            )
        # without XNNPACK, which writes a line to stderr
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            self._interpreter: Any = Interpreter(str(file), experimental_op_resolver_type=plain)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BackendError(
                f"{file} cannot be used: {' '.join(str(error).split())[:200]}",
                "Install it again: pip install --no-deps --force-reinstall mediapipe==0.10.21",
            ) from None

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Its outputs for a float32 picture [h, w, 3], in the order of the file."""
        (given,) = self._interpreter.get_input_details()
        self._interpreter.set_tensor(given["index"], image[None])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"]) for output in self._interpreter.get_output_details()]
