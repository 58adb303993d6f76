"""What draws: any diffusers pipeline, or a system's own trained models, behind one small interface.

painter = open_painter(locate_pipeline("models/sd15"))
"""

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
from lt.recipes.diffusion import autoencoders, hub
from lt.recipes.diffusion.unets import INDEX
from lt.recipes.pictures import Size

GUIDANCE = 6.0
"""Of pipelines, when nothing is said: PanGu-Draw's."""
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that draw nothing."""
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
        unknown: see `unknown_words`, of some prompts.
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
    unknown: Callable[[Sequence[str]], tuple[float, list[str]]]
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


def knows_all(prompts: Sequence[str]) -> tuple[float, list[str]]:
    """The unknown words of a painter whose tokenizer spells every word."""
    return 0.0, []


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
        from lt.models.nn.autoencoder import AutoencoderSpace
        from lt.models.nn.pipelines import denoiser_from, prompt_conditions
        from lt.models.nn.understood import controlnets

        folder, where = Path(self.folders[0]), device()
        pipe = _opened(folder, where)
        if len(self.controls) != (count := len(controlnets(pipe))):
            raise LtError(
                f"{folder} holds {count} ControlNets, {len(self.controls)} names were given.",
                f"Name them after a colon, in their order: --base {folder}:pose" + ",edge" * (count > 1),
            )
        try:
            model = denoiser_from(pipe, self.controls)
        except ValueError as error:
            raise LtError(
                f"Cannot draw with {folder}: {error}.", "It would draw other pictures than diffusers."
            ) from None
        network = getattr(pipe, "unet", None) or pipe.transformer
        space = AutoencoderSpace(pipe.vae)

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
            autoencoder=autoencoders.locate(str(folder)).digest,
            controls=self.controls,
            unknown=knows_all,
            unread=lambda prompt: 0,  # diffusers says itself what its tokenizer cuts off
            conditions=conditions,
        )


def _opened(folder: Path, where: torch.device) -> Any:
    """The pipeline without what only judges or preprocesses pictures, on the device."""
    from diffusers import DiffusionPipeline

    hub.without_bars()
    index = hub.config_of(folder, INDEX)
    parts = [folder / name for name in index if name not in _UNUSED and hub.config_of(folder / name)]
    weights = {part.name: hub.weights_of(part) for part in parts if "tokenizer" not in part.name}
    variant = next((name for name, _ in weights.values() if name), None)
    networks = [file for name in ("unet", "transformer") if name in weights for file in weights[name][1]]
    options: dict[str, Any] = {"use_safetensors": True, "variant": variant, "dtype": _dtype(networks, where)}
    if "safety_checker" in index:
        options["requires_safety_checker"] = False
    try:
        pipe = DiffusionPipeline.from_pretrained(folder, **options, **{name: None for name in _UNUSED if name in index})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise LtError(f"Cannot open the pipeline {folder}: {' '.join(str(error).split())[:300]}") from None
    return pipe.to(where)


def _dtype(weights: Sequence[Path], where: torch.device) -> torch.dtype:
    """Of a pipeline's weights: as the device wants them, but that what is stored in bfloat16 would overflow in float16."""
    wanted = dtype_for(where)
    if wanted == torch.float32 or not weights:
        return wanted
    with safe_open(weights[0], "pt") as opened:
        stored = opened.get_slice(next(iter(opened.keys()))).get_dtype()
    return torch.bfloat16 if stored == "BF16" else wanted


def locate_pipeline(where: str, asked: Sequence[str] = ()) -> PipelineFiles:
    """A diffusers pipeline's folder or name on the hub, with its ControlNets' names after a colon: `DIR` or `DIR:pose,edge`.

    Args:
        asked: names for the ControlNets where `where` gives none; not read where it has none.

    Raises:
        LtError: it is none.
    """
    folder, _, names = where.partition(":")
    return _pipeline(hub.found(folder), names.split(",") if names else asked)


def _pipeline(folder: Path, controls: Sequence[str]) -> PipelineFiles:
    index = hub.config_of(folder, INDEX)
    if not index:
        raise LtError(
            f"{folder} is no diffusers pipeline: no {INDEX} can be read there.", "Its folder holds that file."
        )
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    named = [[str(path.relative_to(folder)), digest_of_file(path)] for path in files]
    return PipelineFiles((str(folder.absolute()),), digest_of(named), tuple(controls) if "controlnet" in index else ())
