"""`lt reproduce`: train and measure all that a study asks for, in this process or side by side in several, then judge.

    <out>/<variant>-seed<k>/         a run, with its measures.json
    <out>/<joint>-seed<k>.json       what several runs do together
    <out>/claims.json                metrics, verdicts, and all that they depend on

What is there already is not done again, so the same call goes on where it was stopped. Processes side by side use this too: they
pass nothing back, and the one that judges finds everything done. Each has one thread, for networks as small as these use
a second one badly.
"""

import json
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import partial
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch

from lt.datagen.cores import cores
from lt.datagen.shards import LtError, open_shards
from lt.datagen.shards.storage import write_json
from lt.recipes.claims import Claim, Evidence, Joint, Measured, Measures, Study, Table, Variant, find_study
from lt.recipes.registry import find_recipe
from lt.recipes.system import Note
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.loop import Progress, train
from lt.recipes.training.plan import make_plan

MEASURES = "measures.json"
Watch = Callable[[str, Progress], None]
Key = tuple[str, int]
"""A variant's or joint's name and seed."""
Kept = dict[str, Any]
"""What a measures' file holds: `measures`, the `digest` of weights and test data that they are of, `seconds` of making them."""


@dataclass(frozen=True)
class Result:
    """What was found, with everything it depends on. `seconds` counts the training and measuring of all runs, one by one."""

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


def usual_jobs() -> int:
    """One run a core at a time; one at all where there is an accelerator."""
    return 1 if torch.accelerator.is_available() else cores()


def reproduce(
    study: Study,
    out: Path,
    seeds: int = 3,
    steps: int | None = None,
    note: Note = print,
    watch: Watch = lambda run, progress: None,
    jobs: int = 1,
) -> Result:
    """Train what is missing, measure, judge, and write `<out>/claims.json`.

    Args:
        jobs: how many runs at once. More than one: in processes of one thread each, for the studies that `find_study` knows.

    Raises:
        LtError: a run was stopped, or cannot go on.
    """
    steps = steps or study.steps
    note(
        f"{study.system}: {len(study.variants)} variants x {seeds} seeds x {steps} steps into {out} ({study.expected})"
    )
    trial = Trial(study, steps, *study.data(note), out)
    if jobs > 1:
        side_by_side(trial, seeds, jobs, note)
    kept = {(part.name, seed): trial.done(part, seed, note, watch) for seed in range(seeds) for part in trial.parts}
    measures = {part.name: [kept[part.name, seed]["measures"] for seed in range(seeds)] for part in trial.parts}
    evidence = {name: [_measured(one) for one in runs] for name, runs in measures.items()}
    result = Result(
        study.system,
        [_judged(claim, evidence) for claim in study.claims],
        list(range(seeds)),
        steps,
        steps >= study.steps and seeds >= 3,
        {variant.name: list(variant.overrides) for variant in study.variants},
        measures,
        _digests(out, study.variants, trial.test),
        hardware(jobs),
        sum(kept[key]["seconds"] for key in {trial.key(part, seed) for part in trial.parts for seed in range(seeds)}),
        study.tables(trial.runs(0), evidence),
    )
    write_json(out / "claims.json", asdict(result))
    return result


@dataclass(frozen=True)
class Trial:
    """A study with its number of steps, its data and the folder of its runs."""

    study: Study
    steps: int
    data: Mapping[str, str]
    test: str
    out: Path

    @property
    def parts(self) -> list[Variant | Joint]:
        """All that is trained and measured, in order."""
        return [*self.study.variants, *self.study.joints]

    def runs(self, seed: int) -> dict[str, Path]:
        """The folder of every variant's run."""
        return {variant.name: variant.run(self.out, seed) for variant in self.study.variants}

    def done(self, part: Variant | Joint, seed: int, note: Note, watch: Watch) -> Kept:
        """What is found for a variant or a joint. Raises LtError if a training was stopped."""
        runs = self.runs(seed)
        if isinstance(part, Joint):
            some, file = {name: runs[name] for name in part.variants}, self.out / f"{part.name}-seed{seed}.json"
            return _taken(file, list(some.values()), self.test, lambda: part.measure(some, self.test))
        run, took = runs[part.name], self._trained(part, seed, note, watch)
        return _taken(run / MEASURES, [run], self.test, lambda: self.study.measure(run, self.test), took)

    def key(self, part: Variant | Joint, seed: int) -> Key:
        """What runs of several seeds share has seed 0."""
        return part.name, 0 if isinstance(part, Variant) and part.shared else seed

    def needs(self, part: Variant | Joint, seed: int) -> list[Key]:
        """What has to be there first."""
        names = part.variants if isinstance(part, Joint) else _named_in(part.overrides, self.runs(seed))
        return [self.key(variant, seed) for variant in self.study.variants if variant.name in names]

    def _trained(self, variant: Variant, seed: int, note: Note, watch: Watch) -> float:
        """Train a variant to its end; seconds that this took now."""
        name, seed = self.key(variant, seed)
        runs = self.runs(seed)
        own = max(1, round(self.steps * variant.share))
        fixed = [f"train.seed={seed}", f"train.steps={own}", f"train.warmup={max(1, own // 10)}"]
        fixed += [f"log.validate_every={own}", f"log.save_every={max(1, own // 2)}", "log.keep=1", "log.every=1"]
        fixed += ["log.tensorboard=false", "data.validation_samples=128", "data.workers=0"]
        chosen = [text.format(seed=seed, **runs, **self.data) for text in variant.overrides]
        named = {text.partition("=")[0] for text in chosen}
        ours = [f"{key}={value}" for key, value in self.data.items() if key.startswith("data.") and key not in named]
        plan = make_plan(
            find_recipe(variant.system or self.study.system), "tiny", None, [*ours, *fixed, *chosen], runs[name]
        )
        start = time.perf_counter()
        outcome = train(plan, lambda line: None, lambda progress: watch(runs[name].name, progress))
        if outcome.status == "stopped":
            raise LtError(f"Stopped in {runs[name].name} after step {outcome.step:,}.", "The same command continues.")
        if outcome.status == "done":
            note(f"  {runs[name].name}: {outcome.steps:,} steps in {outcome.seconds:,.0f} s")
        return time.perf_counter() - start


def _named_in(overrides: Sequence[str], names: Mapping[str, Path]) -> list[str]:
    return [name for name in names if any(f"{{{name}}}" in text for text in overrides)]


# Side by side


def side_by_side(trial: Trial, seeds: int, jobs: int, note: Note, source: Callable[[], Study] | None = None) -> None:
    """Do everything that a trial needs in processes of one thread each, every part as soon as what it needs is there.

    Args:
        source: gives the study anew in another process, since its functions cannot be sent there; None = `find_study`.

    Raises:
        LtError: interrupted, or what one of them raised; the others save first what they have.
    """
    parts = {trial.key(part, seed): part for part in trial.parts for seed in range(seeds)}
    order = TopologicalSorter({key: trial.needs(part, key[1]) for key, part in parts.items()})
    order.prepare()
    clock = _Clock({key: part.share if isinstance(part, Variant) else 0.0 for key, part in parts.items()}, jobs)
    where = (trial.steps, dict(trial.data), trial.test, trial.out)
    work = partial(_work, source or partial(find_study, trial.study.system), where)
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin) as pool:
        running: dict[Future[float], Key] = {}
        try:
            while order.is_active():
                for key in order.get_ready():
                    running[pool.submit(work, *key)] = key
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    order.done(key)
                    note(clock.after(key, future.result()))
        except BaseException as error:
            for process in multiprocessing.active_children():
                process.terminate()  # a training saves and ends
            pool.shutdown(cancel_futures=True)
            if isinstance(error, KeyboardInterrupt):
                raise LtError("Stopped.", "The same command continues.") from None
            raise


def _begin() -> None:
    """In a new process: Ctrl-C is the parent's to hear, except while a training listens; when the parent dies, so do we."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _work(source: Callable[[], Study], where: tuple[int, dict[str, str], str, Path], name: str, seed: int) -> float:
    """Do one part of a study, quietly; seconds that it took."""
    start, trial = time.perf_counter(), Trial(source(), *where)
    (part,) = (part for part in trial.parts if part.name == name)
    trial.done(part, seed, lambda line: None, lambda run, progress: None)
    return time.perf_counter() - start


class _Clock:
    """How far the parts are, by their costs (any unit), and what that says of the time left."""

    def __init__(self, costs: Mapping[Key, float], jobs: int):
        self.left, self.count, self.jobs = dict(costs), len(costs), jobs
        self.seconds = self.cost = 0.0

    def after(self, key: Key, seconds: float) -> str:
        """A line for people once a part is done."""
        self.seconds, self.cost = self.seconds + seconds, self.cost + self.left.pop(key)
        line = f"  {self.count - len(self.left)} of {self.count}: {key[0]}, seed {key[1]}, in {seconds:,.0f} s"
        minutes = self.seconds / self.cost * sum(self.left.values()) / self.jobs / 60 if self.cost else 0.0
        return line + (f"; about {minutes:,.0f} minutes left" if minutes >= 1 else "")


# Measures on disk


def _measured(kept: Mapping[str, Mapping[str, float]]) -> Measures:
    return {figure: Measured(**values) for figure, values in kept.items()}


def _taken(file: Path, runs: Sequence[Path], test: str, take: Callable[[], Measures], took: float = 0.0) -> Kept:
    """Measures of some runs, taken once for their checkpoints and the test data and kept in a file.

    Args:
        took: seconds of training to add.
    """
    digest = "+".join([*map(_weights, runs), open_shards(test).digest()])
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
    return kept


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
    return {
        "name": claim.name,
        "statement": claim.statement,
        "paper": claim.paper,
        "rule": claim.rule,
        "ours": {label: interval._asdict() for label, interval in claim.metrics(evidence).items()},
        "verdict": claim.verdict(evidence),
        "remark": claim.remark,
    }


def hardware(jobs: int) -> dict[str, Any]:
    """What the runs were made on, so many at a time."""
    device = torch.accelerator.current_accelerator(check_available=True)
    return {
        "machine": platform.machine(),
        "cores": cores(),
        "jobs": jobs,
        "threads": 1 if jobs > 1 else torch.get_num_threads(),
        "accelerator": str(device) if device else "none",
    }
