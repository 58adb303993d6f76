"""Re-testing a paper's claims in miniature: train variants at equal budget over several seeds, measure, judge.

A `Study` lists variants (settings that differ from the tiny card) and claims. `reproduce.py` trains every variant with every seed
as a run of its own, measures each run once, and judges. What several runs of a seed do together is a `Joint`, measured once as
well.

How a figure is judged: it is the mean over seeds; its standard error is the larger one of the seeds' spread (standard deviation /
root of their number) and the test set's sampling error (bootstrap). A claim asks that a figure lies beyond a bound by so many
standard errors: then it is *confirmed*; where it lies as far on the other side *contradicted*; in between *not confirmed*.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lt.recipes.evaluate.bootstrap import Interval
from lt.recipes.registry import systems_with, unknown
from lt.recipes.system import Note, Table, imported

Verdict = Literal["confirmed", "not confirmed", "contradicted"]


@dataclass(frozen=True)
class Variant:
    """Settings on top of the tiny card. `{name}` in an override stands for the run of the variant of that name and equal seed,
    `{seed}` for the seed.

    `share` scales the study's steps for variants that train on little data. A `shared` variant is one run for all seeds.
    """

    name: str
    overrides: tuple[str, ...] = ()
    system: str = ""
    share: float = 1.0
    shared: bool = False

    def run(self, out: Path, seed: int) -> Path:
        """The folder of its run with a seed."""
        return out / f"{self.name}-seed{0 if self.shared else seed}"


@dataclass(frozen=True)
class Measured:
    """A figure of one run and its sampling error over the test set (0 where it has none)."""

    value: float
    error: float = 0.0


Measures = dict[str, Measured]


@dataclass(frozen=True)
class Joint:
    """What several variants of one seed do together. Its metrics are found under its name, like a variant's.

    Args:
        variants: names of those that it needs.
        measure: their runs by name, and the test data's folder, to metrics.
    """

    name: str
    variants: tuple[str, ...]
    measure: Callable[[Mapping[str, Path], str], Measures]


@dataclass(frozen=True)
class Finding:
    """What was found: metrics by label, each with the interval that was judged by, and the verdict."""

    metrics: dict[str, Interval]
    verdict: Verdict
    remark: str = ""


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper says and found, the rule for taking it as confirmed, and who judges."""

    name: str
    statement: str
    paper: str
    rule: str
    judge: Callable[["Evidence"], Finding]


@dataclass(frozen=True)
class Study:
    """The claims of one paper and what must be trained and measured for them.

    Args:
        data: makes or finds the worlds: (values by name, the test folder). Names such as `data.train` are settings of every
            variant; the others can be used in overrides as `{name}`.
        measure: a finished run's folder and the test data's folder to its metrics.
        steps: optimizer steps of a variant with share 1.
        expected: how long it takes, for people.
        joints: what is measured over several runs.
        tables: further tables, which no claim is judged by, from the runs of the first seed by name and all measures.
    """

    system: str
    variants: Sequence[Variant]
    claims: Sequence[Claim]
    data: Callable[[Note], tuple[dict[str, str], str]]
    measure: Callable[[Path, str], Measures]
    steps: int
    expected: str
    joints: Sequence[Joint] = ()
    tables: Callable[[Mapping[str, Path], "Evidence"], list[Table]] = lambda runs, evidence: []


@dataclass(frozen=True)
class Evidence:
    """All measures, by variant or joint, then by seed."""

    measures: Mapping[str, Sequence[Measures]]

    def of(self, variant: str, figure: str) -> Interval:
        """A figure of a variant: mean over seeds, with the error described above; the interval is 2 errors wide each way."""
        runs = [measures[figure] for measures in self.measures[variant]]
        return _interval([run.value for run in runs], [run.error for run in runs])

    def difference(self, better: str, worse: str, figure: str) -> Interval:
        """better - worse, seed by seed."""
        pairs = list(zip(self.measures[better], self.measures[worse], strict=True))
        values = [a[figure].value - b[figure].value for a, b in pairs]
        errors = [(a[figure].error ** 2 + b[figure].error ** 2) ** 0.5 for a, b in pairs]
        return _interval(values, errors)

    def excess(self, variant: str, figure: str, over: str) -> Interval:
        """One figure of a variant less another one of the same run; the sampling error is the larger of the two."""
        runs = self.measures[variant]
        errors = [max(run[figure].error, run[over].error) for run in runs]
        return _interval([run[figure].value - run[over].value for run in runs], errors)

    def ratio(self, upper: str, lower: str, figure: str) -> Interval:
        """upper / lower, seed by seed."""
        pairs = list(zip(self.measures[upper], self.measures[lower], strict=True))
        return _interval([a[figure].value / b[figure].value for a, b in pairs], [0.0])


def _interval(values: Sequence[float], errors: Sequence[float]) -> Interval:
    """The sampling error of a mean over seeds that share one test set does not shrink with their number."""
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    error = max(spread, float(np.sqrt(np.mean(np.square(errors)))))
    return Interval(mean, mean - 2 * error, mean + 2 * error, error)


def above(figure: Interval, bound: float = 0.0, errors: float = 2.0) -> Verdict:
    """Whether a figure lies above a bound by more than so many standard errors."""
    if figure.value - bound > errors * figure.error:
        return "confirmed"
    return "contradicted" if bound - figure.value > errors * figure.error else "not confirmed"


def below(figure: Interval, bound: float, errors: float = 0.0) -> Verdict:
    """Whether a figure lies below a bound by more than so many standard errors."""
    return above(figure._replace(value=-figure.value), -bound, errors)


def all_of(*verdicts: Verdict) -> Verdict:
    """Confirmed if all are, contradicted if one is."""
    if "contradicted" in verdicts:
        return "contradicted"
    return "confirmed" if all(verdict == "confirmed" for verdict in verdicts) else "not confirmed"


def find_study(name: str) -> Study:
    """The study of a system. Raises UsageError if there is none."""
    known = systems_with("study")
    if name not in known:
        raise unknown(name, "reproduce", known)
    return imported(known[name].study)
