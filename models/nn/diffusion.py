"""The diffusion core: schedules, parameterisations, guidance, and one object that defines both loss and denoising.

Sources: DDPM (Ho et al. 2020), v-prediction (Salimans & Ho 2022, section 2.4 and appendix D), min-SNR weighting (Hang
et al. 2023, section 3.4), classifier-free guidance (Ho & Salimans 2022), offset noise (Guttenberg 2023), style guidance
(PanGu-Draw, arXiv 2312.16486).

Notation, the same in every file that builds on this one: ``x0`` clean latent, ``eps`` noise, and the *state* ``z_t =
alpha_t x0 + sigma_t eps`` with ``alpha_t = sqrt(abar_t)``, ``sigma_t = sqrt(1 - abar_t)`` (variance preserving).
Schedules and prediction types carry the names of diffusers' scheduler configurations, and their tables are diffusers'
own, so a model trained here and a pipeline saved from it cannot disagree.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

PredictionType = Literal["epsilon", "v_prediction", "sample"]
Condition = Mapping[str, Tensor]
"""What a network is told besides ``z`` and ``t``: named tensors, batch first. The network knows the names it reads."""

Network = Callable[[Tensor, Tensor, Condition], Tensor]

# diffusers' stand-in for abar = 0, the last entry of schedules with zero terminal SNR (the smallest half-precision number).
ABAR_FOR_ZERO = 2.0**-24
# Below any alpha and sigma of the usual schedules (the cosine one ends at 4.9e-5), so it only ever keeps a zero from dividing.
SMALLEST = 2.0**-16


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process, under the names of diffusers' scheduler configurations. The defaults are Stable Diffusion's."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    rescale_betas_zero_snr: bool = False
    trained_betas: tuple[float, ...] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule of a diffusers scheduler's ``config``.

        Raises:
            ValueError: the configuration has no betas at all, as for flow matching.
        """
        if "num_train_timesteps" not in config or "beta_schedule" not in config or config.get("use_flow_sigmas"):
            raise ValueError(
                "this scheduler has no beta schedule (flow matching?); models here "
                "are variance preserving: use a DDIM, Euler or DPM-Solver scheduler"
            )
        known = {field.name: config[field.name] for field in fields(cls) if config.get(field.name) is not None}
        if "trained_betas" in known:
            known["trained_betas"] = tuple(float(beta) for beta in known["trained_betas"])
        return cls(**known)

    def config(self) -> dict[str, Any]:
        """Arguments for any diffusers scheduler that takes them (``rescale_betas_zero_snr`` only where it is set)."""
        values = {key: value for key, value in asdict(self).items() if value is not None and value is not False}
        if "trained_betas" in values:
            values["trained_betas"] = list(values["trained_betas"])
        return values

    @property
    def alphas_cumprod(self) -> Tensor:
        """``abar_t``, ``[num_train_timesteps]``, float32 on the CPU, bit for bit the table of diffusers' DDPM scheduler."""
        return _abar(self, torch.device("cpu"))

    @cached_property
    def noise_to_signal(self) -> Tensor:
        """``sigma_t / alpha_t``, ``[num_train_timesteps]``, float64, increasing: the sigma of Euler-type schedulers."""
        abar = self.alphas_cumprod.double()
        abar = torch.where(abar == 0, ABAR_FOR_ZERO, abar)
        return ((1 - abar) / abar).sqrt()

    def alpha_sigma(self, t: Tensor | float, like: Tensor) -> tuple[Tensor, Tensor]:
        """``alpha_t`` and ``sigma_t`` shaped to broadcast over ``like``, in its dtype and on its device.

        Args:
            t: scalar or ``[b]``. Between two integers ``sigma/alpha`` is interpolated linearly, as diffusers' Euler does.
            like: ``[b, ...]``.
        """
        t = torch.as_tensor(t, device=like.device)
        dtype = torch.promote_types(like.dtype, torch.float32)
        if t.is_floating_point():
            ratio = self._between(t).to(dtype)
            alpha = (1 + ratio**2).rsqrt()
            sigma = ratio * alpha
        else:
            abar = _abar(self, like.device)[t].to(dtype)
            alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        shape = (-1,) + (1,) * (like.ndim - 1) if t.ndim else ()
        return alpha.to(like.dtype).reshape(shape), sigma.to(like.dtype).reshape(shape)

    def _between(self, t: Tensor) -> Tensor:
        """``sigma/alpha`` at fractional ``t``."""
        table = self.noise_to_signal.to(t)
        low = t.floor().long().clamp(0, self.num_train_timesteps - 1)
        high = (low + 1).clamp(max=self.num_train_timesteps - 1)
        return torch.lerp(table[low], table[high], t - low)

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio ``abar / (1 - abar)`` at integer ``t``, same shape, float32."""
        abar = _abar(self, t.device)[t]
        return abar / (1 - abar)

    def timestep_of(self, noise_to_signal: Tensor | float) -> Tensor:
        """The (fractional) timestep at which ``sigma/alpha`` has this value: how two schedules are matched, by SNR.

        Inverse of :meth:`alpha_sigma` between timesteps 0 and T-1; beyond the schedule's own range the nearest end is returned.

        Returns:
            Same shape, float64.
        """
        table = self.noise_to_signal
        ratio = torch.as_tensor(noise_to_signal, dtype=torch.float64)
        table = table.to(ratio.device)
        ratio = ratio.clamp(float(table[0]), float(table[-1]))
        high = torch.searchsorted(table, ratio).clamp(1, len(table) - 1)
        low = high - 1
        return low + (ratio - table[low]) / (table[high] - table[low])


@lru_cache(maxsize=32)
def _abar(schedule: NoiseSchedule, device: torch.device) -> Tensor:
    from diffusers import DDPMScheduler

    with torch.device("cpu"):  # whatever device context the first caller is in, meta included
        return DDPMScheduler(**schedule.config()).alphas_cumprod.to(device)


def split(output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> tuple[Tensor, Tensor]:
    """A network's output read as clean guess and noise guess.

    At the ends no division can produce a NaN: where ``alpha`` or ``sigma`` divides, it is floored at 2^-16. With zero
    terminal SNR an epsilon prediction says nothing about ``x0``, so there the conversion loses information, as it must.

    Args:
        output: ``[b, ...]``, of the stated ``kind``.
        z: ``[b, ...]``, the state that was shown to the network.
        alpha, sigma: broadcastable to ``z``.

    Returns:
        ``x0`` and ``eps``, both ``[b, ...]``.
    """
    if kind == "epsilon":
        return (z - sigma * output) / alpha.clamp(min=SMALLEST), output
    if kind == "v_prediction":
        return alpha * z - sigma * output, sigma * z + alpha * output
    if kind == "sample":
        return output, (z - alpha * output) / sigma.clamp(min=SMALLEST)
    raise ValueError(f"unknown prediction type {kind!r}: epsilon, v_prediction or sample")


def join(x0: Tensor, eps: Tensor, alpha: Tensor, sigma: Tensor, kind: PredictionType) -> Tensor:
    """The output of the stated ``kind`` that means ``x0`` and ``eps``; also the training target. Shapes as in :func:`split`."""
    if kind == "epsilon":
        return eps
    if kind == "v_prediction":
        return alpha * eps - sigma * x0
    if kind == "sample":
        return x0
    raise ValueError(f"unknown prediction type {kind!r}: epsilon, v_prediction or sample")


def convert(
    output: Tensor, z: Tensor, alpha: Tensor, sigma: Tensor, source: PredictionType, target: PredictionType
) -> Tensor:
    """A network's output in another parameterisation; unchanged (the same tensor) where both are the same."""
    if source == target:
        return output
    return join(*split(output, z, alpha, sigma, source), alpha, sigma, target)


def min_snr_weight(snr: Tensor, gamma: float, kind: PredictionType) -> Tensor:
    """Min-SNR-gamma loss weight (Hang et al. 2023): ``min(snr, gamma)`` on ``x0``, divided by what the target already implies.

    Args:
        snr: any shape, >= 0; the weight is finite also at 0.
        gamma: 5 in the paper.
    """
    if kind == "epsilon":
        return (gamma / snr).clamp(max=1.0)
    if kind == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return snr.clamp(max=gamma)


def draw(shape: Sequence[int], generator: torch.Generator | None, like: Tensor) -> Tensor:
    """Standard normal noise of ``shape`` in ``like``'s dtype and on its device, drawn where the generator lives."""
    device = generator.device if generator is not None else like.device
    return torch.randn(tuple(shape), generator=generator, device=device).to(like)


class Denoiser(nn.Module):
    """A network with the meaning of its numbers: the one object that defines both the training loss and denoising.

    Args:
        network: ``(z [b, c, h, w], t [b] or scalar, condition) -> [b, c, h, w]``.
        schedule: the forward process it is trained on.
        prediction_type: what its output means.
        timesteps: the part of ``0..T-1`` that it learns; all of it unless stated (PanGu-Draw trains two on two halves).
        min_snr_gamma: min-SNR weighting where given; the plain mean square error otherwise.
        offset_noise: standard deviation of a constant per channel added to the noise (0.1 is usual, 0 is off).
    """

    def __init__(
        self,
        network: Network,
        schedule: NoiseSchedule | None = None,
        *,
        prediction_type: PredictionType = "epsilon",
        timesteps: range | None = None,
        min_snr_gamma: float | None = None,
        offset_noise: float = 0.0,
    ):
        super().__init__()
        self.network = network
        self.schedule = schedule or NoiseSchedule()
        self.prediction_type: PredictionType = prediction_type
        every = range(self.schedule.num_train_timesteps)
        self.timesteps = every if timesteps is None else timesteps
        if not len(self.timesteps) or self.timesteps.step != 1 or set(self.timesteps) - set(every):
            raise ValueError(f"timesteps {self.timesteps} are no part of 0..{every[-1]}")
        self.min_snr_gamma = min_snr_gamma
        self.offset_noise = offset_noise

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's raw output, ``[b, ...]`` like ``z``."""
        return self.network(z, t, condition)

    def segment(self, t: Tensor | float) -> int:
        """Which generator answers at ``t``. One network has one segment; solvers restart their history where it changes."""
        return 0

    def noise(self, x0: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Training noise like ``x0`` ``[b, c, ...]``, with offset noise where it is on."""
        eps = draw(x0.shape, generator, x0)
        if self.offset_noise:
            per_channel = (*x0.shape[:2],) + (1,) * (x0.ndim - 2)
            eps = eps + self.offset_noise * draw(per_channel, generator, x0)
        return eps

    def loss_at(self, x0: Tensor, condition: Condition, t: Tensor, eps: Tensor) -> Tensor:
        """Weighted mean square error of every sample at given timesteps and noise.

        Args:
            x0, eps: ``[b, ...]``.
            t: ``[b]``, integers.

        Returns:
            ``[b]``, float32.
        """
        alpha, sigma = self.schedule.alpha_sigma(t, x0)
        output = self(alpha * x0 + sigma * eps, t, condition)
        target = join(x0, eps, alpha, sigma, self.prediction_type)
        loss = (output.float() - target.float()).square().flatten(1).mean(1)
        if self.min_snr_gamma is not None:
            loss = loss * min_snr_weight(self.schedule.snr(t), self.min_snr_gamma, self.prediction_type)
        return loss

    def loss(
        self, x0: Tensor, condition: Condition, generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss of a batch at random timesteps of ``self.timesteps``.

        Returns:
            Scalar loss, and named metrics for the log (detached scalars): the mean loss of the noisier and of the cleaner half
            of the drawn timesteps, which move apart long before the mean says anything.
        """
        device = generator.device if generator is not None else x0.device
        span = (self.timesteps.start, self.timesteps.stop)
        t = torch.randint(*span, (len(x0),), generator=generator, device=device).to(x0.device)
        losses = self.loss_at(x0, condition, t, self.noise(x0, generator))
        noisy = (t >= sum(span) / 2).float()
        halves = {"loss_noisy": noisy, "loss_clean": 1 - noisy}
        each = losses.detach()
        metrics = {name: (each * half).sum() / half.sum().clamp(min=1) for name, half in halves.items()}
        return losses.mean(), metrics

    @torch.no_grad()
    def validation_loss(self, x0: Tensor, condition: Condition, seeds: Sequence[int], points: int = 8) -> Tensor:
        """Loss at fixed timesteps and fixed noise, so that two evaluations differ only by the weights.

        Args:
            x0: ``[b, ...]``.
            seeds: one a sample: its noise does not depend on the batch it stands in.
            points: how many timesteps, evenly spread inside ``self.timesteps``.

        Returns:
            ``[b, points]``, float32, from clean to noisy.
        """
        places = torch.linspace(self.timesteps.start, self.timesteps.stop - 1, points + 2)[1:-1].round().long()
        eps = seeded_noise(seeds, tuple(x0.shape[1:])).to(x0)
        return torch.stack([self.loss_at(x0, condition, t.expand(len(x0)).to(x0.device), eps) for t in places], dim=1)


def seeded_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Standard normal ``[len(seeds), *shape]`` on the CPU, every sample from its own seed: reproducible in any batch.

    The same numbers as diffusers draws from ``[torch.Generator().manual_seed(seed) for seed in seeds]``.
    """
    return torch.stack([torch.randn((1, *shape), generator=torch.Generator().manual_seed(s))[0] for s in seeds])


def cat_conditions(conditions: Sequence[Condition]) -> dict[str, Tensor]:
    """Conditions one after another along the batch, for one forward pass.

    Raises:
        ValueError: they name different tensors.
    """
    names = set(conditions[0])
    for other in conditions[1:]:
        if set(other) != names:
            raise ValueError(f"conditions differ in what they name: {sorted(names ^ set(other))}")
    return {name: torch.cat([condition[name] for condition in conditions]) for name in conditions[0]}


def drop_condition(
    condition: Condition, empty: Condition, probability: float, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Replace the condition of a random part of the batch by the empty one, as classifier-free guidance needs in training.

    Args:
        condition: named ``[b, ...]``.
        empty: the names to replace, each ``[1, ...]`` or ``[b, ...]``; what it does not name (a size, a control picture) stays.
        probability: of each sample, 0 to 1 (0.1 is usual).
    """
    some = next(iter(condition.values()))
    device = generator.device if generator is not None else some.device
    dropped = (torch.rand(len(some), generator=generator, device=device) < probability).to(some.device)

    def choose(name: str, value: Tensor) -> Tensor:
        if name not in empty:
            return value
        return torch.where(dropped.reshape(-1, *(1,) * (value.ndim - 1)), empty[name].to(value), value)

    return {name: choose(name, value) for name, value in condition.items()}


def guide(empty: Tensor, text: Tensor, scale: float, styles: Sequence[tuple[float, Tensor]] = ()) -> Tensor:
    """Classifier-free guidance with style guidance (PanGu-Draw): ``e0 + s (ec - e0) + sum_k s_k (ec_k - ec)``.

    All tensors are outputs ``[b, ...]`` for the same state, of any one prediction type (for a fixed state they are
    affine in each other, so guiding one guides all).
    """
    guided = empty + scale * (text - empty)
    for strength, styled in styles:
        guided = guided + strength * (styled - text)
    return guided


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser with everything decided but the state and the time: ``(z, t) -> output``, guidance applied.

    Attributes:
        model: the denoiser.
        condition: named ``[b, ...]``.
        empty: the unconditional counterpart; needed where ``scale`` is not 1.
        scale: guidance scale; 1 is off and costs one network pass instead of two.
        styles: pairs of strength and condition (the same prompt with a style mark before it); each costs a pass.
    """

    model: Denoiser
    condition: Condition
    empty: Condition | None = None
    scale: float = 1.0
    styles: tuple[tuple[float, Condition], ...] = ()

    def __post_init__(self):
        if self.scale != 1 and self.empty is None:
            raise ValueError(f"guidance scale {self.scale} needs the empty condition to guide away from")

    def beside(self, value: Tensor) -> Tensor:
        """A tensor on the device of the model's weights; where it is if there are none."""
        weight = next(self.model.parameters(), None)
        return value if weight is None else value.to(weight.device)

    @cached_property
    def _parts(self) -> list[Condition]:
        guiding = [] if self.empty is None or self.scale == 1 else [self.empty]
        return [*guiding, self.condition, *(condition for _, condition in self.styles)]

    @cached_property
    def _all(self) -> Condition:
        return cat_conditions(self._parts) if len(self._parts) > 1 else self.condition

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        count = len(self._parts)
        outputs = self.model(torch.cat([z] * count) if count > 1 else z, t, self._all).chunk(count)
        plain = count - len(self.styles)
        styled = [(strength, output) for (strength, _), output in zip(self.styles, outputs[plain:], strict=True)]
        text = outputs[plain - 1]
        return guide(outputs[0], text, self.scale, styled) if count > 1 else text
