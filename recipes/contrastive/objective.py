"""The objective of FILIP, Wukong and the CLIP baseline: two towers, a contrastive loss, retrieval and localisation as validation.

Letters: b pairs, s picture side, n patches, L places for tokens, k vectors a sample, d width of the shared space.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lt.datagen.engine.stage import batched
from lt.datagen.shards import LtError, Sample, captions_of
from lt.models.nn.accumulate import accumulated_backward
from lt.models.nn.contrastive import Encoded, Exchange, Features, contrastive_loss
from lt.models.nn.device import device
from lt.models.nn.dual import DualConfig, DualEncoder
from lt.models.nn.timm_tower import TimmConfig
from lt.models.nn.tokenizers import TextTokenizer, WordTokenizer
from lt.models.nn.towers import Block
from lt.recipes.contrastive.alignment import Aligned, owners, three_in_a_row
from lt.recipes.contrastive.pairs import Pair
from lt.recipes.contrastive.settings import ContrastiveSettings, HeadSettings
from lt.recipes.evaluate.features import BATCH, Encoder, Rule, load_encoder
from lt.recipes.evaluate.localisation import found, found_metrics
from lt.recipes.evaluate.retrieval import recalls
from lt.recipes.training.checkpoints import Record
from lt.recipes.training.objective import Batch, Metrics, Objective, Parallel, Report
from lt.recipes.words import unknown_words

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_PICTURES = 6


class ContrastiveObjective(Objective):
    """A dual encoder in training.

    Args:
        settings: of the run.
        head: the part of the model's settings that says how features are compared.
        model: the encoder; its text tower must know the tokenizer's vocabulary.
        tokenizer: of the captions.
    """

    fsdp_blocks = (Block,)

    def __init__(self, settings: ContrastiveSettings, head: HeadSettings, model: DualEncoder, tokenizer: TextTokenizer):
        self.settings, self.head, self.tokenizer, self.words = settings, head, tokenizer, tokenizer.words
        self.modules = {"model": model}
        self.exchange = Exchange(head.keep, head.half)
        model.set_checkpointing(head.checkpointing)

    @property
    def model(self) -> DualEncoder:
        return cast(DualEncoder, self.modules["model"])

    @property
    def rule(self) -> Rule:
        """How the prompts of a class are put together."""
        return "mean"

    def encoder(self, record: Record) -> Encoder:
        """What is evaluated, of the checkpoint with this record."""
        return ContrastiveEncoder(self, record)

    @property
    def size(self) -> int:
        """s, in pixels."""
        return self.model.config.vision.size

    @property
    def grid(self) -> int:
        """Patches along one side of a picture; 0 where the tower's patches are not known to be a square grid in rows."""
        vision = self.model.config.vision
        return 0 if isinstance(vision, TimmConfig) else vision.size // vision.patch

    def example(self) -> Pair:
        text, scaled = self.settings.text, self.settings.data.decode == "scaled"
        augment, any_wording = self.settings.picture.augment, text.candidates == "any"
        return Pair(self.size, self.grid, self.tokenizer, text.language, any_wording, augment, scaled)

    def texts_of(self, sample: Sample) -> Sequence[str]:
        return captions_of(sample, self.settings.text.language) if isinstance(self.tokenizer, WordTokenizer) else ()

    def encode(self, image: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Pixels uint8 [b, 3, s, s] and texts -> picture tokens, text tokens, text mask, scales: `Encoded`, as a tuple."""
        if self.head.count_pads:
            mask = torch.ones_like(mask)  # every place is a word
        encoded = self.model(normalised(image), tokens, mask)
        return encoded.images.tokens, encoded.texts.tokens, encoded.texts.mask, encoded.scales

    def loss(self, batch: Batch) -> tuple[Tensor, Metrics]:
        parts = self.encode(batch["image"], batch["tokens"], batch["mask"])
        return self._loss(_encoded(*parts), batch["text"])

    def _loss(self, encoded: Encoded, text: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        groups = text if self.settings.text.merge_equal else None
        features = encoded.images, encoded.texts, encoded.scales
        return contrastive_loss(*features, exchange=self.exchange, reduce=self.head.reduce, groups=groups)

    def step(self, parts: Sequence[Batch], parallel: Parallel) -> tuple[Tensor, Metrics]:
        """The loss compares every pair with all others of the batch: micro-batches are encoded apart, then judged together."""
        if len(parts) == 1:
            return super().step(parts, parallel)
        chunks = [(part["image"], part["tokens"], part["mask"]) for part in parts]
        text = torch.cat([part["text"] for part in parts])

        def encode(*chunk: Tensor) -> Encoded:
            return _encoded(*parallel("encode", *chunk))

        return accumulated_backward(encode, chunks, lambda whole: self._loss(whole, text), parallel.no_sync)

    def validate(self, batches: Iterable[Batch]) -> Report:
        """Retrieval among the validation pairs, localisation where the samples know their things, alignment pictures.

        The score is the mean of R@1 over both directions.
        """
        parts, places = [], []
        shown: list[np.ndarray] = []
        for batch in batches:
            parts.append((*self.encode(batch["image"], batch["tokens"], batch["mask"])[:3], batch["text"]))
            if "names" in batch:
                patches, places_of_words = self.dense(batch)
                places.append(found(patches, places_of_words, batch["names"], batch["cells"]))
                if not shown:
                    shown = self._pictures(batch, patches, places_of_words)
        if not parts:
            raise LtError("The validation set has no usable samples.", "Name another one: --set data.validation=DIR.")
        images, texts, masks, numbers = zip(*parts, strict=True)
        mask = None if masks[0] is None else torch.cat(masks)
        metrics = recalls(Features(torch.cat(images)), Features(torch.cat(texts), mask), torch.cat(numbers)).metrics()
        metrics |= found_metrics(places)
        score = (metrics["image_r1"] + metrics["text_r1"]) / 2
        return Report(metrics, score, {"alignment": three_in_a_row(shown)} if shown else {})

    def dense(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Unit vectors of all patches [b, n, d] and of all places [b, L, d], before any reduction or pooling.

        For a token-wise head these are what the similarity compares; for the others, the same projections applied to every patch
        and place: the best that can be asked of a model that was not taught to align them.
        """
        model = self.model
        _, patches = model.run_image_tower(normalised(batch["image"]))
        return (
            F.normalize(model.image_projection(patches).float(), dim=-1),
            F.normalize(model.text_projection(model.text_tower(batch["tokens"])).float(), dim=-1),
        )

    def _pictures(self, batch: Batch, patches: Tensor, words: Tensor) -> list[np.ndarray]:
        drawn = []
        for row in range(min(_PICTURES, len(batch["key"]))):
            pieces = self.tokenizer.pieces(batch["caption"][row])
            aligned = Aligned.of(batch["image"][row], pieces, patches[row], words[row])
            drawn.append(aligned.drawn(owners(batch["names"][row])))
        return drawn

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """No decay for biases, norms, token and position embeddings and the temperature (FILIP, appendix A)."""
        spared = set(self.model.no_decay())
        named = [(name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad]
        groups = [
            {"params": [weight for name, weight in named if name not in spared], "weight_decay": weight_decay},
            {"params": [weight for name, weight in named if name in spared], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def after_step(self) -> None:
        self.model.scale.clamp()

    def export(self, folder: Path) -> None:
        """Write both towers as ONNX, weights as safetensors, settings, vocabulary: see `contrastive.export`."""
        from lt.recipes.contrastive.export import export

        export(self.model, self.tokenizer, self.settings.text, folder)


def shaped(config: DualConfig, head: HeadSettings, tokenizer: TextTokenizer, **own: Any) -> DualConfig:
    """The shape of an encoder, with what the settings say of its head and a text tower for the tokenizer."""
    vision, text = config.vision, replace(config.text, activation=head.activation)
    return replace(
        config,
        vision=vision if isinstance(vision, TimmConfig) else replace(vision, activation=head.activation),
        text=replace(text, vocabulary=tokenizer.vocabulary, length=tokenizer.length),
        dim=head.dim or config.dim,
        ends=head.ends,
        scale_start=head.scale_start,
        colder=head.colder or None,
        **own,
    )


def normalised(image: Tensor) -> Tensor:
    """Pixels uint8 [b, 3, s, s] to float32 with CLIP's mean and deviation."""
    mean = image.new_tensor(CLIP_MEAN, dtype=torch.float32).view(3, 1, 1)
    deviation = image.new_tensor(CLIP_DEVIATION, dtype=torch.float32).view(3, 1, 1)
    return (image.float() / 255 - mean) / deviation


def _encoded(images: Tensor, texts: Tensor, mask: Tensor | None, scales: Tensor) -> Encoded:
    return Encoded(Features(images), Features(texts, mask), scales)


class ContrastiveEncoder(Encoder):
    """The model of a checkpoint, ready to encode."""

    def __init__(self, objective: ContrastiveObjective, record: Record):
        text, rule = objective.settings.text, objective.rule
        prompts = {"en": "english", "zh": "chinese"}[text.language]
        if text.tokenizer == "words":  # it knows the built-in worlds' words only, and gets prompts made of these
            prompts = f"world-{prompts}"
        super().__init__(record, text.language, objective.size, "bicubic, shorter side, centre crop", prompts, rule)
        self.objective, self.example = objective, objective.example()
        objective.model.to(device())

    @classmethod
    def load(cls, where: Path) -> "ContrastiveEncoder":
        """From a run's folder (its best checkpoint) or a checkpoint. Raises LtError if it is of another kind."""
        encoder = load_encoder(where)
        if not isinstance(encoder, cls):
            raise LtError(f"{where} is a checkpoint of {encoder.record.system}, which is no dual encoder of lt.")
        return encoder

    def prepared(self, pixels: np.ndarray) -> np.ndarray:
        """Shorter side to s, the middle square: uint8 [3, s, s]."""
        return self.example.picture(pixels)

    @torch.no_grad()
    def images(self, pictures: Sequence[np.ndarray]) -> Features:
        batch = torch.from_numpy(np.stack(pictures)).to(device())
        return Features(self.objective.model.encode_image(normalised(batch)).tokens.float().cpu())

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Features:
        parts = [self._texts(part) for part in batched(texts, BATCH)]
        masks = [part.mask for part in parts if part.mask is not None]
        return Features(torch.cat([part.tokens for part in parts]), torch.cat(masks) if masks else None)

    def unknown(self, texts: Iterable[str]) -> tuple[float, list[str]]:
        tokenizer = self.objective.tokenizer
        return unknown_words(tokenizer.words, texts) if isinstance(tokenizer, WordTokenizer) else (0.0, [])

    def _texts(self, texts: Sequence[str]) -> Features:
        ids, mask = self.objective.tokenizer(texts)
        if self.objective.head.count_pads:
            mask = torch.ones_like(mask)
        features = self.objective.model.encode_text(ids.to(device()), mask.to(device()))
        return Features(features.tokens.float().cpu(), None if features.mask is None else features.mask.cpu())
