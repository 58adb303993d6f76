"""The options of `lt sample filip` and `lt sample wukong`. Nothing heavy is imported here."""

from pathlib import Path

from lt.recipes.config import Section
from lt.recipes.system import option


class AlignOptions(Section):
    """Which pictures and texts to align, by which model."""

    align: bool = option(True)
    """Word-patch alignment pictures (what these models have to show)."""
    checkpoint: Path | None = option(None, shown="runs/<system>-tiny, else the one that comes with lt")
    """A run's folder or a checkpoint."""
    data: str | None = option(None, shown="the built-in test scenes")
    """Shards, or a file of captions."""
    pictures: Path | None = option(None, shown=False)
    """With a file of captions: the folder of its pictures."""
    prompt: str | None = option(None, shown="each sample's caption")
    """This text for every picture."""
    label: str | None = option(None, shown="the names of drawn things")
    """Words of the prompt to highlight."""
    count: int = option(6, ge=1)
    """How many pictures to draw."""
    limit: int = option(500, ge=1)
    """How many samples to score."""
    out: Path | None = option(None, shown="samples/<system>")
    """Folder for the pictures."""
