"""A system as small as can be: it trains, draws, edits, measures, makes data and has a claim."""

from lt.recipes.config import Section
from lt.recipes.edit.options import EditOptions
from lt.recipes.system import System, Verb, option


class StubOptions(Section):
    count: int = option(2, ge=1)
    """How many squares."""


SYSTEM = System(
    about="The mean colour of squares.",
    recipe="stub.work:RECIPE",
    study="stub.work:STUDY",
    sample=Verb(StubOptions, "stub.work:sample", "lt sample stub", "Draw squares.", "samples/stub", workers=0),
    edit=Verb(EditOptions, "stub.work:edit", "lt edit stub a.png --instruction no", "Invert.", "edits/stub", workers=0),
    eval={"shade": Verb(StubOptions, "stub.work:shade", "lt eval shade", "The mean shade.", workers=0)},
    datagen={"squares": Verb(StubOptions, "stub.work:squares", "lt datagen squares", "Grey.", "data/squares-{count}")},
)
