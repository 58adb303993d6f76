"""Coop-Diffusion: several diffusion models of different latent spaces, sizes and schedules denoise one picture together.

Paper: PanGu-Draw, arXiv 2312.16486, section on Coop-Diffusion; no training. Both forms of its algorithm box are here,
over any number of models:

* :func:`joint_denoise` (sub-module 1, the latent-space gap). At every step the others' clean guesses travel through
  pixels into the lead's latent space, are fused there, and the fusion travels back (the box's step 5, printed only as
  "similar", is essential).
* :func:`hand_over` (sub-module 2, the resolution gap). A low-resolution group denoises until T_low; its *clean guess*,
  never its noisy latent, is enlarged, encoded, noised again with fresh noise, and a high-resolution group goes on.

Faithful: the fusion ``eps_f = d eps~ + (1 - d) eps``, with ``eps~`` the others' guess read as noise from the lead's own
state; the same start noise where shapes agree.

Added, because the paper does not say and it does not work without: guidance is applied inside each model first.
**Schedules are matched by SNR**: all states walk down the ladder of one scheduler, and each model is asked at its *own*
t where its ``sigma_t / alpha_t`` is that of the rung (clamped to the ends of its schedule); v and x0 predictions are
converted to noise and back. Decoded guesses are clamped to -1..1, since at t = 999 the noise in a guess is multiplied
by 14.7. Pictures are resized between decoder and encoder, and start noise is drawn afresh, where sizes differ.
Weights may fade (:func:`fading` says why) and carry masks.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.models.nn.autoencoder import LatentSpace
from lt.models.nn.diffusion import Guided, NoiseSchedule, convert
from lt.models.nn.sampling import Hook, Solver, seeded_start

Weight = float | Callable[[float], float]
"""d: a number in 0..1, or one for every timestep t of the ladder."""


@dataclass(frozen=True, eq=False)
class Member:
    """One model of a group. The first of a group leads: the result is in its latent space and it takes the rest of the weight.

    Attributes:
        guided: the model with its own conditions and guidance.
        space: its latent space. Give the same object to models that share one.
        shape: of its latent, ``(c, h, w)``.
        weight: d, its share in the fusion; not read for the lead.
        mask: where it counts, ``[1 or b, 1, H, W]`` in 0..1 over the lead's picture; everywhere when None.
    """

    guided: Guided
    space: LatentSpace
    shape: tuple[int, int, int]
    weight: Weight = 0.5
    mask: Tensor | None = None

    def weight_at(self, t: float) -> float:
        """d at timestep ``t`` of the ladder."""
        weight = self.weight(t) if callable(self.weight) else self.weight
        if not 0 <= weight <= 1:
            raise ValueError(f"a coop weight must lie in 0..1, got {weight} at t={t:g}")
        return float(weight)


def fading(d: float, below: float = 200, over: float = 100) -> Callable[[float], float]:
    """Weight ``d`` that falls linearly to zero between ``t = below + over`` and ``t = below``.

    The autoencoder error enters the noise estimate with factor alpha/sigma: 0.62 at t = 500 of the usual schedule,
    1.75 at t = 200, 24 at t = 1.
    """
    return lambda t: d * min(max((t - below) / over, 0.0), 1.0) if over else d * (t >= below)


@torch.no_grad()
def joint_denoise(
    members: Sequence[Member],
    scheduler: Any,
    *,
    steps: int,
    seeds: Sequence[int],
    begin: int = 0,
    end: int | None = None,
    clean: Tensor | None = None,
    every: int = 1,
    send_back: bool = True,
    clamp: float | None = 1.0,
    hook: Hook | None = None,
) -> Tensor:
    """Denoise together through pixel space (the paper's sub-module 1).

    With one member, or with all weights zero, this *is* sampling from the lead alone, bit for bit.

    Args:
        members: the lead first.
        scheduler: a diffusers scheduler; its rungs are the common ladder of SNRs.
        steps: inference steps.
        seeds: one a sample; start noise and a scheduler's own noise depend on nothing else.
        begin, end: rungs of the ladder between which to work; to the bottom when ``end`` is None.
        clean: where to begin from at rung ``begin``, a clean latent of the lead ``[b, c, h, w]``; pure noise when None.
        every: fuse at every k-th step; between, each member goes on alone (a fusion costs the autoencoders' passes).
        send_back: step 5 of the algorithm. Off only to show what it is good for.
        clamp: bound of decoded guesses, None for latent spaces whose pixels are not pictures.
        hook: sees and may change the lead's state on every rung and at the bottom, as in :func:`~lt.models.nn.sampling.sample`;
            its output is the fusion, so that what is sent back to the others follows the change.

    Returns:
        The lead's clean latent ``[b, c, h, w]``; with ``end``, the fused clean guess at that rung (one more estimate).

    Raises:
        ValueError: weights outside 0..1 or summing to more than one.
    """
    if (clean is None) != (begin == 0):
        raise ValueError("begin from noise at rung 0, or from a clean latent at a rung below it")
    run = _Run(members, scheduler, steps, seeds, begin, clean, send_back, clamp, hook)
    last = len(run.lead.timesteps) if end is None else end
    if not begin <= last <= len(run.lead.timesteps) - (end is not None):
        raise ValueError(f"rung {last} is not on the ladder between {begin} and {len(run.lead.timesteps) - 1}")
    fusing = [rung for rung in range(begin, last) if (rung - begin) % every == 0]
    run.let_go_after(fusing if end is None else [*fusing, last])
    for rung in range(begin, last):
        run.advance(fuse=rung in fusing)
    return run.state({} if end is None else run.answers(fuse=True)).clean()


@dataclass(frozen=True, eq=False)
class HandOver:
    """A group that works until the ladder's timestep falls to ``until`` (0 for the last group), see :func:`hand_over`; its own
    ``hook`` sees the states of its lead."""

    members: Sequence[Member]
    until: float = 0
    hook: Hook | None = None


@torch.no_grad()
def hand_over(
    groups: Sequence[HandOver],
    scheduler: Any,
    *,
    steps: int,
    seeds: Sequence[int],
    clamp: float | None = 1.0,
    **how: Any,
) -> Tensor:
    """Low resolution first, high resolution from T_low on (the paper's sub-module 2), over any number of groups.

    Each group's fused clean guess at its last rung is carried to the next group's lead and noised again to the SNR of that
    rung with fresh noise. A group of one is the paper's case; larger groups chain both forms.

    Args:
        groups: in order; ``until`` strictly falling.
        scheduler, steps, seeds, clamp: as for :func:`joint_denoise`.
        how: further arguments of :func:`joint_denoise` (``every``, ``send_back``).

    Returns:
        The clean latent ``[b, c, h, w]`` of the last group's lead.

    Raises:
        ValueError: an ``until`` that leaves a group without a step.
    """
    if not groups:
        raise ValueError("nothing to do: no groups")
    ladder = Solver(scheduler, steps, torch.zeros(1)).timesteps.tolist()
    begin, clean = 0, None
    for place, group in enumerate(groups):
        final = place == len(groups) - 1
        end = None if final else next((rung for rung, t in enumerate(ladder) if t <= group.until), None)
        if not final and (end is None or end <= begin):
            raise ValueError(f"group {place + 1} gets no step: until={group.until:g} on the ladder {ladder}")
        between: dict[str, Any] = {"begin": begin, "end": end, "clean": clean, "hook": group.hook}
        clean = joint_denoise(group.members, scheduler, steps=steps, seeds=seeds, clamp=clamp, **between, **how)
        if not final:
            clean = carry(clean, group.members[0], groups[place + 1].members[0], clamp)
            begin = end or 0
    assert clean is not None
    return clean


def carry(clean: Tensor, source: Member, target: Member, clamp: float | None = 1.0) -> Tensor:
    """A clean latent of one member as a clean latent of another: decode, clamp, resize (bicubic), encode.

    ``[b, *source.shape]`` to ``[b, *target.shape]``; the same tensor where both share a latent space and a size.
    """
    if source.space is target.space and source.shape == target.shape:
        return clean
    pixels = source.space.decode(clean)
    if clamp is not None:
        pixels = pixels.clamp(-clamp, clamp)
    size = tuple(side * target.space.factor for side in target.shape[1:])
    if tuple(pixels.shape[-2:]) != size:
        pixels = F.interpolate(pixels, size=size, mode="bicubic", antialias=True, align_corners=False)
        pixels = pixels if clamp is None else pixels.clamp(-clamp, clamp)  # bicubic overshoots at edges
    return target.space.encode(pixels)


class _Run:
    """The states of a group on the common ladder: the lead's, and by their places those of the others that are still heard."""

    def __init__(
        self,
        members: Sequence[Member],
        scheduler: Any,
        steps: int,
        seeds: Sequence[int],
        begin: int,
        clean: Tensor | None,
        send_back: bool,
        clamp: float | None,
        hook: Hook | None,
    ):
        self.members, self.send_back, self.clamp, self.hook = members, send_back, clamp, hook
        self.schedule = NoiseSchedule.from_config(scheduler.config)
        self.others: dict[int, Solver] = {}
        ladder = Solver(scheduler, steps, torch.zeros(1), begin)
        for place, member in enumerate(members):
            noise, generators = start_noise(seeds, member, members[0], place, begin)
            if clean is not None:
                noise = noise.to(clean)
                alpha, sigma = (value.to(noise) for value in ladder.alpha_sigma())
                noise = alpha * carry(clean, members[0], member, clamp) + sigma * noise
            self.others[place] = Solver(scheduler, steps, member.guided.beside(noise), begin, generators)
        self.lead = self.others.pop(0)
        self.last_use = dict.fromkeys(self.others, -1)

    def weights(self, rung: int) -> dict[int, float]:
        """d of every member but the lead by its place; their sum is at most one."""
        t = float(self.lead.timesteps[rung])
        weights = {place: member.weight_at(t) for place, member in enumerate(self.members) if place}
        if (total := sum(weights.values())) > 1 + 1e-9:
            raise ValueError(f"coop weights sum to {total:g} at t={t:g}; the lead takes the rest, so at most 1")
        return weights

    def let_go_after(self, fusing: Sequence[int]) -> None:
        """Find each member's last fusion, of those at the rungs `fusing`; after it its network need not run."""
        for rung in fusing:
            self.last_use |= {place: rung for place, weight in self.weights(rung).items() if weight > 0}

    def advance(self, fuse: bool) -> None:
        """One rung down for every member that will be heard again."""
        rung = self.lead.rung
        self._drop(rung)
        answers = self.answers(fuse)
        fused = self.state(answers if fuse else {}).output
        self._drop(rung + 1)
        if fuse and self.send_back:
            answers = {place: self._send_back(fused, solver, place) for place, solver in self.others.items()}
        for place, solver in self.others.items():
            solver.step(answers[place])
        self.lead.step(fused)

    def _drop(self, rung: int) -> None:
        """Let go of the members that are not heard at ``rung`` or below."""
        self.others = {place: solver for place, solver in self.others.items() if self.last_use[place] >= rung}

    def answers(self, fuse: bool) -> dict[int, Tensor]:
        """The others' own answers by their places, in the ladder's prediction type; those that nobody will read are left out."""
        weights, sent = self.weights(self.lead.rung), fuse and self.send_back
        return {place: self._ask(place, one) for place, one in self.others.items() if weights[place] or not sent}

    def state(self, answers: Mapping[int, Tensor]) -> Solver:
        """The lead's state, after its hook. Its output is the lead's own answer, averaged with some others' (steps 1 to 4).

        The others' clean guesses travel into the lead's space and are read there as noise from its state. All prediction types
        are affine in the noise for a fixed state, so averaging outputs averages noise estimates.
        """
        weights = self.weights(self.lead.rung) if answers else {}
        guesses = [self._heard(place, answer, weights[place]) for place, answer in answers.items() if weights[place]]

        def ask(z: Tensor, t: Tensor) -> Tensor:
            own = fused = self._ask(0, self.lead)
            for share, guess in guesses:
                fused = fused + share * (self.lead.output_of(guess) - own)
            return fused

        self.lead.ask = ask
        if self.hook is not None:
            self.hook(self.lead)
        return self.lead

    def _ask(self, place: int, solver: Solver) -> Tensor:
        """Ask a member at its own timestep of the rung's SNR."""
        guided = self.members[place].guided
        alpha, sigma = solver.alpha_sigma()
        model = guided.model
        same = model.schedule == self.schedule
        t = solver.t if same else model.schedule.timestep_of(sigma / alpha).to(solver.t.device)
        solver.enter(model.segment(t))
        t = t.float() if t.is_floating_point() else t
        z = solver.z
        alpha, sigma = alpha.to(z), sigma.to(z)
        return convert(guided(z, t), z, alpha, sigma, model.prediction_type, solver.kind)

    def _heard(self, place: int, answer: Tensor, weight: float) -> tuple[Tensor | float, Tensor]:
        """A member's share of the fusion (with its mask ``[b, 1, h, w]``) and its clean guess in the lead's space."""
        member, lead = self.members[place], self.members[0]
        share: Tensor | float = weight
        if member.mask is not None:
            share = weight * F.interpolate(member.mask.to(self.lead.z), size=lead.shape[1:], mode="area")
        return share, carry(self.others[place].clean(answer), member, lead, self.clamp)

    def _send_back(self, fused: Tensor, solver: Solver, place: int) -> Tensor:
        """Step 5: the fusion as a clean guess in another member's space, read as an output from that member's state."""
        clean = self.lead.clean(fused)
        return solver.output_of(carry(clean, self.members[0], self.members[place], self.clamp))


def start_noise(
    seeds: Sequence[int], member: Member, lead: Member, place: int, begin: int
) -> tuple[Tensor, list[torch.Generator]]:
    """A member's start noise: the lead's own where shapes agree (z'_T = z_T), independent otherwise and at every hand-over.

    Args:
        seeds: one a sample.
        place: the member's place in its group.
        begin: the rung that the group begins at.

    Returns:
        ``[b, *member.shape]`` and the generators that drew it, for schedulers that add noise.
    """
    salt = [begin] * (begin > 0) + [place] * (member.shape != lead.shape)
    if salt:
        seeds = [int(np.random.SeedSequence([seed, *salt]).generate_state(1, np.uint64)[0] >> 1) for seed in seeds]
    return seeded_start(seeds, member.shape)
