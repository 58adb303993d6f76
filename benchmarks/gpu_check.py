"""What only a GPU can tell (`make gpu-check`): agreement with the CPU, steps at the papers' sizes, how long sampling takes.

Every figure is printed as soon as it is known. What compiles comes last, and is left out, said aloud, where ten minutes would
not be enough; name parts to have them alone.

    python benchmarks/gpu_check.py                       # on a CUDA machine: all parts
    python benchmarks/gpu_check.py diffusion sampling    # only these
    python benchmarks/gpu_check.py --device cpu          # the same code on tiny shapes: says nothing about speed
"""

import argparse
import gc
import io
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import torch
from torch import Tensor

from lt.models.filip import FILIP, Filip
from lt.models.nn.contrastive import Features, contrastive_loss
from lt.models.nn.control import ControlledUNet
from lt.models.nn.diffusion import Denoiser, Guided, NoiseSchedule
from lt.models.nn.sampling import make_scheduler, sample
from lt.models.nn.unet import PANGU, SD15, TINY, UNetShape
from lt.recipes.config import TrainSettings
from lt.recipes.training.ema import Ema
from lt.recipes.training.optim import make_optimizer

WARMUP, STEPS = 3, 10
LOSS_BATCH, PATCHES, WORDS, WIDTH = 4096, 49, 32, 256
TOKENS, GUIDANCE = 77, 7.5
UNETS = {"SD-1.5 size, 860M": SD15, "PanGu's shape at 1.1B": replace(PANGU, depths=(0, 2, 3))}
LATENTS = {256: (32, 64), 512: (64, 16)}
"""Side of the picture in pixels: side of its latent, batch in training."""
ENOUGH = 420
"""Seconds after which nothing is compiled any more: one U-Net can take minutes."""
BEGAN = time.perf_counter()


class Cost(NamedTuple):
    """Median seconds of a step, and peak GiB of device memory (0 on a CPU)."""

    seconds: float
    peak: float


def measured(step: Callable[[], object], device: torch.device, warmup: int = WARMUP, steps: int = STEPS) -> Cost:
    """Run a step `warmup` times, then `steps` times by the clock."""
    on_gpu = device.type == "cuda"
    times = []
    for number in range(warmup + steps):
        if number == warmup and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return Cost(sorted(times[warmup:])[steps // 2], peak)


def report(what: str, measure: Callable[[], Cost], batch: int, unit: str, compiled: bool = False) -> None:
    """Measure and print one line; a model that does not fit, or that would take too long to compile, gets a line as well."""
    if compiled and time.perf_counter() - BEGAN > ENOUGH:
        print(f"{what}: not measured, {ENOUGH} s are over. Name this part alone to have it.")
        return
    try:
        cost = measure()
        print(f"{what}: {batch / cost.seconds:,.3g} {unit}/s, {cost.seconds:.3g} s, peak {cost.peak:.1f} GiB")
    except torch.OutOfMemoryError:
        print(f"{what}: does not fit into this device's memory")
    torch._dynamo.reset()  # the next model is compiled for its own shapes
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def precision(compiled: bool, device: torch.device) -> str:
    """How a step computes, in words."""
    return "fp32" if device.type == "cpu" else "bf16, compiled" if compiled else "bf16"


def pairs(batch: int, side: int, length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random pictures [b, 3, s, s], token numbers [b, L] and mask [b, L] with texts of 8 words up to the full length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(8, length + 1, (batch, 1), generator=generator)
    mask = torch.arange(length) < lengths
    tokens = torch.randint(1, 100, (batch, length), generator=generator) * mask
    return torch.randn(batch, 3, side, side, generator=generator).to(device), tokens.to(device), mask.to(device)


def agreement(device: torch.device) -> float:
    """Largest difference of the token-wise loss and its gradient between `device` and the CPU, in float64."""
    found = []
    for where in (torch.device("cpu"), device):
        generator = torch.Generator().manual_seed(0)
        images = torch.nn.functional.normalize(
            torch.randn(32, 49, 64, generator=generator, dtype=torch.float64), dim=-1
        )
        texts = torch.nn.functional.normalize(torch.randn(32, 16, 64, generator=generator, dtype=torch.float64), dim=-1)
        mask = torch.arange(16) < torch.randint(3, 17, (32, 1), generator=generator)
        images = images.to(where).requires_grad_()
        texts = (texts * mask[..., None]).to(where).requires_grad_()
        scales = torch.tensor([20.0, 20.0], dtype=torch.float64, device=where)
        loss, _ = contrastive_loss(Features(images), Features(texts, mask.to(where)), scales)
        loss.backward()
        assert images.grad is not None and texts.grad is not None
        found.append(torch.cat([loss.detach()[None].cpu(), images.grad.flatten().cpu(), texts.grad.flatten().cpu()]))
    return float((found[0] - found[1]).abs().max())


def filip_step(name: str, batch: int, compiled: bool, device: torch.device) -> Cost:
    """Forward, token-wise loss, backward and AdamW of one FILIP size, bf16 where there is a GPU."""
    torch.manual_seed(0)
    config = replace(FILIP[name], colder=None)
    model = Filip(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    pixels, tokens, mask = pairs(batch, config.vision.size, config.text.length, device)
    forward = torch.compile(model) if compiled else model

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            encoded = forward(pixels, tokens, mask)
        loss, _ = contrastive_loss(encoded.images, encoded.texts, encoded.scales)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return measured(step, device)


def loss_step(batch: int, device: torch.device) -> Cost:
    """Loss and gradient of `batch` pairs of features, nothing else."""
    generator = torch.Generator().manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(batch, PATCHES, WIDTH, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(batch, WORDS, WIDTH, generator=generator), dim=-1)
    images, texts = images.to(device).requires_grad_(), texts.to(device).requires_grad_()
    mask = torch.ones(batch, WORDS, dtype=torch.bool, device=device)
    scales = torch.tensor([14.0, 14.0], device=device)

    def step() -> None:
        contrastive_loss(Features(images), Features(texts, mask), scales)[0].backward()
        images.grad = texts.grad = None

    return measured(step, device)


def denoiser(shape: UNetShape, device: torch.device) -> Denoiser:
    """A U-Net with random weights, made on the device."""
    torch.manual_seed(0)
    with device:
        return Denoiser(ControlledUNet(shape.build()))


def condition(shape: UNetShape, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random text features [b, TOKENS, d], and the pooled text and numbers beside them where the U-Net reads them."""
    named = {"text": torch.randn(batch, TOKENS, shape.text_width)}
    if shape.pooled_width:
        named |= {"pooled": torch.randn(batch, shape.pooled_width), "ids": torch.ones(batch, shape.ids)}
    return {name: value.to(device, dtype) for name, value in named.items()}


def unet_step(shape: UNetShape, side: int, batch: int, compiled: bool, device: torch.device) -> Cost:
    """One step of `lt train pangu` on latents of `side`: loss, backward, clipping, AdamW and moving average."""
    model = denoiser(shape, device).train()
    train = TrainSettings(ema=0.9999)
    weights = dict(model.named_parameters())
    optimizer = make_optimizer([{"params": list(weights.values())}], train, device)
    average = Ema(weights)
    latents = torch.randn(batch, shape.in_channels, side, side, device=device)
    told = condition(shape, batch, device, torch.float32)
    if compiled:
        cast(ControlledUNet, model.network).unet.compile()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss, _ = model.loss(latents, told)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), train.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(train.ema)

    return measured(step, device)


def sampling(shape: UNetShape, side: int, batch: int, steps: int, device: torch.device) -> Cost:
    """A whole guided DDIM run to a latent of `side`, weights in bf16 on a GPU; without text encoder and decoder."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = denoiser(shape, device).to(dtype).eval()
    told, empty = (condition(shape, batch, device, dtype) for _ in range(2))
    guided = Guided(model, told, empty, GUIDANCE)
    scheduler = make_scheduler("ddim", NoiseSchedule())
    noise = torch.randn(batch, shape.in_channels, side, side, device=device)
    return measured(lambda: sample(guided, scheduler, noise, steps=steps), device, warmup=1, steps=3)


def agreement_part(device: torch.device, compiled: bool) -> None:
    """The loss of the contrastive systems, once."""
    if not compiled:
        print(f"loss and gradients against the CPU, float64: largest difference {agreement(device):.1e}")


def contrastive_part(device: torch.device, compiled: bool) -> None:
    """Steps of FILIP, and the loss alone."""
    on_gpu = device.type == "cuda"
    for name, batch in [("base", 512), ("large", 128)] if on_gpu else [("tiny", 8)]:
        what = f"FILIP {name}, batch {batch}, {precision(compiled, device)}"
        report(what, partial(filip_step, name, batch, compiled, device), batch, "samples", compiled)
    if not compiled:
        batch = LOSS_BATCH if on_gpu else 32
        what = f"loss forward + backward, {batch} pairs x {PATCHES} patches x {WORDS} words x {WIDTH}"
        report(what, partial(loss_step, batch, device), batch, "pairs")


def diffusion_part(device: torch.device, compiled: bool) -> None:
    """Training steps of the U-Nets on cached latents."""
    on_gpu = device.type == "cuda"
    for name, shape in (UNETS if on_gpu else {"tiny": TINY}).items():
        for pixels, (side, batch) in (LATENTS if on_gpu else {64: (16, 2)}).items():
            what = f"U-Net, {name}, {pixels} px, batch {batch}, {precision(compiled, device)}"
            report(what, partial(unet_step, shape, side, batch, compiled, device), batch, "images", compiled)


def sampling_part(device: torch.device, compiled: bool) -> None:
    """Latency of sampling, which `lt sample` does not compile."""
    if compiled:
        return
    on_gpu = device.type == "cuda"
    for name, shape in (UNETS if on_gpu else {"tiny": TINY}).items():
        for batch in (1, 8) if on_gpu else (1, 2):
            for steps in (20, 40) if on_gpu else (2, 4):
                what = f"sampling, {name}, {512 if on_gpu else 64} px, {steps} steps, batch {batch}"
                side = LATENTS[512][0] if on_gpu else TINY.sample_size
                report(what, partial(sampling, shape, side, batch, steps, device), batch, "images")


PARTS: dict[str, Callable[[torch.device, bool], None]] = {
    "agreement": agreement_part,
    "contrastive": contrastive_part,
    "diffusion": diffusion_part,
    "sampling": sampling_part,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*PARTS, "all"]
    parser.add_argument("parts", nargs="*", default="all", choices=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    chosen = parser.parse_args(arguments)
    device = torch.device(chosen.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU here: nothing was measured. `--device cpu` runs the same code on tiny shapes.")
    on_gpu = device.type == "cuda"
    cast(io.TextIOWrapper, sys.stdout).reconfigure(line_buffering=True)  # a run that is cut has said what it knew
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if on_gpu else 'CPU, tiny shapes'}")
    for compiled in (False, True) if on_gpu else (False,):
        for part in PARTS if "all" in chosen.parts else chosen.parts:
            PARTS[part](device, compiled)
    print(f"{time.perf_counter() - BEGAN:.0f} s in all")


if __name__ == "__main__":
    main()
