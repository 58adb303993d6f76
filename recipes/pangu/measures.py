"""What the study of PanGu-Draw measures: trained models draw, alone or together, and the world's judge looks at it.

All drawings take the same captions, seeds, steps and guidance. They are compared with the true test pictures as the autoencoder
gives them back, because what it loses is no generator's fault.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.datagen.shards import open_shards
from lt.datagen.sources.figure_traits import described
from lt.models.coop import HandOver, Member
from lt.models.nn.sampling import Solver, sample, seeded_start
from lt.models.pangu import T_STRUCT
from lt.recipes.claims import Measured, Measures
from lt.recipes.diffusion import autoencoders
from lt.recipes.draw.painters import Painter, open_painter
from lt.recipes.evaluate.bootstrap import resampled
from lt.recipes.evaluate.images.distances import frechet_distance
from lt.recipes.judge.judge import Judge, true_points
from lt.recipes.judge.objective import points_found
from lt.recipes.pangu.miniature import HIGH, LOW, Orders
from lt.recipes.pangu.painters import locate_runs
from lt.recipes.pangu.together import draw_together, member
from lt.recipes.pictures import to_bytes, to_signed
from lt.recipes.training.logging import read_log

STEPS, GUIDANCE = 20, 3.0
JUDGE, SPACE = "judge", "vae-a"
"""The variants that look and that encode."""
_BATCH = 64
_HALF_NYQUIST = 0.25  # cycles a pixel

Runs = Mapping[str, Path]
Drawing = Callable[[Runs, Orders], Tensor]
"""Runs by variant and orders to pictures, float [n, 3, HIGH, HIGH] in about -1..1."""


def of_run(run: Path, test: str) -> Measures:
    """The metrics of the last validation (`loss`, `psnr`, `pck` ...) and `samples`, the number of training pictures."""
    metrics = {name: value for name, value in read_log(run, "validation")[-1].items() if isinstance(value, float)}
    metrics["samples"] = read_log(run, "start")[0]["samples"]
    return {name: Measured(value) for name, value in metrics.items()}


def seen(draw: Drawing, runs: Runs, test: str) -> Measures:
    """What the judge sees in the pictures that the test figures' orders give, and `draw_seconds`, processor time a picture."""
    orders = Orders(list(open_shards(test)))
    parts = [Orders(orders.samples[i : i + _BATCH], i) for i in range(0, len(orders.samples), _BATCH)]
    start = time.process_time()
    pixels = torch.cat([draw(runs, part).cpu() for part in parts])
    seconds = (time.process_time() - start) / len(pixels)
    return {**judged(runs, orders, pixels), "draw_seconds": Measured(seconds)}


def judged(runs: Runs, orders: Orders, pixels: Tensor) -> Measures:
    """Metrics of drawn pictures [n, 3, HIGH, HIGH]:

    * `fd`: Fréchet distance of the judge's features to the true pictures, and `fine`, the energy above half the Nyquist frequency
      in percent of theirs;
    * `text`: percent whose top has the colour that the caption names; `pck`: percent of the visible key points found where the
      skeleton has them; `placed`: percent of the pictures with at least half of them; `both`: text right and placed.
    """
    judge, real = Judge.open(runs[JUDGE]), true_pictures(runs, orders)
    drawn = list(to_bytes(pixels))
    distance = frechet_distance(judge.features(drawn), judge.features(list(to_bytes(real))))
    said = [described(sample)["top_colour"] for sample in orders.samples]
    text = np.array(judge.attributes(drawn)["top_colour"]) == np.array(said)
    true, visible = map(np.stack, zip(*(true_points(sample, HIGH) for sample in orders.samples), strict=True))
    hits = points_found(judge.key_points(drawn), true, visible).sum(1)
    placed = hits >= 0.5 * visible.sum(1)
    columns = {"text": text, "pck": hits, "placed": placed, "both": text & placed}
    asked = [visible.sum(1) if name == "pck" else np.ones(len(drawn)) for name in columns]
    found = resampled(100.0 * np.stack(list(columns.values()), 1), np.stack(asked, 1))
    measured = {name: Measured(i.value, i.error) for name, i in zip(columns, found, strict=True)}
    fine = 100 * fine_energy(pixels) / fine_energy(real)
    return {"fd": Measured(distance), "fine": Measured(fine), **measured}


def fine_energy(pixels: Tensor) -> float:
    """Mean energy of the frequencies above half the Nyquist frequency, of the grey of pictures [n, 3, h, w] in -1..1."""
    grey = pixels.clamp(-1, 1).mean(1)
    down, across = (torch.fft.fftfreq(side) for side in grey.shape[1:])
    fine = torch.hypot(down[:, None], across[None]) > _HALF_NYQUIST
    return float(torch.fft.fft2(grey).abs().square()[:, fine].mean())


# Drawings: a `Drawing` each, once their first arguments are given


@torch.no_grad()
def true_pictures(runs: Runs, orders: Orders) -> Tensor:
    """The true pictures, encoded and decoded: what no generator in this latent space can surpass."""
    space = autoencoders.load(autoencoders.locate(str(runs[SPACE])))
    pixels = to_signed(orders.pictures).to(next(space.parameters()).device)
    return space.decode(space.encode(pixels)).cpu()


def alone(names: Sequence[str], side: int, runs: Runs, orders: Orders) -> Tensor:
    """One model, or two generators that share the time line; drawn at `side` pixels and enlarged (bicubic) where that is less."""
    how = {"steps": STEPS, "guidance": GUIDANCE}
    return _enlarged(_painter(runs, names).draw(orders.captions, orders.seeds, (side, side), **how), HIGH)


def together(
    text: Sequence[str], pose: Sequence[str], weight: float, send_back: bool, runs: Runs, orders: Orders
) -> Tensor:
    """Coop-Diffusion: a model that knows the captions leads, another that knows the skeletons has `weight`."""
    lead, other = _painter(runs, text), _painter(runs, pose)
    size, nothing = (HIGH, HIGH), [""] * len(orders.captions)
    posed = other.told(nothing, size, 1.0, {"pose": orders.skeletons})
    members = [_member(runs, text, orders, HIGH), member(other, posed, size, weight, lead)]
    return draw_together(lead, [HandOver(members)], orders.seeds, STEPS, send_back=send_back)


def handed_over(low: Sequence[str], high: Sequence[str], runs: Runs, orders: Orders) -> Tensor:
    """Resolution hand-over at T_struct: the clean guess is enlarged and noised again."""
    first, then = _member(runs, low, orders, LOW), _member(runs, high, orders, HIGH)
    return draw_together(_painter(runs, high), [HandOver([first], T_STRUCT), HandOver([then])], orders.seeds, STEPS)


@torch.no_grad()
def state_enlarged(low: Sequence[str], high: Sequence[str], runs: Runs, orders: Orders) -> Tensor:
    """What the paper advises against: the noisy state itself is enlarged (bicubic) at T_struct."""
    first, then = _member(runs, low, orders, LOW), _member(runs, high, orders, HIGH)
    lead = _painter(runs, high)
    noise, _ = seeded_start(orders.seeds, first.shape)
    solver = Solver(lead.scheduler, STEPS, first.guided.beside(noise))
    while solver.t > T_STRUCT:
        solver.step(first.guided(solver.z, solver.t))
    state = _enlarged(solver.z, then.shape[-1])
    return lead.decoded(sample(then.guided, lead.scheduler, state, steps=STEPS, begin=solver.rung))


def _painter(runs: Runs, names: Sequence[str]) -> Painter:
    return open_painter(locate_runs([str(runs[name]) for name in names]))


def _member(runs: Runs, names: Sequence[str], orders: Orders, side: int) -> Member:
    painter = _painter(runs, names)
    return member(painter, painter.told(orders.captions, (side, side), GUIDANCE), (side, side))


def _enlarged(values: Tensor, side: int) -> Tensor:
    """[n, c, h, w] to [n, c, side, side], the same tensor where it is so large already."""
    if values.shape[-1] == side:
        return values
    return F.interpolate(values, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
