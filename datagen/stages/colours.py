"""Colour words, English and Chinese, and how much of a set of pixels shows each colour."""

import cv2
import numpy as np

NAMES = {
    **dict.fromkeys(("red", "crimson", "scarlet", "maroon", "红"), "red"),
    **dict.fromkeys(("orange", "橙", "橘"), "orange"),
    **dict.fromkeys(("yellow", "golden", "gold", "黄", "金"), "yellow"),
    **dict.fromkeys(("green", "绿"), "green"),
    **dict.fromkeys(("blue", "navy", "teal", "蓝"), "blue"),
    **dict.fromkeys(("purple", "violet", "紫"), "purple"),
    **dict.fromkeys(("pink", "粉"), "pink"),
    **dict.fromkeys(("brown", "tan", "棕", "褐"), "brown"),
    **dict.fromkeys(("black", "黑"), "black"),
    **dict.fromkeys(("white", "白"), "white"),
    **dict.fromkeys(("grey", "gray", "silver", "灰", "银"), "grey"),
}
"""A word to the colour it means."""

_HUES = (
    ("red", 0, 8),
    ("orange", 8, 21),
    ("yellow", 21, 34),
    ("green", 34, 86),
    ("blue", 86, 130),
    ("purple", 130, 150),
)
"""OpenCV's hue, 0..180; pink and red go on to 180."""


def colour_share(pixels: np.ndarray) -> dict[str, float]:
    """The share 0..1 of uint8 RGB `pixels` [n, 3] that shows each colour; shares may overlap a little at the borders."""
    hue, saturation, value = cv2.cvtColor(pixels[None], cv2.COLOR_RGB2HSV)[0].astype(int).T
    vivid = (saturation > 90) & (value > 60)
    found = {name: vivid & (hue >= low) & (hue < high) for name, low, high in _HUES}
    found["red"] |= vivid & (hue >= 172)
    found["pink"] = (value > 150) & (saturation > 40) & (hue >= 150) & ~((hue >= 172) & vivid)
    found["brown"] = (saturation > 70) & (value > 30) & (value < 170) & (hue >= 4) & (hue < 22)
    found["black"] = value < 60
    found["white"] = (saturation < 45) & (value > 190)
    found["grey"] = (saturation < 45) & (value >= 60) & (value <= 190)
    return {name: float(which.mean()) for name, which in found.items()}
