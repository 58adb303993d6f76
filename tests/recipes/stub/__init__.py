"""A system as small as can be: it trains, draws, edits, measures, makes data and has a claim."""

from lt.recipes.config import Section
from lt.recipes.edit.options import EditOptions
from lt.recipes.system import System, Verb, option


class StubOptions(Section):
    count: int = option(2, ge=1)
    """How many squares."""


def verb(name: str, command: str, about: str, options: type[Section] = StubOptions, out: str = "") -> Verb:
    return Verb(options, f"stub.work:{name}", f"lt {command}", about, out, workers=0)


SYSTEM = System(
    about="The mean colour of squares.",
    recipe="stub.work:RECIPE",
    study="stub.work:STUDY",
    sample=verb("sample", "sample stub", "Draw squares of the mean colour.", out="samples/stub"),
    edit=verb("edit", "edit stub a.png --instruction invert", "Invert.", EditOptions, "edits/stub"),
    eval={"shade": verb("shade", "eval shade", "The mean shade.")},
    datagen={"squares": verb("squares", "datagen squares", "Grey squares.", out="data/squares-{count}")},
)
