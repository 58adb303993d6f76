"""Sampling against diffusers' own pipeline, and a Coop-Diffusion step against the sum of its parts.

Both sides have the same U-Net (the miniature's, 16x16x4 latents), scheduler (DDIM), steps, guidance, text features and start
noise, run in one process with the same threads, and alternate round by round. Goals: at least 1.0 times diffusers' speed; a
Coop step of two models in different latent spaces takes at most 1.1 times its parts, which are two guided passes, and
decoding and encoding once in each space.

    make bench-diffusion          python benchmarks/diffusion_sampling.py [--steps 20] [--rounds 7]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lt.models.coop import Member, joint_denoise
from lt.models.nn.autoencoder import AutoencoderSpace, small_autoencoder
from lt.models.nn.control import ControlledUNet
from lt.models.nn.diffusion import Denoiser, Guided, NoiseSchedule
from lt.models.nn.pipelines import stable_diffusion_pipeline
from lt.models.nn.sampling import make_scheduler, sample
from lt.models.nn.unet import TINY

GUIDANCE, TOKENS = 6.0, 64
LEAD, OTHER = (4, 16, 16), (8, 8, 8)
"""Latents [c, h, w] of two spaces, both of 64x64 pixels."""


def seconds(work: Callable[[], object]) -> float:
    """Of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def texts(batch: int) -> tuple[Tensor, Tensor]:
    """Random features of prompts and of empty prompts, [b, TOKENS, d] each."""
    return torch.randn(batch, TOKENS, TINY.text_width), torch.randn(1, TOKENS, TINY.text_width).expand(batch, -1, -1)


def guided(latent: tuple[int, int, int], batch: int) -> Guided:
    """A miniature with random weights for latents of this shape, with text features."""
    unet = replace(TINY, sample_size=latent[1], in_channels=latent[0], out_channels=latent[0]).build().eval()
    text, empty = texts(batch)
    return Guided(Denoiser(ControlledUNet(unet)).eval(), {"text": text}, {"text": empty}, GUIDANCE)


def against_diffusers(batch: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of a whole sampling run on both sides, their ratio, and the largest difference of the latents."""
    mine = guided(LEAD, batch)
    scheduler = make_scheduler("ddim", NoiseSchedule())
    unet: Any = mine.model.network
    pipe = stable_diffusion_pipeline(unet.unet, small_autoencoder().eval(), None, None, scheduler)
    pipe.set_progress_bar_config(disable=True)
    noise = torch.randn(batch, *LEAD)
    assert mine.empty is not None
    asked = {"prompt_embeds": mine.condition["text"], "negative_prompt_embeds": mine.empty["text"], "latents": noise}
    asked |= {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "output_type": "latent"}

    def theirs() -> Tensor:
        return pipe(**asked).images

    def ours() -> Tensor:
        return sample(mine, scheduler, noise, steps=steps)

    difference = float((theirs() - ours()).abs().max())
    times = [(seconds(theirs), seconds(ours)) for _ in range(rounds)]
    diffusers, lt = (statistics.median(column) for column in zip(*times, strict=True))
    return {"diffusers_s": diffusers, "lt_s": lt, "ratio": diffusers / lt, "largest_difference": difference}


def coop(batch: int, steps: int, rounds: int) -> dict[str, float]:
    """Seconds of a fusing step, of its parts one by one, and the step's share of their sum."""
    lead = Member(guided(LEAD, batch), AutoencoderSpace(small_autoencoder().eval()), LEAD)
    wide = small_autoencoder((16, 32, 32, 32), channels=OTHER[0]).eval()
    other = Member(guided(OTHER, batch), AutoencoderSpace(wide), OTHER)
    scheduler = make_scheduler("ddim", NoiseSchedule())

    def whole_steps() -> list[float]:
        """All steps but the first and the last, from rung to rung: the last one sends nothing back."""
        marks: list[float] = []
        members, seeds = [lead, other], range(batch)
        joint_denoise(members, scheduler, steps=steps, seeds=seeds, hook=lambda _: marks.append(time.perf_counter()))
        return [after - before for before, after in pairwise(marks[1:-1])]

    times: dict[str, list[float]] = {"step": []}
    for _ in range(rounds):
        times["step"] += whole_steps()
        for name, work in parts(lead, other, batch).items():
            times.setdefault(name, []).extend(seconds(work) for _ in range(steps))
    found = {f"{name}_s": statistics.median(column) for name, column in times.items()}
    return {**found, "ratio": found["step_s"] / (sum(found.values()) - found["step_s"])}


def parts(lead: Member, other: Member, batch: int) -> dict[str, Callable[[], Tensor]]:
    """What one fusing step cannot do without, by name."""
    pixels, t = torch.rand(batch, 3, 64, 64) * 2 - 1, torch.tensor(500)
    works: dict[str, Callable[[], Tensor]] = {}
    for name, member in (("lead", lead), ("other", other)):
        z = torch.randn(batch, *member.shape)
        works[f"{name}_guided"] = lambda member=member, z=z: member.guided(z, t)
        works[f"{name}_decode"] = lambda member=member, z=z: member.space.decode(z)
        works[f"{name}_encode"] = lambda member=member: member.space.encode(pixels)
    return works


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    found = {f"sampling, batch {batch}": against_diffusers(batch, chosen.steps, chosen.rounds) for batch in (1, 8)}
    found["coop step, batch 8"] = coop(8, chosen.steps, chosen.rounds)
    print(json.dumps({**found, "steps": chosen.steps, "threads": torch.get_num_threads()}, indent=1))


if __name__ == "__main__":
    main()
