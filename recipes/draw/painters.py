"""What draws: any diffusers pipeline, or a system's own trained models, behind one small interface.

painter = open_painter(locate_pipeline("models/sd15"))
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.autoencoder import LatentSpace
from lt.models.nn.device import device, dtype_for
from lt.models.nn.diffusion import Denoiser, Guided
from lt.models.nn.sampling import sample, seeded_start
from lt.recipes.diffusion import autoencoders
from lt.recipes.diffusion.pictures import Size
from lt.recipes.diffusion.quiet import without_bars
from lt.recipes.diffusion.unets import INDEX

GUIDANCE = 6.0
"""Of pipelines, when nothing is said: PanGu-Draw's."""
Conditions = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True, eq=False)
class Painter:
    """A denoiser with its latent space, its scheduler, and what turns prompts into conditions.

    Attributes:
        side: of the square in pixels that it draws when nothing is said.
        guidance: how closely it follows prompts when nothing is said.
        channels: of its latents.
        autoencoder: the digest of its files; painters with the same one draw in the same latent space.
        controls: names of its branches.
        unknown: the words of a prompt that it has no numbers for, in their order; it reads them as one and the same.
        unread: how many tokens of a prompt it leaves unread, because its text encoder has no places for them.
        conditions: (prompts, (width, height), hints [b, 3, height, width] in 0..1 by branch) to the condition and its empty
            counterpart.
    """

    name: str
    model: Denoiser
    space: LatentSpace
    scheduler: Any
    side: int
    guidance: float
    channels: int
    autoencoder: str
    controls: tuple[str, ...]
    unknown: Callable[[str], Sequence[str]]
    unread: Callable[[str], int]
    conditions: Callable[[Sequence[str], Size, Mapping[str, Tensor]], Conditions]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(c, h, w) of a picture's latent."""
        return self.channels, height // self.space.factor, width // self.space.factor

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], size: Size, *, steps: int, **how: Any) -> Tensor:
        """Pictures [b, 3, height, width] in about -1..1, one a prompt.

        Args:
            seeds: one a picture; it does not depend on its batch beyond the rounding of sums.
            size: (width, height) in pixels, multiples of the latent space's factor.
            steps: of sampling.
            how: what else `told` takes, and a `hook`, see `sample`.
        """
        hook = how.pop("hook", None)
        noise, generators = seeded_start(seeds, self.latent_shape(*size))
        guided = self.told(prompts, size, **how)
        return self.decoded(sample(guided, self.scheduler, noise, steps=steps, generators=generators, hook=hook))

    def told(
        self,
        prompts: Sequence[str],
        size: Size,
        guidance: float,
        hints: Mapping[str, Tensor] = MappingProxyType({}),
        styles: Sequence[tuple[str, float]] = (),
    ) -> Guided:
        """The network that has been told what to draw.

        Args:
            hints: control pictures [b, 3, height, width] in 0..1, by the name of the branch that follows them.
            styles: pairs of a text that stands before the prompts and the scale of this style; none where the scale is 0.
        """
        condition, empty = self.conditions(prompts, size, hints)
        styled = tuple(
            (scale, self.conditions([f"{style} {prompt}" for prompt in prompts], size, hints)[0])
            for style, scale in styles
            if scale
        )
        return Guided(self.model, condition, empty, guidance, styled)

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Latents [b, c, h, w] as pictures."""
        return self.space.decode(latents)


@dataclass(frozen=True)
class PainterFiles(ABC):
    """A painter by its files, light enough to travel to a worker; `digest` is of their contents.

    A system that trains its own painters derives from it.
    """

    folders: tuple[str, ...]
    digest: str

    @abstractmethod
    def again(self) -> "PainterFiles":
        """The same files, as they are now. Raises LtError if they are gone."""

    @abstractmethod
    def open(self) -> Painter:
        """See `open_painter`, which keeps what it opened."""


@lru_cache(maxsize=8)
def open_painter(files: PainterFiles) -> Painter:
    """The painter, on this process's device; kept for the next call.

    Raises:
        LtError: the files changed since they were found; they do not belong together; a pipeline of an unknown kind.
    """
    if files.again().digest != files.digest:
        raise LtError(f"{', '.join(files.folders)} changed while it was in use.", "Start again.")
    return files.open()


@dataclass(frozen=True)
class PipelineFiles(PainterFiles):
    """A diffusers folder; `controls` names its ControlNets, in their order."""

    controls: tuple[str, ...] = ()

    def again(self) -> "PipelineFiles":
        return _pipeline(Path(self.folders[0]), self.controls)

    def open(self) -> Painter:
        from diffusers import DiffusionPipeline

        from lt.models.nn.pipelines import denoiser_from, prompt_conditions, space_from

        without_bars()
        folder = self.folders[0]
        where = device()
        pipe: Any = DiffusionPipeline.from_pretrained(folder, use_safetensors=True, dtype=_dtype(Path(folder), where))
        pipe.to(where)
        try:
            model = denoiser_from(pipe, self.controls)
        except ValueError as error:
            raise LtError(f"Cannot draw with {folder}: {error}.") from None
        network = getattr(pipe, "unet", None) or pipe.transformer
        space = space_from(pipe)

        def conditions(prompts: Sequence[str], size: Size, hints: Mapping[str, Tensor]) -> Conditions:
            return prompt_conditions(pipe, prompts, size, hints=hints)

        return Painter(
            name=f"{type(pipe).__name__} in {folder}",
            model=model.eval(),
            space=space,
            scheduler=pipe.scheduler,
            side=network.config.sample_size * space.factor,
            guidance=GUIDANCE,
            channels=space.channels,
            autoencoder=self._autoencoder(),
            controls=self.controls,
            unknown=lambda prompt: (),  # its tokenizer spells every word
            unread=lambda prompt: 0,  # diffusers says itself what its tokenizer cuts off
            conditions=conditions,
        )

    def _autoencoder(self) -> str:
        try:
            return autoencoders.locate(self.folders[0]).digest
        except LtError:  # its weights have another name, of a variant: then only the same folder is the same
            return self.digest


def _dtype(folder: Path, where: torch.device) -> torch.dtype:
    """Of a pipeline's weights: as the device wants them, but that what is stored in bfloat16 would overflow in float16."""
    wanted = dtype_for(where)
    files = [*folder.glob("unet/*.safetensors"), *folder.glob("transformer/*.safetensors")]
    if wanted == torch.float32 or not files:
        return wanted
    with safe_open(files[0], "pt") as weights:
        stored = weights.get_slice(next(iter(weights.keys()))).get_dtype()
    return torch.bfloat16 if stored == "BF16" else wanted


def locate_pipeline(where: str, asked: Sequence[str] = ()) -> PipelineFiles:
    """A diffusers pipeline's folder, with its ControlNets' names after a colon: `DIR` or `DIR:pose,edge`.

    Args:
        asked: names for the ControlNets where `where` gives none; not read where it has none.

    Raises:
        LtError: it is none.
    """
    folder, _, names = where.partition(":")
    return _pipeline(Path(folder), names.split(",") if names else asked)


def _pipeline(folder: Path, controls: Sequence[str]) -> PipelineFiles:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise LtError(f"{folder} is no diffusers pipeline: no {INDEX} can be read there.") from None
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    named = [[str(path.relative_to(folder)), digest_of_file(path)] for path in files]
    return PipelineFiles((str(folder.absolute()),), digest_of(named), tuple(controls) if "controlnet" in index else ())
