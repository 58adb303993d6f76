"""The one training loop. `train(plan)` starts a run, continues one, or finds that there is nothing to do.

A step takes the samples at positions [step * batch, (step + 1) * batch) of the data's order, shared by all ranks; seeds all
generators from (seed, step, rank); and changes weights, optimizers and moving average, one player's turn after the other. These
and the number of the step are the whole state of a run, so continuing from a checkpoint gives what an uninterrupted run gives: on
a CPU bit for bit.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from statistics import fmean
from typing import cast

import torch
from accelerate.utils import gather_object
from torch import Tensor

from lt.datagen.engine.lock import directory_lock
from lt.datagen.shards.errors import LtError
from lt.datagen.shards.storage import write_json
from lt.recipes.system import Note
from lt.recipes.training import checkpoints
from lt.recipes.training.ema import decay
from lt.recipes.training.estimate import Estimate, counted, describe
from lt.recipes.training.guard import Interruption
from lt.recipes.training.loader import Bad, to_device, training_loader
from lt.recipes.training.logging import RunLog
from lt.recipes.training.objective import Batch, Objective, Report, Turn
from lt.recipes.training.order import share
from lt.recipes.training.parallel import Parts, make_accelerator
from lt.recipes.training.plan import RunPlan, check_enough, check_usable
from lt.recipes.training.players import alone
from lt.recipes.training.rounds import run_rounds
from lt.recipes.training.run import Outcome, Run, seed_all


@dataclass(frozen=True)
class Progress:
    """How far a run is: steps done and in all, the last loss, the rate since the start, seconds left at that rate."""

    step: int
    steps: int
    loss: float
    samples_per_second: float
    seconds_left: float


def train(
    plan: RunPlan, note: Note = print, watch: Callable[[Progress], None] = lambda _: None, resume: bool = False
) -> Outcome:
    """Train as planned, from where it was left or from the start, until done or asked to stop; in rounds where there are any.

    Args:
        note: takes lines for people.
        watch: is told after every step how far the run is.
        resume: insist that there is something to continue.

    Raises:
        LtError: a checkpoint that does not fit, data that cannot be used, a loss that exploded, no space left ...
    """
    rounds = plan.recipe.rounds
    if rounds is None:
        return _train(plan, note, watch, resume)
    if resume and not plan.out.is_dir():
        raise LtError(f"There is no run in {plan.out}.", "Leave out --resume to start one.")
    main = make_accelerator(plan.settings.train).is_main_process
    return run_rounds(plan, rounds, note if main else lambda _: None, main, lambda part: _train(part, note, watch))


def _train(plan: RunPlan, note: Note, watch: Callable[[Progress], None], resume: bool = False) -> Outcome:
    """One training, from the newest checkpoint in `plan.out` or from the start."""
    check_usable(plan)
    if resume and not checkpoints.latest(plan.out / "checkpoints"):
        raise LtError(f"There is no checkpoint in {plan.out / 'checkpoints'}.", "Leave out --resume to start a run.")
    run = Run(plan, note)
    check_enough(run.train.batch, len(run.data.train))
    with directory_lock(plan.out) if run.main else nullcontext():
        found = run.find()
        if found and found[1].step >= run.train.steps:
            path, record = found
            return Outcome("nothing to do", plan.out, record.step, record.step, path, record.metrics, main=run.main)
        run.start(found)
        return Loop(run, watch if run.main else lambda _: None).go()


def dry_run(plan: RunPlan, note: Note = print) -> Estimate:
    """Say what the run would take: parameters, memory, time. Writes nothing (but a built-in world that is missing).

    Where pretrained weights are missing, and the system knows its shapes without them, it counts and measures nothing.
    """
    if (outline := plan.recipe.outline(plan.settings)) is not None:
        return _count(plan, outline, note)
    if rounds := plan.recipe.rounds:
        note(
            f"{plan.out}: {rounds.count(plan.settings):,} rounds, each of which makes shards and trains on them. One training:"
        )
    run = Run(plan, note)
    run.build()
    return run.estimate()


def _count(plan: RunPlan, outline: Objective, note: Note) -> Estimate:
    train, accelerator = plan.settings.train, make_accelerator(plan.settings.train)
    note(
        f"{plan.recipe.name}: preset {plan.preset} ({plan.why}); counted by its shapes, for pretrained weights are missing"
    )
    found = counted(outline, train, accelerator.num_processes)
    for line in describe(found, train, accelerator.device):
        note(f"  {line}")
    return found


@dataclass(frozen=True)
class Step:
    """A step whose metrics may still be on their way from the device: `row` [2 + names], means over the ranks."""

    number: int
    turns: list[Turn]
    names: list[str]
    row: Tensor
    keys: list[str]
    bad: list[Bad]


class Loop:
    """A run in motion, on this rank."""

    def __init__(self, run: Run, watch: Callable[[Progress], None]):
        self.run, self.train, self.every = run, run.train, run.settings.log
        self.watch = watch
        self.log = RunLog(run.plan.out, run.step, self.every.tensorboard, silent=not run.main)
        self.pending: deque[Step] = deque()
        self.metrics: dict[str, float] = {}  # of the last step that was settled
        self.stopping = False
        self.lag = 0 if run.device.type == "cpu" else 1  # a GPU works on while the metrics of the step before are read
        self.first, self.began = run.step, time.perf_counter()
        self.waited: list[float] = []
        self.computed: list[float] = []  # seconds of the steps since the last line of the log

    def go(self) -> Outcome:
        """Run the steps that are left."""
        run = self.run
        self.log.write("start", run.step, ranks=run.ranks, device=run.device.type, **run.identity())
        batches = self._batches()
        run.training_mode(True)
        with Interruption() as self.interruption, memory_explained(run.micro):
            while run.step < self.train.steps and not self.stopping:
                self._step(batches)
            if self.stopping:
                self._settle(0)
                run.save()
        self.log.write("stop" if self.stopping else "end", run.step)
        self.log.close()
        status = "done" if run.step >= self.train.steps else "stopped"
        seconds = time.perf_counter() - self.began
        newest = checkpoints.latest(run.folder)
        return Outcome(status, run.plan.out, run.step, self.train.steps, newest, run.metrics, seconds, run.main)

    def _batches(self) -> Iterator[Batch]:
        run, data = self.run, self.run.settings.data
        slices = (
            positions
            for step in range(run.step, self.train.steps)
            for positions in share(step, self.train.batch, run.rank, run.ranks, run.micro)
        )
        return training_loader(run.examples, slices, data.workers, data.prefetch, pin=run.device.type == "cuda")

    def _step(self, batches: Iterator[Batch]) -> None:
        run, start = self.run, time.perf_counter()
        parts = [next(batches) for _ in range(self.train.batch // run.ranks // run.micro)]
        self.waited.append(time.perf_counter() - start)
        bad = [sample for part in parts for sample in part.pop("bad")]
        self.pending.append(self._learn(parts, bad))
        run.step += 1
        log = run.step % self.every.every == 0
        validate = run.step % self.every.validate_every == 0 or run.step == self.train.steps
        save = validate or run.step % self.every.save_every == 0
        self._settle(0 if log or save else self.lag)
        self.computed.append(time.perf_counter() - start - self.waited[-1])
        self._tell()
        if log:
            self.log.metrics("train", run.step, {**self.metrics, **self._speed()})
        if save:
            run.save(self._validate().score if validate and run.validation else None)

    def _learn(self, parts: list[Batch], bad: list[Bad]) -> Step:
        """The turns of a step, and the moving average. Nothing here waits for the device."""
        run = self.run
        keys = [key for part in parts for key in part["key"]]
        seed_all(self.train.seed, run.step + 1, run.rank)
        run.objective.now = run.step
        turns = [turn for turn in run.turns if run.step % turn.every == 0 and run.step not in self.train.skip]
        metrics: dict[str, Tensor | float] = {}
        for turn in turns:
            alone(run.sides, turn.player)
            metrics |= run.sides[turn.player].learn(turn, Parts(parts, run.device), run.step)
        if turns:
            run.objective.after_step()
            if run.ema:
                run.ema.update(decay(run.step, self.train))
        names = sorted(metrics)
        values = [bool(self.interruption.asked), len(bad), *(metrics[name] for name in names)]
        row = torch.stack([torch.as_tensor(v, dtype=torch.float32, device=run.device).detach() for v in values])
        mean = cast(Tensor, run.accelerator.reduce(row, "mean"))
        return Step(run.step, turns, names, mean, keys, bad)

    def _settle(self, leave: int) -> None:
        """Read and judge the metrics of all steps but the last `leave`; the same on all ranks."""
        while len(self.pending) > leave:
            step = self.pending.popleft()
            asked, bad, *values = step.row.tolist()
            if bad:
                self._report_bad(step)
            self.stopping = self.stopping or asked > 0
            if step.number in self.train.skip:
                self.log.write("skip", step.number + 1, keys=step.keys)
                continue
            metrics = dict(zip(step.names, values, strict=True))
            for turn in dict.fromkeys(step.turns):
                if trouble := self.run.sides[turn.player].trouble(turn, metrics):
                    self._give_up(step, trouble)
            for side in self.run.sides.values():
                metrics |= side.rate(step.number)
            self.metrics |= {**metrics, "bad": self.run.bad}  # a turn not taken now leaves what it had last

    def _report_bad(self, step: Step) -> None:
        everywhere = gather_object(step.bad)
        self.run.bad += len(everywhere)
        self.log.bad(step.number + 1, everywhere)

    def _give_up(self, step: Step, trouble: str) -> None:
        """Stop without saving: the newest checkpoint is from before the trouble."""
        keys = gather_object(step.keys)
        newest = checkpoints.latest(self.run.folder)
        listed = self.run.plan.out / f"trouble-step-{step.number:08d}.json"
        self.log.write("trouble", step.number + 1, what=trouble, keys=keys)
        self.log.close()
        if self.run.main:
            write_json(listed, {"step": step.number, "what": trouble, "keys": keys})
        first = ", ".join(keys[:4]) + (f" ... ({len(keys)} in {listed})" if len(keys) > 4 else "")
        skip = ",".join(str(number) for number in [*self.train.skip, step.number])
        raise LtError(
            f"Stopped at step {step.number:,}: {trouble}. The batch: {first}.",
            f"Last good checkpoint: {newest or 'none yet'}. Look at the samples (`lt shards show`), then run the same command "
            f"with --set train.skip=[{skip}] to pass this batch over, or train with a lower train.lr into another --out.",
        )

    def _validate(self) -> Report:
        """The objective's report, with the moving average's weights where one is kept; pictures and metrics are logged."""
        run = self.run
        assert run.validation is not None
        run.training_mode(False)
        with torch.no_grad(), run.averaged():
            report = run.parallel("validate", (to_device(batch, run.device) for batch in run.validation))
        run.training_mode(True)
        run.metrics = dict(report.metrics)
        self.log.metrics("validation", run.step, report.metrics)
        self.log.pictures(run.step, report.pictures)
        return report

    def _speed(self) -> dict[str, float]:
        """Seconds a step spent waiting for data and computing, and samples per second; starts anew."""
        data, compute = fmean(self.waited), fmean(self.computed)
        self.waited, self.computed = [], []
        return {"data_s": data, "compute_s": compute, "samples_per_s": self.train.batch / (data + compute)}

    def _tell(self) -> None:
        seconds = max(time.perf_counter() - self.began, 1e-9)
        done, left = self.run.step - self.first, self.train.steps - self.run.step
        loss = self.metrics.get(self.run.turns[0].method, float("nan"))
        rate = done * self.train.batch / seconds
        self.watch(Progress(self.run.step, self.train.steps, loss, rate, left * seconds / done))


@contextmanager
def memory_explained(micro: int) -> Iterator[None]:
    """A GPU that is full, as an error that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        hint = f"Use smaller micro-batches: --set train.micro={max(1, micro // 2)}. The same command with it continues."
        raise LtError(f"The device's memory is full: {str(error).splitlines()[0]}", hint) from error
