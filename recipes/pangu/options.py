"""The options of `lt sample pangu`."""

from lt.recipes.draw.options import ControlOptions, DrawOptions
from lt.recipes.system import option


class PanguOptions(ControlOptions, DrawOptions):
    """What to draw, by which generators and branches, alone or together with others."""

    checkpoint: tuple[str, ...] = option(
        (), shown="runs/pangu-tiny, -texture and the branches asked for, else lt:pangu-tiny ..."
    )
    """A run of `lt train pangu`; once for each generator and branch."""
    coop: tuple[str, ...] = option((), shown=False)
    """MODEL=WEIGHT: another diffusers folder, or runs joined by +, that draws along; may be repeated."""
    low: str | None = option(None, shown=False)
    """MODEL[@WxH]: draws smaller until t = 500, then hands over."""
    style: tuple[str, ...] = option((), shown=False)
    """TEXT=SCALE: lean to what TEXT before the prompt changes; may be repeated."""
    guidance: float | None = option(None, shown="6, the paper's; 3 with the tiny U-Nets", ge=1)
    """How closely to follow the prompt; 1 = no guidance."""
