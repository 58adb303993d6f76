"""What pangu adds to the options of `lt train` and `lt reproduce`, and those of `lt sample pangu`."""

from lt.recipes.draw.options import ControlOptions, DrawOptions
from lt.recipes.system import Answer, Note, ReproduceOptions, TrainOptions, option


class PanguTrainOptions(TrainOptions):
    """What to train."""

    control: str | None = option(None, shown=False)
    """Train a control branch: short for --preset tiny-CONTROL."""

    @property
    def card_name(self) -> str | None:
        return f"{self.preset or 'tiny'}-{self.control}" if self.control else self.preset


class PanguReproduceOptions(ReproduceOptions):
    """The study, or the efficiency table alone."""

    ledger: tuple[str, ...] = option((), shown=False)
    """Only estimate the efficiency table for the pictures of these shards."""

    def instead(self, note: Note) -> Answer | None:
        from lt.recipes.pangu.ledger import answer

        return answer(self.ledger) if self.ledger else None


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
