"""The options of commands that draw: a field's docstring is its help. Nothing heavy is imported here."""

from collections.abc import Mapping
from pathlib import Path

from lt.datagen.shards.errors import UsageError
from lt.recipes.config import Section
from lt.recipes.system import option

CONTROLS = ("pose", "edge", "layout", "color")
"""Control pictures, see recipes/diffusion/controls.py: the first two are held by shards, the others are computed."""


class DrawOptions(Section):
    """What to draw, with what, how large and how carefully."""

    prompt: tuple[str, ...] = option((), shown=False)
    """What to draw, in English or Chinese; may be repeated."""
    prompts: Path | None = option(None, shown=False)
    """A file of prompts, one a line."""
    data: str | None = option(None, shown="without prompts: the figures world's test split")
    """Shards: their captions are the prompts, their control pictures are followed."""
    base: str | None = option(None, shown=False)
    """A diffusers folder instead (SD 1 and 2, SDXL, PixArt); DIR:pose,edge names its ControlNets."""
    size: str | None = option(None, shown="the model's")
    """Pixels, as 64x96."""
    count: int | None = option(None, shown="one a prompt; 16 of shards", ge=1)
    """Pictures."""
    steps: int = option(40, ge=1)
    """Sampling steps."""
    guidance: float | None = option(None, shown="the model's", ge=1)
    """How closely to follow the prompt; 1 = no guidance."""
    seed: int = option(0, ge=0, le=2**63 - 1)
    """Of the first picture; the n-th has seed + n."""
    batch: int = option(8, ge=1)
    """Pictures at once: fewer need less memory."""


class ControlOptions(Section):
    """Control pictures to follow, and the files that hold them."""

    controls: str = option("", shown="none")
    """Control pictures to follow: pose, edge, layout, color, with commas."""
    pose: Path | None = option(None, shown=False)
    """A skeleton in OpenPose's colours on black."""
    edge: Path | None = option(None, shown=False)
    """An edge map, white on black."""
    layout: Path | None = option(None, shown=False)
    """Filled boxes on black, a colour a name."""
    color: Path | None = option(None, shown=False)
    """Flat cells of colour, eight a side."""
    pose_of: Path | None = option(None, shown=False)
    """A photograph, whose people's pose (BlazePose) is followed."""
    edge_of: Path | None = option(None, shown=False)
    """A photograph, whose edges (Canny) are followed."""
    color_of: Path | None = option(None, shown=False)
    """A picture, whose mean colours are followed."""

    @property
    def drawings(self) -> Mapping[str, Path]:
        """Files of control pictures, by the control's name."""
        return {name: file for name in CONTROLS if (file := getattr(self, name))}

    @property
    def photos(self) -> Mapping[str, Path]:
        """Files of photographs, by the control that is to be found in them."""
        return {name: file for name in CONTROLS if (file := getattr(self, f"{name}_of", None))}

    @property
    def followed(self) -> tuple[str, ...]:
        """Names of all controls to follow.

        Raises:
            UsageError: an unknown one; one with two files.
        """
        if twice := self.drawings.keys() & self.photos.keys():
            raise UsageError(f"There are two control pictures for {', '.join(sorted(twice))}.", "Name one.")
        named = [name.strip() for name in self.controls.split(",") if name.strip()]
        if unknown := [name for name in named if name not in CONTROLS]:
            raise UsageError(f"Unknown control {unknown[0]!r}.", f"Known: {', '.join(CONTROLS)}.")
        return tuple(dict.fromkeys([*named, *self.drawings, *self.photos]))
