"""Training on cached latents, images a second, against a training script in the manner of diffusers' text-to-image example.

Same U-Net (the miniature's), same text encoder of two layers trained beside it, same cached latents of the figures world (64
pixels, 16x16x4), same batch of 32, fp32, same threads. Ours is what `lt train pangu` runs, from shards through one loader
process, as its card says. Theirs is the loop of `examples/text_to_image/train_text_to_image.py` written again over latents
that are cached too and lie in memory already, without loader processes: accelerate, DDPMScheduler, AdamW, EMAModel, clipping,
a loss that is gathered and read at every step. A step's time is the median of all steps after the first ones; rounds of ours
and theirs alternate. Goal: at least 1.0.

    make bench-diffusion          python benchmarks/diffusion_training.py [--steps 40] [--rounds 3] [--count 512]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lt.datagen.worlds import world_pipeline
from lt.models.nn.autoencoder import small_autoencoder
from lt.models.nn.captions import TOKENS, small_text_encoder
from lt.models.nn.unet import TINY
from lt.recipes import registry
from lt.recipes.diffusion.texts import LENGTH, world_tokenizer
from lt.recipes.pangu.objective import Row
from lt.recipes.training.loop import train
from lt.recipes.training.plan import RunPlan, make_plan, open_data
from lt.recipes.worlds import made

BATCH, WARM, RATE, EMA = 32, 5, 4e-4, 0.999


def our_plan(folder: Path, steps: int, out: Path) -> RunPlan:
    """`lt train pangu` over all timesteps, on the figures of `folder` and in the latent space that lies beside them."""
    settings = [f"data.train=[{folder / 'figures'}]", f"model.autoencoder={folder / 'vae'}", "model.generator=whole"]
    settings += [f"train.steps={steps + WARM}", f"train.batch={BATCH}", f"train.lr={RATE}", f"train.ema={EMA}"]
    settings += ["log.tensorboard=false", "log.every=50", f"log.validate_every={10**9}", f"log.save_every={10**9}"]
    return make_plan(registry.find_recipe("pangu"), "tiny", None, settings, out)


def ours(folder: Path, steps: int) -> list[float]:
    """Seconds of every step of `lt train pangu`."""
    marks: list[float] = []
    with tempfile.TemporaryDirectory() as out:
        plan = our_plan(folder, steps, Path(out) / "run")
        train(plan, lambda line: None, lambda progress: marks.append(time.perf_counter()))
    return _between(marks)


def theirs(data: TensorDataset, steps: int) -> list[float]:
    """Seconds of every step of the diffusers loop."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="no", gradient_accumulation_steps=1)
    torch.manual_seed(0)
    unet: Any = TINY.build()
    encoder: Any = small_text_encoder(world_tokenizer().vocabulary, LENGTH, TINY.text_width)
    trained = [*unet.parameters(), *encoder.parameters()]
    noising: Any = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=WARM, num_training_steps=steps + WARM)
    loader = DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    unet, encoder, optimizer, loader, schedule = accelerator.prepare(unet, encoder, optimizer, loader, schedule)
    average = EMAModel(trained, decay=EMA)

    def learn(latents: Tensor, tokens: Tensor) -> float:
        with accelerator.accumulate(unet, encoder):
            noise = torch.randn_like(latents)
            t = torch.randint(0, noising.config.num_train_timesteps, (len(latents),), device=latents.device).long()
            noisy = noising.add_noise(latents, noise, t)
            text = encoder(input_ids=tokens).last_hidden_state
            predicted = unet(noisy, t, text, return_dict=False)[0]
            loss = F.mse_loss(predicted.float(), noise.float(), reduction="mean")
            gathered = accelerator.gather(loss.repeat(BATCH))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        average.step(trained)
        return gathered.mean().item()

    marks: list[float] = []
    while len(marks) < steps + WARM:
        for latents, tokens in loader:
            learn(latents, tokens)
            marks.append(time.perf_counter())
    return _between(marks[: steps + WARM])


def in_memory(folder: Path) -> TensorDataset:
    """The latents and tokens that ours reads from the cache, as tensors [n, 4, 16, 16] and [n, 64]."""
    plan = our_plan(folder, 1, folder / "unused")
    shards = open_data(plan, print).train
    row = registry.find_recipe("pangu").objective(plan.settings).example()
    assert isinstance(row, Row)
    places = [(shard, index) for shard, size in enumerate(shards.sizes) for index in range(size)]
    rows = [row(shards.read(*place), None) for place in places]
    return TensorDataset(*(torch.stack([torch.as_tensor(one[name]) for one in rows]) for name in ("latent", TOKENS)))


def prepare(folder: Path, count: int) -> None:
    """Figures of 64 pixels, and an untrained autoencoder: the latents' values do not change how long a step takes."""
    torch.manual_seed(0)
    small_autoencoder().save_pretrained(folder / "vae")
    made(world_pipeline("figures", count=count, split="train", seed=0, size=64), folder / "figures", count, print)


def same_size(folder: Path) -> int:
    """Parameters that both sides train.

    Raises:
        SystemExit: they do not train the same number.
    """
    both: list[nn.Module] = [TINY.build(), small_text_encoder(world_tokenizer().vocabulary, LENGTH, TINY.text_width)]
    theirs = sum(p.numel() for module in both for p in module.parameters())
    objective = registry.find_recipe("pangu").objective(our_plan(folder, 1, folder / "unused").settings)
    ours = sum(p.numel() for module in objective.modules.values() for p in module.parameters() if p.requires_grad)
    if ours != theirs:
        raise SystemExit(f"Ours trains {ours:,} parameters, theirs {theirs:,}: the comparison would say nothing.")
    return ours


def _between(marks: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(marks[WARM - 1 :])]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in {"steps": 40, "rounds": 3, "count": 512}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        os.environ["LT_HOME"] = str(Path(home) / "cache")
        folder = Path(home)
        prepare(folder, chosen.count)
        parameters, data = same_size(folder), in_memory(folder)
        times: dict[str, list[float]] = {"diffusers": [], "lt": []}
        for _ in range(chosen.rounds):
            times["diffusers"] += theirs(data, chosen.steps)
            times["lt"] += ours(folder, chosen.steps)
    rates = {name: BATCH / statistics.median(column) for name, column in times.items()}
    found = {"images_per_second": rates, "ratio": rates["lt"] / rates["diffusers"], "parameters": parameters}
    print(json.dumps({**found, "batch": BATCH, "threads": torch.get_num_threads()}, indent=1))


if __name__ == "__main__":
    main()
