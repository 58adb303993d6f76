"""One run on one rank: what it consists of, how it is set up, saved and taken up again. `loop.py` makes it move."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from accelerate.utils import broadcast_object_list, set_seed

from lt.datagen.shards import SampleError, ShardError
from lt.recipes.config import flat
from lt.recipes.training import checkpoints, estimate
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.ema import Ema
from lt.recipes.training.grouped import GroupedOrder
from lt.recipes.training.loader import Examples, Validation
from lt.recipes.training.order import Order, micro_size
from lt.recipes.training.parallel import make_accelerator, place
from lt.recipes.training.plan import RunPlan, open_data, with_length
from lt.recipes.training.players import make_sides, turns_of
from lt.recipes.words import unknown_words


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `checkpoint` is its newest one, `metrics` are the last validation's."""

    status: Literal["done", "nothing to do", "stopped"]
    out: Path
    step: int
    steps: int
    checkpoint: Path | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    main: bool = True
    """False on all ranks but the first, which leave speaking to it."""


_LOOKED_AT, _TOO_MANY = 256, 0.2


class Run:
    """Data, objective, optimizer and the few numbers that change. `find`, then `start`, then the loop, which calls `save`.

    The whole state is: weights, moving average, optimizers, `step`, the guards' losses and the count of bad samples.
    """

    def __init__(self, plan: RunPlan, note: Callable[[str], None]):
        self.accelerator = make_accelerator(plan.settings.train)
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        self.rank, self.ranks = self.accelerator.process_index, self.accelerator.num_processes
        self.note = note if self.main else lambda _: None
        self.note(self._headline(plan))
        with self.accelerator.main_process_first():  # the first rank builds the world, the others find it
            self.data = open_data(plan, self.note)
        self.plan = with_length(plan, len(self.data.train))
        self.settings = self.plan.settings
        self.train = self.settings.train
        self.micro = micro_size(self.train.batch, self.train.micro, self.ranks)
        self.folder = plan.out / "checkpoints"
        self.step = self.bad = 0
        self.metrics: dict[str, float] = {}
        self.note(f"  data: {self._extent()}")

    def _headline(self, plan: RunPlan) -> str:
        """The first line that a run prints: preset, device, data, and why."""
        named = plan.settings.data.train
        data = f"{', '.join(named)} (as asked)" if named else "the built-in world (no --data)"
        ranks = f" x {self.ranks} ranks" if self.ranks > 1 else ""
        return (
            f"{plan.recipe.name}: preset {plan.preset} ({plan.why}); device {self.device.type}{ranks}; "
            f"data {data}; run {plan.out}"
        )

    def _extent(self) -> str:
        """Where the data lie, how much they are, how they are shuffled: `data/scenes, 12,000 samples in 24 shards, ...`."""
        samples, shards, window = len(self.data.train), len(self.data.train.sizes), self.settings.data.window
        how = "as a whole" if window >= samples else f"in windows of {window:,}"
        epochs = self.train.steps * self.train.batch / max(1, samples)
        extent = f"{samples:,} samples in {shards:,} shard{'' if shards == 1 else 's'}"
        return f"{self.data.where}, {extent}, shuffled {how}; {epochs:.3g} epochs"

    def find(self) -> tuple[Path, Record] | None:
        """The checkpoint to continue from, checked against this run; rank 0 chooses for all."""
        shared = [str(checkpoints.latest(self.folder) or "")]
        broadcast_object_list(shared)
        if not shared[0]:
            return None
        path = Path(shared[0])
        record = Record.load(path)
        checkpoints.check(record, self.plan.recipe.name, self.settings, self.data.train.digest, path)
        return path, record

    def build(self, found: tuple[Path, Record] | None = None) -> None:
        """The objective with its random weights on the device; for the words of the checkpoint that it takes up."""
        seed_all(self.train.seed, 0, 0)
        settings = checkpoints.with_words(self.settings, *found) if found else self.settings
        self.objective = self.plan.recipe.objective(settings)
        place(self.objective, self.device)
        self.examples = Examples(self.data.train, self._order(), self.objective.example())
        if self.objective.words and not found:
            self.tell_unknown()

    def tell_unknown(self) -> None:
        """Say which of the captions' words, in some hundred samples, the objective's list lacks."""
        texts: list[str] = []
        for _, shard, index in map(self.examples.order, range(min(_LOOKED_AT, len(self.examples.order)))):
            with suppress(SampleError, ShardError):
                texts += self.objective.texts_of(self.data.train.read(shard, index))
        share, unknown = unknown_words(self.objective.words, texts)
        if unknown:
            named = ", ".join(unknown[:8]) + (f" and {len(unknown) - 8:,} more" if len(unknown) > 8 else "")
            self.note(
                f"  words: {share:.1%} of the captions' words are not in the list and read as one unknown word: {named}"
            )
            if share > _TOO_MANY:
                self.note(
                    "    That teaches little: name a list of your own, one entry a line, as --set text.words=FILE."
                )

    def _order(self) -> Order:
        shards, seed, window = self.data.train, self.train.seed, self.settings.data.window
        if self.objective.group_of is None:
            return Order(shards.sizes, seed, window)
        order = GroupedOrder(shards.groups(self.objective.group_of), self.train.batch, seed, window)
        self.note(
            f"  batches of one size: each epoch leaves out {order.left_out:,} of {len(shards):,} samples, which fill no batch"
        )
        return order

    def estimate(self) -> estimate.Estimate:
        """Say what the run will take: measured on a few samples, unless the weights are to be sharded first."""
        if self.train.parallel == "fsdp" and self.ranks > 1:
            found = estimate.counted(self.objective, self.train, self.ranks)
        else:
            batch = self.examples.fetch(range(min(self.micro, 8 if self.device.type == "cpu" else 32)))
            found = estimate.measured(self.objective, batch, self.train, self.accelerator, self.micro)
        for line in estimate.describe(found, self.train, self.device):
            self.note(f"  {line}")
        return found

    def start(self, found: tuple[Path, Record] | None) -> None:
        """Make everything the loop needs; take up the checkpoint's state, or announce a fresh start."""
        self.build(found)
        if found:
            self._take_up(*found)
        else:
            self._begin()
        losses = found[1].losses if found else {}
        self.sides = make_sides(self.objective, self.accelerator, self.train, losses)  # which may shard the weights
        self.weights = checkpoints.weights_of(self.objective)
        averaged = self.objective.averaged or self.objective.modules
        trained = [name for name, weight in self.weights.items() if weight.requires_grad]
        kept = {name: self.weights[name] for name in trained if name.split(".")[0] in averaged}
        self.turns = turns_of(self.objective)
        self.parallel = next(iter(self.sides.values())).parallel
        self.ema = Ema(kept) if self.train.ema or self.train.ema_kimg else None
        if found:
            self._take_up_state(*found)
        self.validation = self._validation()
        if self.main:
            checkpoints.sweep(self.folder)

    def _begin(self) -> None:
        if said := self.objective.pretrained():
            self.note(f"  {said}")
        if self.train.init:
            where = Path(self.train.init)
            if not self.objective.adopt(where):
                where = checkpoints.chosen(where)
                checkpoints.load_model(self.objective, where, Record.load(where))
            self.note(f"  starts from the weights of {where}")
        self.estimate()

    def _take_up(self, path: Path, record: Record) -> None:
        """Load weights and numbers."""
        self.note(f"  continues from {path} (step {record.step:,} of {self.train.steps:,})")
        self.step, self.bad, self.metrics = record.step, record.bad, dict(record.metrics)
        checkpoints.load_model(self.objective, path, record)

    def _take_up_state(self, path: Path, record: Record) -> None:
        """Load what optimizers and moving average hold."""
        state = checkpoints.read_tensors(path, record, "optimizer")
        for side in self.sides.values():
            checkpoints.load_optimizer(side.optimizer, self.weights, state)
        if self.ema:
            self.ema.load(checkpoints.read_tensors(path, record, "ema"))

    def _validation(self) -> Validation | None:
        shards, data = self.data.validation, self.settings.data
        if shards is None:
            return None
        examples = Examples(shards, Order(shards.sizes, window=0), self.examples.example, replace=False)
        group_of = self.objective.group_of
        groups = shards.groups(group_of) if group_of else None
        pin = self.device.type == "cuda"
        return Validation(examples, data.validation_samples, self.micro, data.workers, pin, groups)

    def identity(self) -> dict[str, object]:
        """What a log and a checkpoint store about the run."""
        return {
            "system": self.plan.recipe.name,
            "preset": self.plan.preset,
            "settings": flat(self.settings),
            "data": self.data.train.digest,
            "built_on": dict(self.objective.built_on),
            "samples": len(self.data.train),
            "versions": checkpoints.versions() | dict(self.objective.revisions),
        }

    def save(self, score: float | None = None) -> None:
        """Write a checkpoint of this moment and remove those that need not stay. All ranks must call this."""
        if self.main or self.train.parallel == "fsdp":
            tensors = {"model": checkpoints.gathered(self.weights), "optimizer": {}}
            for side in self.sides.values():
                tensors["optimizer"] |= checkpoints.optimizer_tensors(side.optimizer, self.weights)
            if self.ema:
                tensors["ema"] = checkpoints.gathered(self.ema.average)
            if self.main:
                checkpoints.save(self.folder, self._record(score), tensors, self.objective.words)
                checkpoints.rotate(self.folder, self.settings.log.keep)
        self.accelerator.wait_for_everyone()

    def _record(self, score: float | None) -> Record:
        return Record.model_validate(
            {
                **self.identity(),
                "step": self.step,
                "card": self.plan.card_text,
                "metrics": self.metrics,
                "score": score,
                "losses": {name: list(side.guard.losses) for name, side in self.sides.items()},
                "bad": self.bad,
            }
        )

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules hold the moving average, where one is kept."""
        if not self.ema:
            yield
            return
        self.parallel.reshard()
        with self.ema.swapped():
            try:
                yield
            finally:
                self.parallel.reshard()

    def training_mode(self, on: bool) -> None:
        for module in self.objective.modules.values():
            module.train(on)


def seed_all(seed: int, step: int, rank: int) -> None:
    """Seed Python's, numpy's and torch's generators for one step of one rank."""
    number = int(np.random.SeedSequence((seed, 4, step, rank)).generate_state(1, np.uint32)[0])
    set_seed(number)
