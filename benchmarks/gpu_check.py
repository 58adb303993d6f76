"""What only a GPU can tell (`make gpu-check`): agreement with the CPU, training steps at the papers' sizes, the loss alone.

python benchmarks/gpu_check.py                 # on a CUDA machine
python benchmarks/gpu_check.py --device cpu    # the same code on tiny shapes: says nothing about speed
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lt.models.filip import FILIP, Filip
from lt.models.nn.contrastive import Features, contrastive_loss

WARMUP, STEPS = 3, 10
LOSS_BATCH, PATCHES, WORDS, WIDTH = 4096, 49, 32, 256


def measured(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Median seconds of a step after warm-up, and peak GiB of device memory (0 on a CPU)."""
    on_gpu = device.type == "cuda"
    times = []
    for number in range(WARMUP + STEPS):
        if number == WARMUP and on_gpu:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return sorted(times[WARMUP:])[STEPS // 2], peak


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


def training_step(name: str, batch: int, compiled: bool, device: torch.device) -> tuple[float, float]:
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


def loss_step(batch: int, device: torch.device) -> tuple[float, float]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    device = torch.device(parser.parse_args().device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("No GPU here: nothing was measured. `--device cpu` runs the same code on tiny shapes.")
    on_gpu = device.type == "cuda"
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if on_gpu else 'CPU, tiny shapes'}")
    print(f"loss and gradients against the CPU, float64: largest difference {agreement(device):.1e}")
    sizes = [("base", 512), ("large", 128)] if on_gpu else [("tiny", 8)]
    for name, batch in sizes:
        for compiled in (False, True) if on_gpu else (False,):
            seconds, peak = training_step(name, batch, compiled, device)
            how = "bf16, compiled" if compiled else "bf16" if on_gpu else "fp32"
            print(f"FILIP {name}, batch {batch}, {how}: {batch / seconds:,.0f} samples/s, peak {peak:.1f} GiB")
    batch = LOSS_BATCH if on_gpu else 32
    seconds, peak = loss_step(batch, device)
    shapes = f"{batch} pairs x {PATCHES} patches x {WORDS} words x {WIDTH}"
    print(f"loss forward + backward, {shapes}: {seconds * 1e3:,.0f} ms, peak {peak:.1f} GiB")


if __name__ == "__main__":
    main()
