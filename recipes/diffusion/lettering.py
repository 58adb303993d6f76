"""Text in pictures: a font of this machine, with Chinese characters where it has one, and captions under small pictures."""

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "msyh.ttc", "PingFang.ttc")
_PIECE = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]|[^\s\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef]+\s*|\s+")
"""A wide character, or a word with the blanks after it: where lines may break."""
LETTERS, LINES = 10, 3
"""Size of the letters under a picture in pixels, and how many lines there are at most."""


@lru_cache(maxsize=1)
def chinese_font() -> str:
    """The file of a font with Chinese characters on this machine, or "" where there is none (they then show as boxes)."""
    for name in _FONTS:
        try:
            return str(ImageFont.truetype(name, 12).path)
        except OSError:
            continue
    try:
        answer = subprocess.run(["fc-list", ":lang=zh", "file"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next((file for line in answer.stdout.splitlines() if Path(file := line.rstrip(": ")).is_file()), "")


@lru_cache(maxsize=8)
def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font of this size; with Chinese characters where the machine has one."""
    return ImageFont.truetype(chinese_font(), size) if chinese_font() else ImageFont.load_default(size)


def captioned(text: str, width: int) -> np.ndarray:
    """A text in small letters on white, uint8 RGB [h, width, 3]: wrapped, and what does not fit cut with an ellipsis."""
    lines, height = wrapped(text, width), LETTERS + 2
    page = Image.new("RGB", (width, height * len(lines)), "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(lines):
        draw.text((0, height * number), line, fill="black", font=font(LETTERS))
    return np.asarray(page)


def wrapped(text: str, width: int) -> list[str]:
    """Up to `LINES` lines of a text, each no wider than `width` pixels."""
    lines = [""]
    for piece in _PIECE.findall(" ".join(text.encode("utf-8", "replace").decode().split())):
        if lines[-1] and font(LETTERS).getlength((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], "".join(lines[LINES - 1 :])]
    return [_cut(line.strip(), width) for line in lines]


def _cut(line: str, width: int) -> str:
    shown = line
    while shown and font(LETTERS).getlength(shown) > width:
        line = line[:-1]
        shown = f"{line.rstrip()}…"
    return shown
