"""One step of every recipe on two ranks, whole and sharded, for `test_fsdp.py`.

torchrun --nproc-per-node 2 fsdp_ranks.py FOLDER      # every rank writes FOLDER/RANK.pt
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from contrastive_ranks import whole_batch
from torch import Tensor

from lt.recipes.config import TrainSettings
from lt.recipes.registry import find_recipe
from lt.recipes.training.objective import Objective
from lt.recipes.training.parallel import DataParallel, make_accelerator, place, whole
from lt.recipes.training.plan import make_plan

RECIPES = {
    "filip": ("filip", "tiny", []),
    "filip, colder": ("filip", "tiny", ["model.colder=10"]),
    "wukong": ("wukong", "tiny", []),
    "vae": ("vae", "tiny", []),
    "judge": ("judge", "tiny", []),
    "pangu": ("pangu", "tiny", ["model.autoencoder=lt:vae-tiny"]),
    "pangu, branch": ("pangu", "tiny-pose", ["model.autoencoder=lt:vae-tiny", "model.base=lt:pangu-tiny"]),
    "pangu, adapter": ("pangu", "tiny", ["model.autoencoder=lt:vae-tiny", "lora.rank=2", "lora.base=lt:pangu-tiny"]),
}
ROWS = 4


def objective_of(recipe: str) -> Objective:
    system, preset, overrides = RECIPES[recipe]
    settings = make_plan(find_recipe(system), preset, None, overrides).settings
    find_recipe(system).objective(settings)  # what is imported at the first call draws random numbers
    torch.manual_seed(0)
    return find_recipe(system).objective(settings)


def batch_of(recipe: str, rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    rows = {"image": torch.randint(0, 256, (ROWS, 3, 64, 64), generator=generator, dtype=torch.uint8)}
    if recipe.startswith(("filip", "wukong")):
        return {name: value[rank * ROWS : (rank + 1) * ROWS] for name, value in whole_batch().items()}
    if recipe == "judge":
        rows["points"] = torch.rand(ROWS, 17, 3, generator=generator).ceil().mul(0.5)
        rows["labels"] = torch.zeros(ROWS, 64, dtype=torch.long)
    if recipe.startswith("pangu"):
        rows = {"latent": torch.randn(ROWS, 8, 16, 16, generator=generator)}
        rows["tokens"] = torch.randint(4, 100, (ROWS, 64), generator=generator)
        rows["hint.pose"] = torch.randint(0, 256, (ROWS, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return rows


class Plain:
    """No wrapper at all."""

    def __init__(self, objective: Objective):
        self.objective = objective

    def __call__(self, method: str, *args: Any) -> Any:
        return getattr(self.objective, method)(*args)

    def no_sync(self) -> Any:
        return nullcontext()


def step(recipe: str, sharded: bool) -> dict[str, Tensor]:
    """The rank's loss, every parameter's gradient, averaged over the ranks, and the parameters after one step of descent."""
    accelerator = make_accelerator(TrainSettings(device="cpu"))
    objective = objective_of(recipe)
    place(objective, accelerator.device)
    batch = batch_of(recipe, accelerator.process_index)
    if recipe == "judge":
        batch["labels"] = batch["labels"][:, : len(objective.modules["judge"].heads)]
    train = TrainSettings(device="cpu", parallel="fsdp")
    parallel = DataParallel(objective, tuple(objective.modules), accelerator, train) if sharded else Plain(objective)
    if not sharded:
        with torch.no_grad():
            objective.loss(batch)  # what is imported at the first call draws random numbers
    torch.manual_seed(accelerator.process_index)
    loss, _ = objective.step([batch], parallel)
    named = [
        pair for module in objective.modules.values() for pair in module.named_parameters() if pair[1].requires_grad
    ]
    found = {"loss": loss.detach()}
    for name, parameter in named:
        if parameter.grad is None:
            continue
        if not sharded:
            parameter.grad = accelerator.reduce(parameter.grad, "mean")
        found[f"gradient of {name}"] = whole(parameter.grad)
    torch.optim.SGD([parameter for _, parameter in named], lr=0.1).step()
    objective.after_step()
    return found | {name: whole(parameter) for name, parameter in named}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = {recipe: {kind: step(recipe, kind == "sharded") for kind in ("whole", "sharded")} for recipe in RECIPES}
    torch.save(results, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")
    torch.distributed.destroy_process_group()
