"""A study of the toy system that other processes can import: `further` goes on from `wide`, `both` looks at several runs.

As a program: python toy_study.py SHARDS OUT STEPS, two runs at a time.
"""

import sys
from functools import partial
from pathlib import Path

from lt.datagen.shards import LtError
from lt.recipes import registry
from lt.recipes.claims import Claim, Joint, Measured, Measures, Study, Variant, above, difference
from lt.recipes.reproduce import Trial, side_by_side
from lt.recipes.training.logging import read_log

registry.SYSTEMS.setdefault("toy", "toy")


def _measure(run: Path, test: str) -> Measures:
    return {"accuracy": Measured(read_log(run, "validation")[-1]["accuracy"], 0.01)}


def _both(runs, test: str) -> Measures:
    return {name: Measured(read_log(run, "validation")[-1]["accuracy"]) for name, run in runs.items()}


def study(folder: str, width: int = 8) -> Study:
    """Args: the toy's shards; the width of `further`, which cannot go on from `wide` with another one than 8."""
    return Study(
        system="toy",
        variants=(
            Variant("shared", ("model.width=3",), shared=True),
            Variant("wide", ("model.width=8",)),
            Variant("further", (f"model.width={width}", "train.init={wide}"), share=0.5),
            Variant("narrow", ("model.width=2",)),
        ),
        claims=(
            Claim(
                "width",
                "Wider is better",
                "-",
                "above 0",
                {"gain": difference("wide", "narrow", "accuracy").must_be(above)},
            ),
        ),
        data=lambda note: ({"data.train": f"[{folder}]", "data.validation": folder}, folder),
        measure=_measure,
        steps=6,
        expected="seconds",
        joints=(Joint("both", ("further", "narrow", "shared"), _both),),
    )


def run(folder: str, out: Path, steps: int = 6, seeds: int = 2, width: int = 8) -> list[str]:
    """Side by side, in two processes; the lines that it said."""
    source, said = partial(study, folder, width), []
    trial = Trial(source(), steps, *source().data(print), out)
    side_by_side(trial, seeds, 2, lambda line: said.append(line) or print(line, flush=True), source)
    return said


if __name__ == "__main__":
    try:
        run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), seeds=1)
    except LtError as error:
        sys.exit(error.message)
