"""One painter draws: from prompts, seeds and control pictures to pixels. What users, claims and validations go through."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lt.models.nn.diffusion import Guided
from lt.models.nn.sampling import Hook, sample, seeded_start
from lt.recipes.diffusion.pictures import Size
from lt.recipes.draw.painters import Painter


def draw(
    painter: Painter,
    prompts: Sequence[str],
    seeds: Sequence[int],
    size: Size,
    *,
    steps: int,
    guidance: float,
    hints: Mapping[str, Tensor] | None = None,
    styles: Sequence[tuple[str, float]] = (),
    hook: Hook | None = None,
) -> Tensor:
    """Pictures [b, 3, height, width] in about -1..1, one a prompt.

    Args:
        seeds: one a picture; it does not depend on its batch beyond the rounding of sums.
        size: (width, height) in pixels, multiples of the latent space's factor.
        steps, guidance: of sampling.
        hints: control pictures [b, 3, height, width] in 0..1, by the name of the branch that follows them.
        styles: pairs of a text that stands before the prompts and the scale of this style; none where the scale is 0.
        hook: see `sample`.
    """
    guided = guided_by(painter, prompts, size, guidance, hints, styles)
    noise, generators = seeded_start(seeds, painter.latent_shape(*size))
    latents = sample(guided, painter.scheduler, noise, steps=steps, generators=generators, hook=hook)
    return decoded(painter, latents)


def guided_by(
    painter: Painter,
    prompts: Sequence[str],
    size: Size,
    guidance: float,
    hints: Mapping[str, Tensor] | None = None,
    styles: Sequence[tuple[str, float]] = (),
) -> Guided:
    """A painter's network that has been told what to draw; the arguments are those of `draw`."""
    condition, empty = painter.conditions(prompts, size, hints or {})
    styled = tuple(
        (scale, painter.conditions([f"{style} {prompt}" for prompt in prompts], size, hints or {})[0])
        for style, scale in styles
        if scale
    )
    return Guided(painter.model, condition, empty, guidance, styled)


@torch.no_grad()
def decoded(painter: Painter, latents: Tensor) -> Tensor:
    """Latents [b, c, h, w] as pictures."""
    return painter.space.decode(latents)
