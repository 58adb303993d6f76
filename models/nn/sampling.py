"""Sampling with diffusers' schedulers: one state going down one ladder of noise levels, one step at a time.

The loop computes what diffusers' pipelines compute, in the same order, so pixels agree
(tests/models/test_diffusion.py). It differs in three things: it leaves the caller's scheduler untouched, it can begin
and stop at any rung, and it restarts the history of multistep solvers where another network takes over (PanGu-Draw's
switch, a coop hand-over).
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lt.models.nn.diffusion import Guided, NoiseSchedule, PredictionType

SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "ddpm": "DDPMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}
# steps_offset: Stable Diffusion pipelines overwrite any other value when opened; a saved model would then sample otherwise.
_OURS = {"steps_offset": 1}
_OWN = {"ddim": {"clip_sample": False, "set_alpha_to_one": False}, "ddpm": {"clip_sample": False}}


def make_scheduler(
    name: str, schedule: NoiseSchedule, prediction_type: PredictionType = "epsilon", **config: Any
) -> Any:
    """A diffusers scheduler by short name. Latents are not clipped.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise ValueError(f"unknown scheduler {name!r}: {', '.join(SCHEDULERS)}")
    settings = schedule.config() | {"prediction_type": prediction_type} | _OURS | _OWN.get(name, {}) | config
    return getattr(diffusers, SCHEDULERS[name])(**settings)


def restart_history(scheduler: Any) -> None:
    """Make a multistep solver forget what it saw, so that its next step is of first order.

    Raises:
        ValueError: the solver (PNDM, single-step DPM-Solver) has no first order to fall back to.
    """
    if type(scheduler).__name__ in ("PNDMScheduler", "DPMSolverSinglestepScheduler"):
        raise ValueError(
            f"{type(scheduler).__name__} cannot restart where the network changes: "
            "take DDIM, Euler, DPM-Solver++ (multistep) or UniPC"
        )
    for name in ("model_outputs", "timestep_list"):
        if isinstance(getattr(scheduler, name, None), list):
            setattr(scheduler, name, [None] * len(getattr(scheduler, name)))
    for name, fresh in (("lower_order_nums", 0), ("last_sample", None), ("derivatives", []), ("ets", [])):
        if hasattr(scheduler, name):
            setattr(scheduler, name, fresh)


class Solver:
    """One state on its way down the ladder of a diffusers scheduler (a private copy of it).

    Args:
        scheduler: any diffusers scheduler over a variance-preserving schedule.
        steps: number of inference steps; the ladder has ``len(self.timesteps)`` rungs.
        noise: ``[b, ...]``, standard normal, the start at rung 0; or with ``begin``, the state ``z`` at that rung.
        begin: the rung to begin at.
        generators: one a sample, for schedulers that add noise.
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        noise: Tensor,
        begin: int = 0,
        generators: Sequence[torch.Generator] | None = None,
    ):
        self.scheduler = copy.deepcopy(scheduler)
        self.scheduler.set_timesteps(steps, device=noise.device)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.rung = begin
        self._extra = {}
        if generators is not None and "generator" in inspect.signature(self.scheduler.step).parameters:
            self._extra["generator"] = list(generators)
        self._sample = noise * self.scheduler.init_noise_sigma if begin == 0 else self._from_state(noise)

    def _from_state(self, z: Tensor) -> Tensor:
        """Euler-type schedulers carry ``z / alpha``: ask the scheduler how it scales a one, and undo that."""
        one = torch.ones((), dtype=torch.float64, device=z.device)
        return (z / self.scheduler.scale_model_input(one, self.t)).to(z.dtype)

    @property
    def t(self) -> Tensor:
        """The timestep of the current rung, a scalar in the scheduler's own schedule; fractional for some schedulers."""
        return self.timesteps[self.rung]

    @property
    def z(self) -> Tensor:
        """The state ``alpha x0 + sigma eps`` at the current rung, as a network wants to see it, ``[b, ...]``."""
        return self.scheduler.scale_model_input(self._sample, self.t)

    @property
    def sample(self) -> Tensor:
        """What the scheduler carries; after the last step the clean latent, ``[b, ...]``."""
        return self._sample

    def alpha_sigma(self) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` (float64 scalars) of the state at the current rung, from the scheduler's own tables."""
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is not None:
            ratio = sigmas[self.rung].double()
            alpha = (1 + ratio**2).rsqrt()
            return alpha, ratio * alpha
        abar = self.scheduler.alphas_cumprod[self.t.long().cpu()].double()
        return abar.sqrt(), (1 - abar).sqrt()

    def step(self, output: Tensor) -> None:
        """One rung down, given the network's output (of the scheduler's prediction type) for :attr:`z`."""
        self._sample = self.scheduler.step(output, self.t, self._sample, return_dict=False, **self._extra)[0]
        self.rung += 1

    def restart(self) -> None:
        """Forget the solver's history, see :func:`restart_history`."""
        restart_history(self.scheduler)


def seeded_start(seeds: Sequence[int], shape: tuple[int, ...]) -> tuple[Tensor, list[torch.Generator]]:
    """Start noise ``[b, *shape]`` and the generators that drew it, ready for a scheduler that adds noise at every step."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    noise = torch.cat([torch.randn((1, *shape), generator=generator) for generator in generators])
    return noise, generators


@torch.no_grad()
def sample(
    guided: Guided,
    scheduler: Any,
    noise: Tensor,
    *,
    steps: int,
    begin: int = 0,
    generators: Sequence[torch.Generator] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise ``noise`` with one model.

    Args:
        guided: the model with its conditions and guidance.
        scheduler: a diffusers scheduler of the same schedule and prediction type.
        noise: ``[b, c, h, w]`` standard normal; with ``begin`` > 0 the state at that rung (image to image).
        steps: inference steps.
        generators: for schedulers that add noise, one a sample.
        on_step: called after each step with (steps done, steps in all).

    Returns:
        The clean latent ``[b, c, h, w]``.

    Raises:
        ValueError: scheduler and model disagree on schedule or prediction type.
    """
    check_agreement(guided, scheduler)
    solver = Solver(scheduler, steps, noise, begin, generators)
    segment = guided.model.segment(solver.t)
    for done in range(begin, len(solver.timesteps)):
        here = guided.model.segment(solver.t)
        if here != segment:
            solver.restart()
            segment = here
        solver.step(guided(solver.z, solver.t))
        if on_step is not None:
            on_step(done + 1, len(solver.timesteps))
    return solver.sample


def check_agreement(guided: Guided, scheduler: Any) -> None:
    """Raise ``ValueError`` where a scheduler does not fit the model that it is to sample from."""
    theirs, ours = NoiseSchedule.from_config(scheduler.config), guided.model.schedule
    if theirs != ours:
        raise ValueError(f"the scheduler's noise schedule is {theirs}, the model was trained on {ours}")
    if scheduler.config.prediction_type != guided.model.prediction_type:
        raise ValueError(
            f"the scheduler expects {scheduler.config.prediction_type}, the model predicts {guided.model.prediction_type}"
        )
