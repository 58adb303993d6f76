"""PanGu-Draw in training: one generator (structure, texture or whole), or one control branch of a generator.

    lt train pangu                              structure        runs/pangu-tiny
    lt train pangu --preset tiny-texture        texture          runs/pangu-tiny-texture
    lt train pangu --control pose               a branch of it   runs/pangu-tiny-pose

The generators are trained apart, as in the paper, in one latent space. The small text encoder is trained with each of them;
what they share is the caption's token numbers (models/nn/captions.py). A branch's checkpoint names its frozen generator.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lt.datagen.shards import LtError
from lt.models.nn.autoencoder import AutoencoderSpace
from lt.models.nn.captions import TOKENS, CaptionedNetwork, small_text_encoder
from lt.models.nn.control import HINT, ControlledUNet, control_branch
from lt.models.nn.diffusion import Condition, Denoiser, Guided, drop_condition, seeded_noise, split
from lt.models.nn.pipelines import stable_diffusion_pipeline
from lt.models.nn.sampling import Solver, make_scheduler
from lt.models.nn.unet import TextUNet, UNetShape, multiply_adds
from lt.models.pangu import SizeBuckets
from lt.recipes.diffusion import autoencoders
from lt.recipes.diffusion.cache import bucket_of
from lt.recipes.diffusion.controls import STORED
from lt.recipes.diffusion.pictures import sheet, to_bytes
from lt.recipes.diffusion.quiet import without_bars
from lt.recipes.diffusion.texts import (
    LENGTH,
    TextEncoder,
    encode_texts,
    hugging_face_tokenizer,
    load_text_encoders,
    pooled_width,
    text_digest,
    world_tokenizer,
)
from lt.recipes.diffusion.unets import is_pipeline, load_unet, unet_digest
from lt.recipes.pangu import data
from lt.recipes.pangu.data import SEED, Row
from lt.recipes.pangu.settings import UNETS, ModelSettings, PanguSettings
from lt.recipes.registry import Need, Recipe
from lt.recipes.training import checkpoints
from lt.recipes.training.objective import Batch, Metrics, Objective, Report

POINTS = 8
"""Timesteps at which the validation loss is taken."""
_USUAL_FACTOR = 8  # pixels a latent of every published autoencoder here
_BUILT_ON = ("tiny", "tiny-texture", "tiny-whole", "long", "long-texture", "longer")
"""Presets of generators whose runs branches steer or other generators start from."""
_SHOWN, _STEPS, _GUIDANCE = 8, 20, 4.0


class PanguObjective(Objective):
    """A `Denoiser` over the generator's part of the time line.

    Raises:
        LtError: the autoencoder, a text encoder or the generator that a branch steers is not there or does not fit.
    """

    def __init__(self, settings: PanguSettings):
        model = settings.model
        self.settings = settings
        self.located = autoencoders.locate(model.autoencoder)
        self.texts = text_digest(model.text)
        self.built_on = {"model.autoencoder": self.located.digest} | ({"model.text": self.texts} if model.text else {})
        self.space: AutoencoderSpace = autoencoders.load(self.located)
        self.shape = self._shape()
        self.unet: Any = self.shape.build()
        self.encoder = self._own_encoder()
        self.modules = {"unet": self.unet} | ({"text": self.encoder} if self.encoder is not None else {})
        self.frozen = {"autoencoder": self.space}
        self.denoiser = Denoiser(
            self.network({}),
            prediction_type=model.prediction,
            timesteps=model.stage.timesteps,
            min_snr_gamma=model.min_snr or None,
            offset_noise=model.offset_noise,
        )
        self.branch: Any = None
        if model.control:
            self._steer(Path(model.base))
        if model.checkpointing:
            for module in filter(None, (self.unet, self.branch)):
                module.enable_gradient_checkpointing()
        self.group_of = bucket_of if model.buckets else None

    def _steer(self, base: Path) -> None:
        """Take over the generator in `base` as it is; the branch starts as a copy of its encoder (ControlNet)."""
        take = self._take_pipeline if is_pipeline(base) else self._take_run
        self.built_on["model.base"] = take(base)
        self.branch = control_branch(self.unet, self.space.factor, self.settings.model.hint_widths)
        self.frozen, self.modules = self.frozen | self.modules, {"branch": self.branch}
        self.denoiser.network = self.network({self.settings.model.control: self.branch})

    def _shape(self) -> UNetShape:
        channels = self.space.channels
        shape = UNETS[self.settings.model.unet]
        side = self.settings.model.high // self.space.factor
        return replace(shape, sample_size=side, in_channels=channels, out_channels=channels)

    def _own_encoder(self) -> nn.Module | None:
        width = self.shape.text_width
        if self.settings.model.text:
            self._check_widths()
            return None
        return small_text_encoder(world_tokenizer().vocabulary, LENGTH, width)

    def _check_widths(self) -> None:
        named, shape = ", ".join(self.settings.model.text), self.shape
        found, vector = sum(encoder.width for encoder in self._encoders), pooled_width(self._encoders)
        if found != shape.text_width:
            raise LtError(f"The text features of {named} are {found} wide, the U-Net reads {shape.text_width}.")
        if shape.pooled_width and vector != shape.pooled_width:
            raise LtError(
                f"The pooled text of {named} is {vector or 'not there'}, the U-Net reads one of {shape.pooled_width}.",
                "The last encoder of model.text with a projection gives it (CLIPTextModelWithProjection).",
            )

    @property
    def _encoders(self) -> tuple[TextEncoder, ...]:
        model = self.settings.model
        return load_text_encoders(model.text, model.text_length, self.texts)

    def network(self, branches: dict[str, nn.Module]) -> CaptionedNetwork:
        """The U-Net with its text encoder and some control branches."""
        inner = ControlledUNet(self.unet, branches) if branches else TextUNet(self.unet)
        return CaptionedNetwork(inner, self.encoder, branches)

    @property
    def latent_side(self) -> int:
        """Side of the latents in training."""
        return self.settings.model.stage.size // self.space.factor

    def example(self) -> Row:
        model = self.settings.model
        window = self.latent_side if model.windows else 0
        return Row(self.located.digest, self.texts, model.control, window, bool(model.buckets), bool(self.shape.ids))

    def caption_condition(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions as the network wants them, [b, ...] on its device."""
        device = self.unet.device
        if self.encoder is not None:
            return {TOKENS: world_tokenizer()(captions).ids.to(device)}
        found = encode_texts(self._encoders, captions, bool(self.shape.pooled_width))
        return {name: value.to(device) for name, value in found.items()}

    def size_condition(self, width: int, height: int, count: int) -> dict[str, Tensor]:
        """What the network is told of the pictures' size: `ids` [count, 1], the bucket's number; nothing where it reads none.

        Raises:
            LtError: the generator has learned no such size.
        """
        if not self.shape.ids:
            return {}
        buckets = SizeBuckets(self.settings.model.buckets)
        try:
            return {"ids": buckets.ids([buckets.index(width, height)] * count).to(self.unet.device)}
        except ValueError as error:
            raise LtError(f"{error}.", "Choose one with --size.") from None

    @cached_property
    def _unsaid(self) -> dict[str, Tensor]:
        """Frozen encoders' features of the empty caption, [1, ...]."""
        return self.caption_condition([""])

    def _empty(self) -> dict[str, Tensor]:
        """The condition of the empty caption, [1, ...]."""
        return self.caption_condition([""]) if self.encoder is not None else self._unsaid

    def unread(self, prompt: str) -> int:
        """How many tokens of a prompt have no place in the own text encoder; frozen ones cut in silence."""
        if self.encoder is None:
            return 0
        tokenizer = world_tokenizer()
        return max(0, len(tokenizer.encode([prompt])[0]) + 2 - tokenizer.length)

    def _condition(self, batch: Batch) -> dict[str, Tensor]:
        words = {name: batch[name] for name in (TOKENS, "text", "pooled", "ids") if name in batch}
        return words | {name: value.float() / 255 for name, value in batch.items() if name.startswith(HINT)}

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        condition = drop_condition(self._condition(batch), self._empty(), self.settings.model.drop_text)
        return self.denoiser.loss(batch["latent"], condition)

    def validate(self, batches: Iterable[Batch]) -> Report:
        """The loss at fixed timesteps with fixed noise (the score, negated), and pictures of what the generator makes of
        validation captions: see `drawn`."""
        losses, shown = [], []
        for batch in batches:
            seeds = batch[SEED].tolist()
            losses.append(self.denoiser.validation_loss(batch["latent"], self._condition(batch), seeds, POINTS))
            if not shown:
                shown = self._pictures(batch)
        if not losses:
            raise LtError("The validation set has no usable samples.", "Name another one: --set data.validation=DIR.")
        rows = torch.cat(losses)
        thirds = {
            f"loss_{number}_of_{POINTS}": float(rows[:, number - 1].mean()) for number in (1, POINTS // 2, POINTS)
        }
        loss = float(rows.mean())
        return Report({"loss": loss, **thirds}, -loss, {"grid": sheet(shown)})

    def _pictures(self, batch: Batch) -> list[list[np.ndarray]]:
        """Rows: the true pictures (decoded), the control pictures, the generator's."""
        some = {name: value[:_SHOWN] for name, value in batch.items()}
        pixels = self.drawn(some["latent"], self._condition(some), some[SEED].tolist())
        rows = [list(to_bytes(self.space.decode(some["latent"])))]
        for name, value in some.items():
            if name.startswith(HINT):
                rows.append(list(value.permute(0, 2, 3, 1).cpu().numpy()))
        return [*rows, list(to_bytes(pixels))]

    @torch.no_grad()
    def drawn(self, latents: Tensor, condition: Condition, seeds: list[int]) -> Tensor:
        """What the generator does on its own part of the time line, decoded: [b, 3, h, w] in about -1..1.

        It begins from pure noise, or where its part begins lower down, from the true latents noised to that level. Where its part
        ends above t = 0, the clean guess at the end is shown: blurred, for noise still hides the detail.
        """
        empty = {**condition, **self.caption_condition([""] * len(latents))}
        guided = Guided(self.denoiser, condition, empty, _GUIDANCE)
        scheduler = make_scheduler("ddim", self.denoiser.schedule, self.denoiser.prediction_type)
        noise = seeded_noise(seeds, tuple(latents.shape[1:])).to(latents)
        ladder = Solver(scheduler, _STEPS, noise).timesteps.tolist()
        rungs = [rung for rung, t in enumerate(ladder) if t in self.denoiser.timesteps]
        if rungs[0]:
            alpha, sigma = self.denoiser.schedule.alpha_sigma(ladder[rungs[0]], latents)
            noise = alpha * latents + sigma * noise
        solver = Solver(scheduler, _STEPS, noise, rungs[0])
        for _ in rungs[:-1]:
            solver.step(guided(solver.z, solver.t))
        output = guided(solver.z, solver.t)
        alpha, sigma = self.denoiser.schedule.alpha_sigma(solver.t, latents)
        clean, _ = split(output, solver.z, alpha, sigma, self.denoiser.prediction_type)
        return self.space.decode(clean)

    def adopt(self, folder: Path) -> bool:
        """Start from the U-Net of a diffusers folder."""
        if not is_pipeline(folder):
            return False
        load_unet(self.unet, folder, self.denoiser)
        return True

    def _take_pipeline(self, folder: Path) -> str:
        """Load a pipeline's U-Net; returns its digest."""
        digests = autoencoders.locate(str(folder)).digest, text_digest((str(folder),))
        if digests != (self.located.digest, self.texts) or self.settings.model.generator != "whole":
            raise LtError(
                f"A branch of {folder} needs its autoencoder and its text encoder, and learns over the whole time line.",
                f"--set model.autoencoder={folder} --set model.text=[{folder}] --set model.generator=whole",
            )
        load_unet(self.unet, folder, self.denoiser)
        return unet_digest(folder)

    def _take_run(self, where: Path) -> str:
        """Load a run's generator; returns its digest."""
        base = restore(where)
        model, theirs = self.settings.model, base.settings.model
        if base.located.digest != self.located.digest or base.texts != self.texts:
            raise LtError(
                f"The generator in {model.base} was trained with another autoencoder or text encoder.",
                f"Its settings: model.autoencoder={theirs.autoencoder}, model.text={list(theirs.text)}.",
            )
        if theirs.control or (theirs.stage, theirs.buckets) != (model.stage, model.buckets):
            raise LtError(
                f"{model.base} is no {model.generator} generator at {model.stage.size} pixels.",
                "Name one: --set model.base=RUN, or change model.generator, high, low and buckets.",
            )
        for name, module in self.modules.items():
            try:
                module.load_state_dict(base.modules[name].state_dict())
            except (RuntimeError, KeyError):
                raise LtError(f"The generator in {model.base} has another shape.", "Train with its settings.") from None
        return checkpoints.digest_of_weights(checkpoints.Record.load(checkpoints.chosen(where)))

    def export(self, folder: Path) -> None:
        """Write a Stable Diffusion pipeline (for a branch, with its ControlNet): `DiffusionPipeline.from_pretrained` opens it.

        Each generator becomes a pipeline of its own: diffusers' pipelines know one U-Net, so PanGu-Draw's two draw together only
        through `lt sample pangu`.

        Raises:
            LtError: the generator reads text encoders that this pipeline does not know.
        """
        without_bars()
        encoder, tokenizer = self._pipeline_text()
        scheduler = make_scheduler("ddim", self.denoiser.schedule, self.denoiser.prediction_type)
        branches = [] if self.branch is None else [self.branch]
        pipe = stable_diffusion_pipeline(self.unet, self.space.vae, encoder, tokenizer, scheduler, branches)
        pipe.save_pretrained(folder)

    def _pipeline_text(self) -> tuple[Any, Any]:
        """Text encoder and tokenizer as transformers' classes."""
        if self.encoder is not None:
            return self.encoder, hugging_face_tokenizer(world_tokenizer())
        first, *others = self._encoders
        if others or not first.model.config.model_type.startswith("clip"):
            raise LtError(
                "Only a generator with one CLIP text encoder can be written as a Stable Diffusion pipeline.",
                "Its checkpoint is safetensors; `lt sample pangu --checkpoint` reads it.",
            )
        return first.model, first.tokenizer


def restore(where: Path) -> PanguObjective:
    """A trained generator or branch, in eval mode.

    Raises:
        LtError: it is a checkpoint of another system, or what it was trained with is not what lies there now.
    """
    record = checkpoints.Record.load(checkpoints.chosen(where))
    if record.system != "pangu":
        raise LtError(f"{where} is a checkpoint of {record.system}, not of pangu.", "Name a run of `lt train pangu`.")
    objective, _ = checkpoints.restore(where)
    assert isinstance(objective, PanguObjective)
    return objective


class Outline(Objective):
    """The generator of these settings by its shapes, on the meta device, with the cost of a training pass at its square size."""

    def __init__(self, model: ModelSettings):
        shape, side = UNETS[model.unet], model.stage.size // _USUAL_FACTOR
        with torch.device("meta"):
            self.modules = {"unet": shape.build()}
        passes = 4 if model.checkpointing else 3  # backward = 2 forward; checkpointing computes forward again
        self.multiply_adds = passes * multiply_adds(shape, side, side, model.text_length)


def outline(settings: PanguSettings) -> Outline | None:
    """See `Recipe.outline`: where the autoencoder or a frozen text encoder is no folder, and no run makes it."""
    model = settings.model
    if model.control or any(need.system == "vae" for need in needs(settings)):
        return None
    return None if all(Path(one).is_dir() for one in (model.autoencoder, *model.text)) else Outline(model)


def needs(settings: PanguSettings) -> list[Need]:
    """The tiny autoencoder, and the tiny generator that is steered or started from, where the settings name these."""
    known = {f"runs/vae-{preset}": ("vae", preset) for preset in ("tiny", "long")}
    known |= {f"runs/pangu-{preset}": ("pangu", preset) for preset in _BUILT_ON}
    named = (settings.model.autoencoder, settings.model.base, settings.train.init)
    return [Need(*known[where], Path(where)) for where in named if where in known]


def completes(settings: PanguSettings) -> list[Need]:
    """After the structure generator: the texture generator, and the branches for the controls that figures hold."""
    if settings.model.generator != "structure" or settings.model.control:
        return []
    return [Need("pangu", f"tiny-{part}", Path(f"runs/pangu-tiny-{part}")) for part in ("texture", *STORED)]


RECIPE = Recipe(
    name="pangu",
    about="Text to image with two generators that share the time line (arXiv 2312.16486), and its control branches.",
    settings=PanguSettings,
    objective=PanguObjective,
    world=data.world,
    folder=Path(__file__).parent,
    prepare=data.prepare,
    needs=needs,
    completes=completes,
    outline=outline,
)
