"""Re-testing a paper's claims in miniature: train variants at equal budget over several seeds, measure, judge.

A `Study` lists variants (settings that differ from the tiny card) and claims. `reproduce.py` trains every variant with every seed
as a run of its own, measures each run once, and judges. What several runs of a seed do together is a `Joint`, measured once as
well.

How a figure is judged: it is the mean over seeds; its standard error is the larger one of the seeds' spread (standard deviation /
root of their number) and the test set's sampling error (bootstrap). A claim asks that a figure lies beyond a bound by so many
standard errors: then it is *confirmed*; where it lies as far on the other side *contradicted*; in between *not confirmed*.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
Evidence = Mapping[str, Sequence[Measures]]
"""All measures, by variant or joint, then by seed."""


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
class Figure:
    """A figure of the evidence, its interval 2 errors (see above) wide each way; and what a claim asks of it, if anything."""

    found: Callable[[Evidence], Interval]
    test: Callable[[Interval], Verdict] | None = None

    def must_be(self, test: Callable[..., Verdict], *bounds: float, **errors: float) -> "Figure":
        """This figure, of which `test` (`above`, `at_most` ...) is asked."""
        return replace(self, test=lambda interval: test(interval, *bounds, **errors))


@dataclass(frozen=True)
class Claim:
    """One claim: what the paper says and found, the rule for taking it as confirmed, and the figures that are shown, by label.

    Args:
        unshown: further figures to judge by.
    """

    name: str
    statement: str
    paper: str
    rule: str
    figures: Mapping[str, Figure]
    remark: str = ""
    unshown: Sequence[Figure] = ()

    def metrics(self, evidence: Evidence) -> dict[str, Interval]:
        return {label: figure.found(evidence) for label, figure in self.figures.items()}

    def verdict(self, evidence: Evidence) -> Verdict:
        figures = (*self.figures.values(), *self.unshown)
        verdicts: list[Verdict] = [figure.test(figure.found(evidence)) for figure in figures if figure.test]
        return all_of(*verdicts)


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
    tables: Callable[[Mapping[str, Path], Evidence], list[Table]] = lambda runs, evidence: []


def of(variant: str, figure: str) -> Figure:
    """A figure of a variant."""
    return _over_seeds(lambda run: run[figure], variant)


def difference(better: str, worse: str, figure: str) -> Figure:
    """better - worse, seed by seed."""
    return _over_seeds(
        lambda a, b: _less(a[figure], b[figure], lambda one, two: (one**2 + two**2) ** 0.5), better, worse
    )


def excess(variant: str, figure: str, over: str) -> Figure:
    """One figure of a variant less another one of the same run; the sampling error is the larger of the two."""
    return _over_seeds(lambda run: _less(run[figure], run[over], max), variant)


def ratio(upper: str, lower: str, figure: str) -> Figure:
    """upper / lower, seed by seed; without sampling errors."""
    return _over_seeds(lambda a, b: Measured(a[figure].value / b[figure].value), upper, lower)


def _less(a: Measured, b: Measured, error: Callable[[float, float], float]) -> Measured:
    return Measured(a.value - b.value, error(a.error, b.error))


def _over_seeds(take: Callable[..., Measured], *variants: str) -> Figure:
    """What is taken from the measures of some variants, seed by seed."""
    return Figure(
        lambda evidence: _interval([take(*runs) for runs in zip(*(evidence[name] for name in variants), strict=True)])
    )


def exact(value: float) -> Figure:
    """A figure that is counted, not measured."""
    return Figure(lambda evidence: Interval(value, value, value, 0.0))


def _interval(measured: Sequence[Measured]) -> Interval:
    """The sampling error of a mean over seeds that share one test set does not shrink with their number."""
    values = [one.value for one in measured]
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    error = max(spread, float(np.sqrt(np.mean([one.error**2 for one in measured]))))
    return Interval(mean, mean - 2 * error, mean + 2 * error, error)


def above(figure: Interval, bound: float = 0.0, errors: float = 2.0) -> Verdict:
    """Whether a figure lies above a bound by more than so many standard errors."""
    if figure.value - bound > errors * figure.error:
        return "confirmed"
    return "contradicted" if bound - figure.value > errors * figure.error else "not confirmed"


def below(figure: Interval, bound: float, errors: float = 0.0) -> Verdict:
    """Whether a figure lies below a bound by more than so many standard errors."""
    return above(figure._replace(value=-figure.value), -bound, errors)


def at_most(figure: Interval, bound: float) -> Verdict:
    """Confirmed up to a bound, contradicted where it is above by more than two standard errors."""
    return "confirmed" if figure.value <= bound else below(figure, bound, errors=2)


def at_least(figure: Interval, bound: float) -> Verdict:
    """Confirmed from a bound on, contradicted where it is below by more than two standard errors."""
    return "confirmed" if figure.value >= bound else above(figure, bound)


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
