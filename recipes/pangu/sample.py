"""`lt sample pangu`: what was asked for, completed by what is there, said aloud, and made into a pipeline."""

import re
from collections.abc import Sequence
from functools import partial

from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards import UsageError
from lt.recipes.draw.control_files import same_aspect
from lt.recipes.draw.grid import write_grid
from lt.recipes.draw.job import prompt_source, size_of, warn
from lt.recipes.draw.painters import PainterFiles, open_painter
from lt.recipes.pangu.options import PanguOptions
from lt.recipes.pangu.painters import locate_painter, locate_runs
from lt.recipes.pangu.together import DrawTogether
from lt.recipes.pictures import Size
from lt.recipes.registry import UsualRun
from lt.recipes.shipped import SCHEME, present
from lt.recipes.system import Job, Note


def sample(options: PanguOptions, note: Note) -> Job:
    """Choose painters, prompts and size where nothing was said, and say so in the first lines.

    Raises:
        UsageError: options that contradict each other, unknown controls, a size or weight that does not fit.
        LtError: models, prompts or pictures that are not there or do not fit.
    """
    controls = options.followed
    lead = _lead(options, controls)
    coop = [_scaled("--coop", text, "MODEL=WEIGHT", "models/sd15=0.5") for text in options.coop]
    others = tuple(locate_painter(where, controls) for where, _ in coop)
    painter = open_painter(lead)
    size = size_of(options.size) if options.size else (painter.side, painter.side)
    stage = DrawTogether(
        lead,
        controls,
        *size,
        options.steps,
        options.guidance or painter.guidance,
        options.batch,
        others,
        tuple(weight for _, weight in coop),
        styles=tuple(_scaled("--style", text, "TEXT=SCALE", '"an oil painting=4"') for text in options.style),
        low=_low(options.low, controls, size) if options.low else None,
    )
    stage.check()
    first_line = f"pangu: {painter.name}; {_together(stage)}{size[0]}x{size[1]} pixels, "
    source = prompt_source("pangu", options, options, size, lambda what: note(first_line + what), note)
    warn(source, options, painter, note, [style for style, _ in stage.styles])
    return Job(Pipeline(stage.name, source, (stage,)), then=partial(write_grid, controls=controls))


def _lead(options: PanguOptions, controls: Sequence[str]) -> PainterFiles:
    if options.base and options.checkpoint:
        raise UsageError("Give either --base or --checkpoint.", "--coop MODEL=WEIGHT lets a second model draw along.")
    if options.base:
        return locate_painter(options.base, controls)
    if options.checkpoint:
        return locate_runs(options.checkpoint)
    elsewhere = bool(options.coop or options.low)  # the branch may belong to another model
    runs = [UsualRun("pangu", preset) for preset in ("tiny", "tiny-texture", *(f"tiny-{one}" for one in controls))]
    if runs[0].out.is_dir():
        return locate_runs([str(run.out) for run in runs if run in runs[:2] or run.out.is_dir() or not elsewhere])
    shipped = {run: SCHEME + run.out.name for run in runs if SCHEME + run.out.name in present()}
    for control, run in zip(controls, runs[2:], strict=True):
        if run not in shipped and not elsewhere:
            raise UsageError(
                f"The miniature that comes with lt has no {control} branch.",
                f"Train your own: {runs[0].card.header['command']}, then {run.card.header['command']}",
            )
    return locate_runs(list(shipped.values()))


def _scaled(option: str, text: str, form: str, example: str) -> tuple[str, float]:
    """What is named, and the number after the last `=`."""
    name, _, number = text.rpartition("=")
    if not name.strip() or not re.fullmatch(r"\d*\.?\d+", number):
        raise UsageError(f"{option} {text}: want {form}.", f"Example: {option} {example}")
    return name.strip(), float(number)


def _low(text: str, controls: Sequence[str], size: Size) -> tuple[PainterFiles, Size]:
    """What begins, by default as large as it draws by itself, in the aspect of the pictures."""
    where, sign, wanted = text.rpartition("@")
    files = locate_painter(where if sign else text, controls)
    if sign:
        low = size_of(wanted, "--low MODEL@")
    else:
        painter = open_painter(files)
        scale, factor = painter.side / max(size), painter.space.factor
        width, height = (max(factor, round(side * scale / factor) * factor) for side in size)
        low = width, height
    if not same_aspect(low[::-1], size) or low[0] > size[0]:
        raise UsageError(
            f"--low begins at {low[0]}x{low[1]}, the pictures are to be {size[0]}x{size[1]}: want the same aspect, no larger.",
            f"Name its size: --low {where if sign else text}@WIDTHxHEIGHT",
        )
    return files, low


def _together(stage: DrawTogether) -> str:
    """Who else draws."""
    begins = "begun by {} at {}x{}; ".format(open_painter(stage.low[0]).name, *stage.low[1]) if stage.low else ""
    others = zip(stage.others, stage.weights, strict=True)
    named = [f"{open_painter(one).name} at {weight:g}" for one, weight in others]
    return begins + (f"together with {' and '.join(named)}; " if named else "")
