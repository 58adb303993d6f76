"""Re-testing a paper's claims in miniature: train variants at equal budget over several seeds, measure, judge.

A `Study` lists variants (settings that differ from the tiny card) and claims. `reproduce` trains every variant with every seed as
a run of its own, `<out>/<variant>-seed<k>`, measures each run once, and judges. What several runs of a seed do together is a
`Joint`, measured once as well. The same call again goes on where it was stopped.

How a figure is judged: it is the mean over seeds; its standard error is the larger one of the seeds' spread (standard deviation /
root of their number) and the test set's sampling error (bootstrap). A claim asks that a figure lies beyond a bound by so many
standard errors: then it is *confirmed*; where it lies as far on the other side *contradicted*; in between *not confirmed*.
"""

import importlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lt.datagen.shards import LtError, UsageError, open_shards
from lt.datagen.shards.storage import write_json
from lt.recipes import checkpoints
from lt.recipes.checkpoints import Record
from lt.recipes.config import nearest
from lt.recipes.evaluate.bootstrap import Interval
from lt.recipes.loop import Progress, train
from lt.recipes.plan import make_plan
from lt.recipes.registry import SYSTEMS, Note, find

Verdict = Literal["confirmed", "not confirmed", "contradicted"]
MEASURES = "measures.json"


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
    """What several variants of one seed do together. Its figures are found under its name, like a variant's.

    Args:
        variants: names of those that it needs.
        measure: their runs by name, and the test data's folder, to figures.
    """

    name: str
    variants: tuple[str, ...]
    measure: Callable[[Mapping[str, Path], str], Measures]


@dataclass(frozen=True)
class Finding:
    """What was found: figures by label, each with the interval that was judged by, and the verdict."""

    figures: dict[str, Interval]
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
class Table:
    """Figures that no claim is judged by, for people."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str | float]]


@dataclass(frozen=True)
class Study:
    """The claims of one paper and what must be trained and measured for them.

    Args:
        data: makes or finds the worlds: (values by name, the test folder). Names such as `data.train` are settings of every
            variant; the others can be used in overrides as `{name}`.
        measure: a finished run's folder and the test data's folder to its figures.
        steps: optimizer steps of a variant with share 1.
        expected: how long it takes, for people.
        joints: what is measured over several runs.
        tables: further tables, from the runs of the first seed by name and all measures.
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
        return _interval([run.value for run in runs], _root_mean([run.error for run in runs]))

    def difference(self, better: str, worse: str, figure: str) -> Interval:
        """better - worse, seed by seed."""
        pairs = list(zip(self.measures[better], self.measures[worse], strict=True))
        values = [a[figure].value - b[figure].value for a, b in pairs]
        errors = [(a[figure].error ** 2 + b[figure].error ** 2) ** 0.5 for a, b in pairs]
        return _interval(values, _root_mean(errors))

    def excess(self, variant: str, figure: str, over: str) -> Interval:
        """One figure of a variant less another one of the same run; the sampling error is the larger of the two."""
        runs = self.measures[variant]
        errors = [max(run[figure].error, run[over].error) for run in runs]
        return _interval([run[figure].value - run[over].value for run in runs], _root_mean(errors))

    def ratio(self, upper: str, lower: str, figure: str) -> Interval:
        """upper / lower, seed by seed."""
        pairs = list(zip(self.measures[upper], self.measures[lower], strict=True))
        return _interval([a[figure].value / b[figure].value for a, b in pairs], 0.0)


def _interval(values: Sequence[float], sampling: float) -> Interval:
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    error = max(spread, sampling)
    return Interval(mean, mean - 2 * error, mean + 2 * error, error)


def _root_mean(errors: Sequence[float]) -> float:
    """The sampling error of a mean over seeds that share one test set does not shrink with their number."""
    return float(np.sqrt(np.mean(np.square(errors))))


def above(figure: Interval, bound: float = 0.0, errors: float = 2.0) -> Verdict:
    """Whether a figure lies above a bound by more than so many standard errors."""
    if figure.value - bound > errors * figure.error:
        return "confirmed"
    return "contradicted" if bound - figure.value > errors * figure.error else "not confirmed"


def below(figure: Interval, bound: float, errors: float = 0.0) -> Verdict:
    """Whether a figure lies below a bound by more than so many standard errors."""
    turned = Interval(-figure.value, -figure.high, -figure.low, figure.error)
    return above(turned, -bound, errors)


def all_of(*verdicts: Verdict) -> Verdict:
    """Confirmed if all are, contradicted if one is."""
    if "contradicted" in verdicts:
        return "contradicted"
    return "confirmed" if all(verdict == "confirmed" for verdict in verdicts) else "not confirmed"


@dataclass(frozen=True)
class Result:
    """What `reproduce` found, with everything it depends on. `seconds` counts the training and measuring of all runs."""

    system: str
    claims: list[dict[str, Any]]
    seeds: list[int]
    steps: int
    full: bool
    """Whether the study's own number of steps and at least three seeds were used."""
    variants: dict[str, list[str]]
    measures: dict[str, list[dict[str, Any]]]
    data: dict[str, str]
    hardware: dict[str, Any]
    seconds: float
    tables: list[Table]
    versions: dict[str, str] = field(default_factory=checkpoints.versions)


def find_study(name: str) -> Study:
    """The study of a system. Raises UsageError if there is none."""
    if name in SYSTEMS:
        module = SYSTEMS[name].rsplit(".", 1)[0] + ".claims"
        if importlib.util.find_spec(module):
            return importlib.import_module(module).STUDY
        raise UsageError(f"There are no claims of {name} to reproduce yet.")
    raise UsageError(f"No system {name!r}.", nearest(name, SYSTEMS))


def reproduce(
    study: Study,
    out: Path,
    seeds: int = 3,
    steps: int | None = None,
    note: Note = print,
    watch: Callable[[str, Progress], None] = lambda run, progress: None,
) -> Result:
    """Train what is missing, measure, judge, and write `<out>/claims.json`.

    Raises:
        LtError: a run was stopped, or cannot go on.
    """
    steps = steps or study.steps
    note(
        f"{study.system}: {len(study.variants)} variants x {seeds} seeds x {steps} steps into {out} ({study.expected})"
    )
    data, test = study.data(note)
    found = [_one_seed(study, seed, steps, data, test, out, note, watch) for seed in range(seeds)]
    measures = {name: [of_seed[name].measures for of_seed in found] for name in found[0]}
    files = {kept.file for of_seed in found for kept in of_seed.values()}
    evidence = Evidence(measures)
    result = Result(
        study.system,
        [_judged(claim, evidence) for claim in study.claims],
        list(range(seeds)),
        steps,
        steps >= study.steps and seeds >= 3,
        {variant.name: list(variant.overrides) for variant in study.variants},
        {name: [{figure: asdict(m) for figure, m in one.items()} for one in runs] for name, runs in measures.items()},
        _digests(out, study.variants, test),
        hardware(),
        sum(float(_read(file).get("seconds", 0.0)) for file in files),
        study.tables({variant.name: variant.run(out, 0) for variant in study.variants}, evidence),
    )
    write_json(out / "claims.json", asdict(result))
    return result


@dataclass(frozen=True)
class _Kept:
    """Measures, and the file that keeps them."""

    measures: Measures
    file: Path


def _one_seed(
    study: Study,
    seed: int,
    steps: int,
    data: Mapping[str, str],
    test: str,
    out: Path,
    note: Note,
    watch: Callable[[str, Progress], None],
) -> dict[str, _Kept]:
    """Train and measure every variant, then every joint; by their names."""
    runs = {variant.name: variant.run(out, seed) for variant in study.variants}
    found = {}
    for variant in study.variants:
        run = runs[variant.name]
        took = _trained(study, variant, seed, steps, data, runs, note, watch)
        found[variant.name] = _taken(run / MEASURES, [run], lambda run=run: study.measure(run, test), took)
    for joint in study.joints:
        some, file = {name: runs[name] for name in joint.variants}, out / f"{joint.name}-seed{seed}.json"
        found[joint.name] = _taken(file, list(some.values()), lambda joint=joint, some=some: joint.measure(some, test))
    return found


def _trained(
    study: Study,
    variant: Variant,
    seed: int,
    steps: int,
    data: Mapping[str, str],
    runs: Mapping[str, Path],
    note: Note,
    watch: Callable[[str, Progress], None],
) -> float:
    """Train a variant to its end; seconds that this took now."""
    run, seed = runs[variant.name], 0 if variant.shared else seed
    own = max(1, round(steps * variant.share))
    fixed = [f"train.seed={seed}", f"train.steps={own}", f"train.warmup={max(1, own // 10)}", "log.tensorboard=false"]
    fixed += [
        f"log.validate_every={own}",
        f"log.save_every={max(1, own // 2)}",
        "log.keep=1",
        "data.validation_samples=128",
        "data.workers=0",
        "log.every=1",
    ]
    chosen = [text.format(seed=seed, **runs, **data) for text in variant.overrides]
    named = {text.partition("=")[0] for text in chosen}
    defaults = [f"{key}={value}" for key, value in data.items() if key.startswith("data.") and key not in named]
    plan = make_plan(find(variant.system or study.system), "tiny", None, [*defaults, *fixed, *chosen], run)
    start = time.perf_counter()
    outcome = train(plan, lambda line: None, lambda progress: watch(run.name, progress))
    if outcome.status == "stopped":
        raise LtError(f"Stopped in {run.name} after step {outcome.step:,}.", "The same command continues.")
    if outcome.status == "done":
        note(f"  {run.name}: {outcome.steps:,} steps in {outcome.seconds:,.0f} s")
    return time.perf_counter() - start


def _taken(file: Path, runs: Sequence[Path], take: Callable[[], Measures], took: float = 0.0) -> _Kept:
    """Measures of some runs, taken once for their checkpoints and kept in a file. `took`: seconds of training to add."""
    digest = "+".join(map(_weights, runs))
    kept = _read(file)
    if kept.get("digest") != digest:
        start = time.perf_counter()
        found = take()
        kept = {
            "digest": digest,
            "seconds": kept.get("seconds", 0.0) + took + time.perf_counter() - start,
            "measures": {name: asdict(measured) for name, measured in found.items()},
        }
        write_json(file, kept)
    return _Kept({name: Measured(**value) for name, value in kept["measures"].items()}, file)


def _weights(run: Path) -> str:
    """The digest of a run's newest weights."""
    newest = checkpoints.latest(run / "checkpoints")
    assert newest is not None
    return Record.load(newest).files["model.safetensors"]


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _digests(out: Path, variants: Sequence[Variant], test: str) -> dict[str, str]:
    """The digest of every variant's training data, and of the test data."""
    found = {"test": open_shards(test).digest()}
    for variant in variants:
        newest = checkpoints.latest(out / f"{variant.name}-seed0" / "checkpoints")
        found[variant.name] = Record.load(newest).data if newest else ""
    return found


def _judged(claim: Claim, evidence: Evidence) -> dict[str, Any]:
    finding = claim.judge(evidence)
    return {
        "name": claim.name,
        "statement": claim.statement,
        "paper": claim.paper,
        "rule": claim.rule,
        "ours": {label: interval._asdict() for label, interval in finding.figures.items()},
        "verdict": finding.verdict,
        "remark": finding.remark,
    }


def hardware() -> dict[str, Any]:
    """What the runs were made on."""
    device = torch.accelerator.current_accelerator(check_available=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.machine(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "accelerator": str(device) if device else "none",
    }
