"""Sampling with diffusers' schedulers: one state going down one ladder of noise levels, one step at a time.

:func:`sample` is how a picture is drawn. It computes what diffusers' pipelines compute, in the same order, so pixels agree
(tests/models/test_diffusion.py). It differs in four things: it leaves the caller's scheduler untouched, it can begin
and stop at any rung, it restarts the history of multistep solvers where another network takes over (PanGu-Draw's
switch, a coop hand-over), and a *hook* may look at the state on every rung and change it: guidance by gradient, blending
with a source at the same noise level, layers that are held fast.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lt.models.nn.diffusion import Guided, NoiseSchedule, PredictionType, join, split

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
    """One state on its way down the ladder of a diffusers scheduler (a private copy of it): what a :data:`Hook` sees.

    A hook may set :attr:`z` (whatever the scheduler carries, this is the variance-preserving state), and the network answers for
    the new one; or it sets :attr:`output`, and the step is taken with that. Below the last rung, at the bottom, it is called
    once more: there ``z`` is the clean latent, ``alpha`` 1, ``sigma`` 0, and there is nothing to be asked.

    To differentiate through the network::

        with torch.enable_grad():
            state.z = state.z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energy(state.clean()), state.z)
        state.z = state.z.detach() - slope

    Solvers with a memory remember outputs as they were given. UniPC goes without its corrector where ``z`` was set; Heun's
    second half-step and PNDM go on from a copy of the state, so that a new ``z`` counts there for the network's answer alone.

    Args:
        scheduler: any diffusers scheduler over a variance-preserving schedule.
        steps: number of inference steps; the ladder has ``len(self.timesteps)`` rungs, and the bottom below them.
        noise: ``[b, ...]``, standard normal, the start at rung 0; or with ``begin``, the state ``z`` at that rung.
        begin: the rung to begin at.
        generators: one a sample, for schedulers that add noise.
        ask: ``(z, t)`` to the network's answer, for :attr:`output`.
    """

    def __init__(
        self,
        scheduler: Any,
        steps: int,
        noise: Tensor,
        begin: int = 0,
        generators: Sequence[torch.Generator] | None = None,
        ask: Callable[[Tensor, Tensor], Tensor] | None = None,
    ):
        self.scheduler, self.ask = copy.deepcopy(scheduler), ask
        self.scheduler.set_timesteps(steps, device=noise.device)
        if hasattr(self.scheduler, "set_begin_index"):
            self.scheduler.set_begin_index(begin)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.kind: PredictionType = self.scheduler.config.prediction_type
        self.rung = begin
        self._segment: int | None = None
        read = inspect.signature(self.scheduler.step).parameters
        self._extra: dict[str, Any] = (
            {"eta": 0.0} if "eta" in read else {}
        )  # as pipelines pass it: TCD's own default is 0.3
        if generators is not None and "generator" in read:
            self._extra["generator"] = list(generators)
        self._sample = noise * self.scheduler.init_noise_sigma if begin == 0 else self._from_state(noise)
        self._z: Tensor | None = None
        self._output: Tensor | None = None

    def _from_state(self, z: Tensor) -> Tensor:
        """Euler-type schedulers carry ``z / alpha``: ask the scheduler how it scales a one, and undo that."""
        one = torch.ones((), dtype=torch.float64, device=z.device)
        return z if self.is_done else (z / self.scheduler.scale_model_input(one, self.t)).to(z.dtype)

    @property
    def is_done(self) -> bool:
        """Whether the state has come to the bottom."""
        return self.rung == len(self.timesteps)

    @property
    def t(self) -> Tensor:
        """The timestep of the current rung, a scalar in the scheduler's own schedule; fractional for some schedulers."""
        return self.timesteps[self.rung]

    @property
    def z(self) -> Tensor:
        """The state ``alpha x0 + sigma eps`` at the current rung, as a network wants to see it, ``[b, ...]``; at the bottom
        the clean latent. May be set."""
        z = self._z
        if z is None:
            z = self._z = self._sample if self.is_done else self.scheduler.scale_model_input(self._sample, self.t)
        return z

    @z.setter
    def z(self, z: Tensor) -> None:
        if z is self._z:
            return
        self._z, self._output, self._sample = z, None, self._from_state(z.detach())
        if hasattr(self.scheduler, "last_sample"):  # UniPC would correct the new state by what led to the old one
            self.scheduler.last_sample = None

    def alpha_sigma(self) -> tuple[Tensor, Tensor]:
        """``alpha`` and ``sigma`` (float64 scalars) of the state at the current rung, from the scheduler's own tables."""
        if self.is_done:
            return self.timesteps.new_ones((), dtype=torch.float64), self.timesteps.new_zeros((), dtype=torch.float64)
        sigmas = getattr(self.scheduler, "sigmas", None)
        if sigmas is not None:
            ratio = sigmas[self.rung].double()
            alpha = (1 + ratio**2).rsqrt()
            return alpha, ratio * alpha
        abar = self.scheduler.alphas_cumprod[self.t.long().cpu()].double()
        return abar.sqrt(), (1 - abar).sqrt()

    @property
    def alpha(self) -> Tensor:
        """Share of the picture in ``z``, a scalar of its dtype."""
        return self.alpha_sigma()[0].to(self.z)

    @property
    def sigma(self) -> Tensor:
        """Share of the noise in ``z``, a scalar of its dtype."""
        return self.alpha_sigma()[1].to(self.z)

    @property
    def output(self) -> Tensor:
        """The network's answer for ``z`` (of the scheduler's prediction type), guidance and, under Coop-Diffusion, the fusion
        applied; asked for once. May be set."""
        if self._output is None:
            assert self.ask is not None
            self._output = self.ask(self.z, self.t)
        return self._output

    @output.setter
    def output(self, output: Tensor) -> None:
        self._output = output

    def clean(self, output: Tensor | None = None) -> Tensor:
        """The clean guess ``x0`` that an output means, :attr:`output` unless stated, ``[b, ...]``; at the bottom ``z`` itself."""
        if self.is_done:
            return self.z
        return split(self.output if output is None else output, self.z, self.alpha, self.sigma, self.kind)[0]

    def output_of(self, clean: Tensor) -> Tensor:
        """The output that means a clean guess, seen from :attr:`z`."""
        alpha, sigma = self.alpha, self.sigma
        return join(*split(clean, self.z, alpha, sigma, "sample"), alpha, sigma, self.kind)

    def answer(self, clean: Tensor) -> None:
        """Set the output that means this clean guess."""
        self.output = self.output_of(clean)

    def enter(self, segment: int) -> None:
        """Say which network answers from here on; where it is another one, the solver's history is forgotten."""
        if self._segment not in (None, segment):
            restart_history(self.scheduler)
        self._segment = segment

    def step(self, output: Tensor | None = None) -> None:
        """One rung down with an output for :attr:`z`, :attr:`output` unless stated."""
        output = (self.output if output is None else output).detach()
        self._sample = self.scheduler.step(output, self.t, self._sample, return_dict=False, **self._extra)[0]
        self.rung, self._z, self._output = self.rung + 1, None, None


Hook = Callable[[Solver], None]
"""Looks at the state on every rung, and may change it."""


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
    end: int | None = None,
    generators: Sequence[torch.Generator] | None = None,
    hook: Hook | None = None,
) -> Tensor:
    """Draw with one model: down the ladder, from noise to a clean latent.

    Args:
        guided: the model with its conditions and guidance.
        scheduler: a diffusers scheduler of the same schedule and prediction type.
        noise: ``[b, c, h, w]`` standard normal; with ``begin`` > 0 the state at that rung (image to image).
        steps: inference steps.
        begin, end: rungs of the ladder between which to work; to the bottom when ``end`` is None.
        generators: for schedulers that add noise, one a sample.
        hook: sees and may change the state on every rung, and at the bottom.

    Returns:
        The clean latent ``[b, c, h, w]``; with ``end``, the clean guess at that rung.

    Raises:
        ValueError: scheduler and model disagree on schedule or prediction type.
    """
    check_agreement(guided, scheduler)
    solver = Solver(scheduler, steps, guided.beside(noise), begin, generators, guided)
    last = len(solver.timesteps) if end is None else end
    while solver.rung < last:
        solver.enter(guided.model.segment(solver.t))
        if hook is not None:
            hook(solver)
        solver.step()
    if hook is not None:
        hook(solver)
    return solver.clean()


def check_agreement(guided: Guided, scheduler: Any) -> None:
    """Raise ``ValueError`` where a scheduler does not fit the model that it is to sample from."""
    theirs, ours = NoiseSchedule.from_config(scheduler.config), guided.model.schedule
    if theirs != ours:
        raise ValueError(f"the scheduler's noise schedule is {theirs}, the model was trained on {ours}")
    if scheduler.config.prediction_type != guided.model.prediction_type:
        raise ValueError(
            f"the scheduler expects {scheduler.config.prediction_type}, the model predicts {guided.model.prediction_type}"
        )
