"""The options that every editor has: a system's own section adds to them. Nothing heavy is imported here."""

from typing import Literal

from pydantic import model_validator

from lt.recipes.config import Section
from lt.recipes.system import option


class EditOptions(Section):
    """Which pictures to change, how and where."""

    source: str = option(..., argument=True)
    """A picture, a folder of pictures, or shards (folder, tar, pattern, URL)."""
    instruction: tuple[str, ...] = option((), shown="each sample's caption")
    """What to change, in English or Chinese; may be repeated: each picture is changed as each of them says."""
    mask: str | None = option(None, shown="the sample's mask.png, else everything")
    """A grey picture, white where the source may change."""
    box: str | None = option(None, shown=False)
    """Instead of a mask: X,Y,WIDTH,HEIGHT in pixels, inside which the source may change."""
    seed: int = option(0, ge=0, le=2**63 - 1)
    """Another seed gives another result."""
    limit: int | None = option(None, ge=1, shown="all")
    """Of a folder of pictures: only the first so many."""
    format: Literal["shards", "png", "ora", "psd"] = option("shards")
    """Write the results for other programs too: pictures, or source and result as layers (GIMP, Krita, Photoshop)."""

    @model_validator(mode="after")
    def _one_place(self) -> "EditOptions":
        if self.mask and self.box:
            raise ValueError("give either --mask or --box")
        return self
