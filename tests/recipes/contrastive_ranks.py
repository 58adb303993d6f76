"""One accumulated step of FILIP on a rank's share of a batch, for `test_contrastive_ranks.py`.

torchrun --nproc-per-node 2 contrastive_ranks.py FOLDER      # every rank writes FOLDER/RANK.pt
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from lt.recipes.config import TrainSettings
from lt.recipes.filip.objective import FilipSettings, ModelSettings, make_objective
from lt.recipes.training.parallel import DataParallel, make_accelerator

HEADS = {
    "token-wise": ModelSettings(),
    "token-wise, sum": ModelSettings(reduce="sum"),
    "token-wise, colder": ModelSettings(colder=10),
    "global": ModelSettings(head="global"),
}
PAIRS, PLACES = 16, 32


def whole_batch() -> dict[str, Tensor]:
    """Texts of 2 to 20 words; pairs 2 and 9, which two ranks hold apart, and 4 and 5 have the same text."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 21, (PAIRS, 1), generator=generator)
    text = torch.arange(PAIRS)
    text[9], text[5] = text[2], text[4]
    return {
        "image": torch.randint(0, 256, (PAIRS, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "tokens": torch.randint(4, 500, (PAIRS, PLACES), generator=generator),
        "mask": torch.arange(PLACES) < lengths,
        "text": text,
    }


def step(head: str, micro: int) -> dict[str, Tensor]:
    """The loss, averaged over the ranks, and every parameter's gradient, in float64, from micro-batches of so many pairs."""
    torch.manual_seed(0)
    objective = make_objective(FilipSettings(model=HEADS[head]))
    objective.model.double().register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
    train = TrainSettings(device="cpu")
    accelerator = make_accelerator(train)
    parallel = DataParallel(objective, tuple(objective.modules), accelerator, train)
    own = {
        name: rows.chunk(accelerator.num_processes)[accelerator.process_index] for name, rows in whole_batch().items()
    }
    cut = {name: rows.split(micro) for name, rows in own.items()}
    parts = [dict(zip(cut, rows, strict=True)) for rows in zip(*cut.values(), strict=True)]
    loss, _ = objective.step(parts, parallel)
    gradients = {name: p.grad.clone() for name, p in objective.model.named_parameters() if p.grad is not None}
    return {"loss": accelerator.reduce(loss, "mean"), **gradients}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {head: step(head, 4) for head in HEADS}
    torch.save(results, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
