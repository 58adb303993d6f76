"""Which devices the engine deals a pipeline's tasks to: the meaning of `--devices`; and a pipeline run to its end on them."""

from pathlib import Path

from lt.datagen.engine.run import RunReport, run_pipeline
from lt.datagen.engine.stage import Pipeline
from lt.datagen.shards.errors import LtError, UsageError


def devices_for(pipeline: Pipeline, wanted: str = "auto") -> tuple[str, ...] | None:
    """What `run_pipeline` takes as `devices`; None leaves the choice to each process.

    Args:
        wanted: names with commas (`cuda:0,cuda:1`, `cpu`), or `auto`: all accelerators for a pipeline that computes on one,
            where there are several.

    Raises:
        UsageError: a name that torch does not know, or an accelerator that is not here.
    """
    if wanted == "auto" and not pipeline.on_device:
        return None
    from lt.models.nn.device import accelerators

    here = accelerators()
    if wanted == "auto":
        return here if len(here) > 1 else None
    names = tuple(name.strip() for name in wanted.split(",") if name.strip())
    for name in names:
        _check(name, here)
    if not names:
        raise UsageError("--devices names no device.", "For example: --devices cuda:0,cuda:1")
    return names


def _check(name: str, here: tuple[str, ...]) -> None:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"{name!r} is no device.", f"Here: {', '.join((*here, 'cpu'))}.") from None
    if device.type != "cpu" and f"{device.type}:{device.index or 0}" not in here:
        raise UsageError(f"There is no device {name!r} here.", f"Here: {', '.join((*here, 'cpu'))}.")


def run_to_end(pipeline: Pipeline, out: Path, workers: int = 0) -> RunReport:
    """Make the shards of a pipeline on what is here, after any other run that holds the folder.

    Raises:
        LtError: tasks failed, so that the folder is not complete; or what `run_pipeline` raises.
    """
    report = run_pipeline(pipeline, out, workers=workers, devices=devices_for(pipeline), wait=True)
    if not report.complete:
        first = report.failed[0]
        raise LtError(
            f"{len(report.failed)} of {report.tasks} tasks failed ({first.error}): {out} is not complete.",
            first.hint or "Run it again.",
        )
    return report
