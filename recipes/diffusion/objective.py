"""What all systems share that denoise latents from captions: the `DiffusionObjective`.

    class Shout(DiffusionObjective):                     # a further paper adds what is its own: settings, rows, the loss
        def loss(self, batch):
            return self.denoiser.loss(batch["latent"], self.dropped(self.condition(batch)))

The small text encoder is trained with each U-Net; what systems share is the caption's token numbers (models/nn/captions.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from lt.datagen.shards import LtError, Sample, captions_of
from lt.models.nn.autoencoder import AutoencoderSpace
from lt.models.nn.captions import TOKENS, CaptionedNetwork, small_text_encoder
from lt.models.nn.control import HINT, ControlledUNet
from lt.models.nn.diffusion import Condition, Denoiser, Guided, drop_condition, seeded_noise, split
from lt.models.nn.lora import add_lora, lora_layers
from lt.models.nn.pipelines import stable_diffusion_pipeline
from lt.models.nn.sampling import Solver, make_scheduler, sample
from lt.models.nn.understood import objections
from lt.models.nn.unet import UNetShape, multiply_adds
from lt.models.pangu import SizeBuckets
from lt.recipes.diffusion import autoencoders, hub
from lt.recipes.diffusion.cache import bucket_of
from lt.recipes.diffusion.data import SEED, Row
from lt.recipes.diffusion.settings import DiffusionSettings, LoraSettings
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
from lt.recipes.diffusion.unets import copy_unet, is_pipeline, unet_digest
from lt.recipes.pictures import sheet, to_bytes
from lt.recipes.registry import run_named
from lt.recipes.training import checkpoints
from lt.recipes.training.objective import Batch, Metrics, Objective, Report

POINTS = 8
"""Timesteps at which the validation loss is taken."""
SHOWN, STEPS, GUIDANCE = 8, 20, 4.0
"""Pictures that a validation draws, and how."""
_NO_PIPELINE = "Its checkpoint is safetensors; `lt sample --checkpoint` reads it."
_USUAL_FACTOR = 8  # pixels a latent of every published autoencoder here


def _in_words_of_base(settings: DiffusionSettings) -> DiffusionSettings:
    """Settings with the words that the model they build on was trained with: its text encoder is taken over."""
    if not settings.base or is_pipeline(settings.base):
        return settings
    checkpoint = checkpoints.chosen(Path(settings.base))
    return checkpoints.with_words(settings, checkpoint, checkpoints.Record.load(checkpoint))


class DiffusionObjective(Objective):
    """A `Denoiser` of latents that is told captions.

    Raises:
        LtError: the autoencoder, a text encoder or the model that an adapter is for is not there or does not fit.
    """

    def __init__(self, settings: DiffusionSettings):
        model = settings.model
        self.settings = settings = _in_words_of_base(settings)
        self.located = autoencoders.locate(model.autoencoder)
        self.texts = text_digest(model.text)
        self.revisions = self._revisions()
        self.built_on = {"model.autoencoder": self.located.digest} | ({"model.text": self.texts} if model.text else {})
        self.space: AutoencoderSpace = autoencoders.load(self.located)
        self.tokenizer = world_tokenizer(settings.text.words)
        self.words = () if model.text or settings.base else self.tokenizer.words  # the base keeps its own
        self.shape = self._shape()
        self.unet: Any = self.shape.build()
        self.encoder = self._own_encoder()
        self.modules = {"unet": self.unet} | ({"text": self.encoder} if self.encoder is not None else {})
        self.frozen = {"autoencoder": self.space}
        if model.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.group_of = bucket_of if model.buckets else None
        self.denoiser = Denoiser(
            self.network(),
            prediction_type=model.prediction,
            timesteps=model.timesteps,
            min_snr_gamma=model.min_snr or None,
            offset_noise=model.offset_noise,
        )
        if settings.lora.rank:
            self._adapt(settings.lora)

    def _revisions(self) -> dict[str, str]:
        model, base = self.settings.model, self.settings.base
        named = [("model.autoencoder", model.autoencoder), *(("model.text", one) for one in model.text), ("base", base)]
        commits = {name: hub.revision_of(hub.found(where)) for name, where in named if where}
        return {name: commit for name, commit in commits.items() if commit}

    def _adapt(self, lora: LoraSettings) -> None:
        """Take over the model in `lora.base`, and train an adapter beside it."""
        self.take(lora.base, "lora.base")
        try:
            adapter = add_lora(self.unet, lora.rank, lora.alpha or lora.rank, lora.targets, lora.dropout)
        except ValueError as error:
            raise LtError(f"The U-Net has no layers for an adapter: {error}", "Change lora.targets.") from None
        self.modules = {"lora": adapter}

    def _shape(self) -> UNetShape:
        channels, side = self.space.channels, self.settings.model.side // self.space.factor
        return replace(self.settings.model.shape, sample_size=side, in_channels=channels, out_channels=channels)

    def _own_encoder(self) -> nn.Module | None:
        width = self.shape.text_width
        if self.settings.model.text:
            self._check_widths()
            return None
        return small_text_encoder(self.tokenizer.vocabulary, LENGTH, width)

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

    def network(self, branches: Mapping[str, nn.Module] | None = None) -> CaptionedNetwork:
        """The U-Net with its text encoder and some control branches."""
        return CaptionedNetwork(ControlledUNet(self.unet, branches), self.encoder, branches or ())

    def example(self) -> Row:
        return Row(
            self.located.digest, self.texts, self.tokenizer, bool(self.settings.model.buckets), bool(self.shape.ids)
        )

    def texts_of(self, sample: Sample) -> Sequence[str]:
        return captions_of(sample)

    # What the network is told

    def caption_condition(self, captions: list[str]) -> dict[str, Tensor]:
        """Captions as the network wants them, [b, ...] on its device."""
        device = self.unet.device
        if self.encoder is not None:
            return {TOKENS: self.tokenizer(captions).ids.to(device)}
        found = encode_texts(self._encoders, captions, bool(self.shape.pooled_width))
        return {name: value.to(device) for name, value in found.items()}

    def size_condition(self, width: int, height: int, count: int) -> dict[str, Tensor]:
        """What the network is told of the pictures' size: `ids` [count, 1], the bucket's number; nothing where it reads none.

        Raises:
            LtError: the U-Net has learned no such size.
        """
        if not self.shape.ids:
            return {}
        buckets = SizeBuckets(self.settings.model.buckets)
        try:
            return {"ids": buckets.ids(width, height, count).to(self.unet.device)}
        except ValueError as error:
            raise LtError(f"{error}.", "Choose one with --size.") from None

    def unread(self, prompt: str) -> int:
        """How many tokens of a prompt have no place in the own text encoder; frozen ones cut in silence."""
        if self.encoder is None:
            return 0
        return max(0, len(self.tokenizer.encode([prompt])[0]) + 2 - self.tokenizer.length)

    def condition(self, batch: Batch) -> dict[str, Tensor]:
        """What the rows of a batch tell the network: words, and control pictures in 0..1."""
        words = {name: batch[name] for name in (TOKENS, "text", "pooled", "ids") if name in batch}
        return words | {name: value.float() / 255 for name, value in batch.items() if name.startswith(HINT)}

    def dropped(self, condition: Condition) -> dict[str, Tensor]:
        """The condition with some captions left out (`drop_text`), for classifier-free guidance."""
        empty = self.caption_condition([""]) if self.encoder is not None else self._unsaid
        return drop_condition(condition, empty, self.settings.model.drop_text)

    @cached_property
    def _unsaid(self) -> dict[str, Tensor]:
        """Frozen encoders' features of the empty caption, [1, ...]."""
        return self.caption_condition([""])

    # Training and validation

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        return self.denoiser.loss(batch["latent"], self.dropped(self.condition(batch)))

    def validate(self, batches: Iterable[Batch]) -> Report:
        """The loss at fixed timesteps with fixed noise (the score, negated), and pictures of what the model makes of
        validation captions: see `drawn`."""
        losses, shown = [], []
        for batch in batches:
            seeds = batch[SEED].tolist()
            losses.append(self.denoiser.validation_loss(batch["latent"], self.condition(batch), seeds, POINTS))
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
        """Rows: the true pictures (decoded), the control pictures, the model's."""
        some = {name: value[:SHOWN] for name, value in batch.items()}
        pixels = self.drawn(some["latent"], self.condition(some), some[SEED].tolist())
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
        guided = self.guided(condition)
        scheduler = make_scheduler("ddim", self.denoiser.schedule, self.denoiser.prediction_type)
        noise = seeded_noise(seeds, tuple(latents.shape[1:])).to(latents)
        ladder = Solver(scheduler, STEPS, noise).timesteps.tolist()
        rungs = [rung for rung, t in enumerate(ladder) if t in self.denoiser.timesteps]
        if not rungs:
            return self.space.decode(self._one_guess(latents, guided, noise))
        if rungs[0]:
            alpha, sigma = self.denoiser.schedule.alpha_sigma(ladder[rungs[0]], latents)
            noise = alpha * latents + sigma * noise
        clean = sample(guided, scheduler, noise, steps=STEPS, begin=rungs[0], end=rungs[-1])
        return self.space.decode(clean)

    def _one_guess(self, latents: Tensor, guided: Guided, noise: Tensor) -> Tensor:
        """The clean guess for the true latents, noised to the middle of a part of the time line that no rung falls into."""
        part = self.denoiser.timesteps
        t = torch.tensor(part[len(part) // 2], device=latents.device)
        alpha, sigma = self.denoiser.schedule.alpha_sigma(t, latents)
        z = alpha * latents + sigma * noise
        return split(guided(z, t), z, alpha, sigma, self.denoiser.prediction_type)[0]

    def guided(self, condition: Condition) -> Guided:
        """The model with guidance away from the empty caption."""
        empty = self.caption_condition([""] * len(next(iter(condition.values()))))
        return Guided(self.denoiser, condition, {**condition, **empty}, GUIDANCE)

    # Other formats

    def take(self, where: str, setting: str) -> None:
        """Load the model that `where` names, and freeze it: a run of this system, or a diffusers pipeline.

        Args:
            setting: what names the place, for `built_on`.

        Raises:
            LtError: there is none, or it does not fit these settings.
        """
        digest = self.take_pipeline(where) if is_pipeline(where) else self._take_run(Path(where))
        self.built_on = {**self.built_on, setting: digest}
        self.frozen, self.modules = {**self.frozen, **self.modules}, {}

    def take_pipeline(self, where: str) -> str:
        """Load a pipeline's U-Net; returns its digest."""
        if (autoencoders.locate(where).digest, text_digest((where,))) != (self.located.digest, self.texts):
            raise LtError(
                f"What is built on {where} needs its autoencoder and its text encoder.",
                f"--set model.autoencoder={where} --set model.text=[{where}]",
            )
        folder = hub.found(where)
        copy_unet(self.unet, folder, self.denoiser)
        return unet_digest(folder)

    def _take_run(self, where: Path) -> str:
        """Load a run's model; returns its digest."""
        base, record = checkpoints.restore(where)
        if not isinstance(base, type(self)):
            raise LtError(f"{where} is a checkpoint of {record.system}, on which this model cannot be built.")
        self.check_base(base, where)
        for name, module in self.modules.items():
            try:
                module.load_state_dict(base.modules[name].state_dict())
            except (RuntimeError, KeyError):
                raise LtError(f"The model in {where} has another shape.", "Train with its settings.") from None
        return checkpoints.digest_of_weights(record)

    def check_base(self, base: "DiffusionObjective", where: Path) -> None:
        """Raises LtError where a trained model lives in another space, or means its numbers otherwise."""
        model, theirs = self.settings.model, base.settings.model
        if base.located.digest != self.located.digest or base.texts != self.texts:
            raise LtError(
                f"The model in {where} was trained with another autoencoder or text encoder.",
                f"Its settings: model.autoencoder={theirs.autoencoder}, model.text={list(theirs.text)}.",
            )
        if theirs.prediction != model.prediction:
            raise LtError(
                f"The model in {where} predicts {theirs.prediction}, these settings train {model.prediction}.",
                f"--set model.prediction={theirs.prediction}",
            )
        if base.settings.lora.rank:
            raise LtError(f"The model in {where} is an adapter itself.", f"Its base: {base.settings.lora.base}.")

    def adopt(self, folder: Path) -> bool:
        """Start from the U-Net of a diffusers folder."""
        if not is_pipeline(folder):
            return False
        if self.settings.lora.rank:
            raise LtError(
                f"An adapter starts from no {folder}.", f"--set lora.base={folder} puts it beside that model."
            )
        copy_unet(self.unet, hub.found(folder), self.denoiser)
        return True

    def export(self, folder: Path) -> None:
        """Write a Stable Diffusion pipeline, which `DiffusionPipeline.from_pretrained` opens; of an adapter its weights alone,
        which `load_lora_weights` of its base's pipeline opens.

        Raises:
            LtError: the model reads text encoders that this pipeline does not know.
        """
        if self.settings.lora.rank:
            from diffusers import StableDiffusionPipeline

            layers, about = lora_layers(self.unet)
            StableDiffusionPipeline.save_lora_weights(folder, layers, unet_lora_adapter_metadata=about)
        else:
            self.pipeline().save_pretrained(folder)

    def pipeline(self, branches: Sequence[nn.Module] = ()) -> Any:
        """A Stable Diffusion pipeline with these ControlNets. Raises as `export` does."""
        hub.without_bars()
        encoder, tokenizer = self._pipeline_text()
        scheduler = make_scheduler("ddim", self.denoiser.schedule, self.denoiser.prediction_type)
        pipe = stable_diffusion_pipeline(self.unet, self.space.vae, encoder, tokenizer, scheduler, list(branches))
        if found := objections(pipe):
            raise LtError(f"A Stable Diffusion pipeline would draw otherwise: {'; '.join(found)}.", _NO_PIPELINE)
        return pipe

    def _pipeline_text(self) -> tuple[Any, Any]:
        """Text encoder and tokenizer as transformers' classes."""
        if self.encoder is not None:
            return self.encoder, hugging_face_tokenizer(self.tokenizer)
        first, *others = self._encoders
        if others or not first.model.config.model_type.startswith("clip"):
            raise LtError(
                "Only a model with one CLIP text encoder can be written as a Stable Diffusion pipeline.", _NO_PIPELINE
            )
        return first.model, first.tokenizer


def restored(where: Path, system: str) -> DiffusionObjective:
    """A trained denoiser of a system, in eval mode.

    Raises:
        LtError: it is a checkpoint of another system, or what it is built on is not what lies there now.
    """
    record = checkpoints.Record.load(checkpoints.chosen(where))
    if record.system != system:
        raise LtError(
            f"{where} is a checkpoint of {record.system}, not of {system}.", f"Name a run of `lt train {system}`."
        )
    return cast(DiffusionObjective, checkpoints.restore(where)[0])


def outline(settings: DiffusionSettings) -> Objective | None:
    """See `Recipe.outline`: the U-Net by its shapes, on the meta device, with the cost of a training pass at its square size,
    where the autoencoder or a frozen text encoder is no folder, and no run makes it."""
    model = settings.model
    if settings.lora.rank or run_named(model.autoencoder):
        return None
    if all(hub.is_here(one) for one in (model.autoencoder, *model.text)):
        return None
    found, side = Objective(), model.trained_side // _USUAL_FACTOR
    with torch.device("meta"):
        found.modules = {"unet": model.shape.build()}
    passes = 4 if model.checkpointing else 3  # backward = 2 forward; checkpointing computes forward again
    found.multiply_adds = passes * multiply_adds(model.shape, side, side, model.text_length)
    return found
