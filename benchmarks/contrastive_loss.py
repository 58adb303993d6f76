"""Token-wise contrastive loss, forward and backward, against the naive einsum: time, memory, share of the machine's GEMM rate.

    python benchmarks/contrastive_loss.py [--batch 256] [--patches 49] [--words 32] [--dim 256] [--threads 2] [--repeats 3]

Goals at the default shape: at least 3 times as fast as the einsum, at most 8 % of its extra memory, at least 70 % of the
machine's own GEMM rate. That rate counts the flops of the forward products only, over the whole time of forward and
backward. Every variant runs in a process of its own, so that memory it frees does not hide what the next one takes.
About a minute on an idle machine; on a busy one the figures mean nothing.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.nn.functional as F

from lt.models.nn.maxsim import token_similarity

PAGE = 4096


def resident() -> int:
    """Bytes of memory this process holds now (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def peak_above_start(work: Callable[[], object]) -> int:
    """Highest resident memory while `work` runs, sampled every millisecond, less that before it."""
    start, highest, done = resident(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            highest[0] = max(highest[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return highest[0] - start


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def gemm_rate(args: argparse.Namespace) -> float:
    """Flops per second of fp32 matrix products: the better of 2048 x 2048 x 2048 and a block of the loss's own shape."""
    rates = []
    own = (max(1, 2**21 // (args.batch * args.words)), args.dim, args.batch * args.words)
    for rows, inner, columns in ((2048, 2048, 2048), own):
        a, b, out = torch.randn(rows, inner), torch.randn(inner, columns), torch.empty(rows, columns)
        torch.mm(a, b, out=out)
        rates.append(2 * rows * inner * columns / seconds(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), 10))
    return max(rates)


def training_step(similarity: Callable, patches: torch.Tensor, words: torch.Tensor) -> None:
    patches.grad = words.grad = None
    s_i, s_t = similarity(patches, words)
    target = torch.arange(len(s_i))
    loss = F.cross_entropy(s_i / 0.07, target) + F.cross_entropy(s_t.T / 0.07, target)
    loss.backward()


def naive_token_similarity(patches: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: one einsum that holds all products."""
    products = torch.einsum("ikd,jld->ijkl", patches, words)
    return products.amax(3).mean(2), products.amax(2).mean(2)


VARIANTS: dict[str, Callable] = {
    "einsum, all products held": naive_token_similarity,
    "blocks, torch operations": partial(token_similarity, compiled=False),
    "blocks, compiled loops": partial(token_similarity, compiled=True),
}


def measure(name: str, args: argparse.Namespace) -> tuple[float, int, float]:
    """(seconds, extra bytes, GEMM flops per second around it) of one variant."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shapes = ((args.batch, args.patches, args.dim), (args.batch, args.words, args.dim))
    patches, words = (F.normalize(torch.randn(shape), dim=-1).requires_grad_() for shape in shapes)
    similarity = VARIANTS[name]
    rate = gemm_rate(args)
    training_step(similarity, *(x[:8].detach().requires_grad_() for x in (patches, words)))  # compiles
    extra = peak_above_start(lambda: training_step(similarity, patches, words))
    spent = seconds(lambda: training_step(similarity, patches, words), args.repeats)
    return spent, extra, max(rate, gemm_rate(args))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, value in {"batch": 256, "patches": 49, "words": 32, "dim": 256, "threads": 2, "repeats": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    results = {}
    for name in VARIANTS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            results[name] = pool.submit(measure, name, args).result()
    flops = 2 * args.batch**2 * args.patches * args.words * args.dim
    rate = max(result[2] for result in results.values())
    slowest, largest, _ = results["einsum, all products held"]
    print(f"B={args.batch} n={args.patches} L={args.words} d={args.dim}, fp32, {args.threads} threads")
    print(f"GEMM {rate / 1e9:.0f} Gflop/s: the forward products alone would take {flops / rate:.2f} s\n")
    print(f"{'variant':28}{'seconds':>9}{'faster':>9}{'extra MB':>10}{'memory':>9}{'of GEMM':>9}")
    for name, (spent, extra, _) in results.items():
        share = f"{flops / spent / rate:.1%}"
        print(f"{name:28}{spent:9.2f}{slowest / spent:8.1f}x{extra / 1e6:10.0f}{extra / largest:9.1%}{share:>9}")


if __name__ == "__main__":
    main()
