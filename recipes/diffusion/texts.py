"""Texts for diffusion: the worlds' own closed vocabulary, and frozen encoders from transformers or diffusers folders.

The tiny systems train a small transformer over `world_tokenizer` jointly with the U-Net (models/nn/captions.py says why).
Pretrained encoders stay frozen: their features are computed once, into the cache's `embed.npy`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import digest_of, digest_of_file
from lt.models.nn.tokenizers import WordTokenizer
from lt.recipes.diffusion import hub
from lt.recipes.words import word_list

LENGTH = 64
"""Places for tokens: the longest caption of figures and scenes has 57, the two marks not counted."""


def world_tokenizer(words: str = "worlds") -> WordTokenizer:
    """Words of the English and characters of the Chinese captions of scenes and figures, or of another list or file."""
    return WordTokenizer(word_list(words), LENGTH)


def hugging_face_tokenizer(tokenizer: WordTokenizer) -> Any:
    """The same tokenizer as transformers knows them, for the pipelines that are exported: the same numbers for any caption."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    pad, unknown, start, end = tokenizer.SPECIAL
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    marks = [(start, tokenizer.start), (end, tokenizer.end)]
    backend.post_processor = processors.TemplateProcessing(single=f"{start} $A {end}", special_tokens=marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.length,
        pad_token=pad,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        padding_side="right",
        truncation_side="right",
    )


@dataclass(frozen=True)
class TextEncoder:
    """A frozen encoder with its tokenizer and the number of places for tokens."""

    model: Any
    tokenizer: Any
    length: int

    @property
    def width(self) -> int:
        """d."""
        return int(self.model.config.hidden_size)

    @property
    def pooled_width(self) -> int:
        """Width of the text's pooled vector; 0 where the encoder has none that was trained against pictures."""
        return int(self.model.config.projection_dim) if hasattr(self.model, "text_projection") else 0

    @torch.no_grad()
    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Features [b, length, d], and where there is one the projected pooled vector [b, p]; float32, on the model's device.

        CLIP's are taken as Stable Diffusion does, padding included; where an encoder masks its padding (T5, BERT), padded
        places are zero, since control branches cannot mask them.
        """
        batch = self.tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        if self.model.config.model_type.startswith("clip"):
            output = self.model(input_ids=batch.input_ids)
            pooled = output.text_embeds.float() if self.pooled_width else None
            return output.last_hidden_state.float(), pooled
        features = self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        return features.float() * batch.attention_mask[:, :, None], None


def text_digest(where: Sequence[str]) -> str:
    """What names the encoders of these folders: sha256 over their files; "" for none."""
    return digest_of([_folder_digest(*_parts(folder)) for folder in where]) if where else ""


@lru_cache(maxsize=2)
def load_text_encoders(where: tuple[str, ...], length: int, digest: str) -> tuple[TextEncoder, ...]:
    """Encoders from folders, loaded once; several stand side by side, channel by channel, as PanGu-Draw's bilingual pair does.

    Args:
        where: folders or names on the hub, in transformers' format (weights and tokenizer in one), or diffusers pipelines with
            `text_encoder` and `tokenizer`.
        length: places for tokens; all encoders are padded to it.
        digest: what `text_digest` said of these folders.

    Raises:
        LtError: a folder is not there, is of an unknown kind, holds pickled weights, or other files than the digest says.
    """
    if text_digest(where) != digest:
        raise LtError(
            f"The text encoders in {', '.join(where)} are not those that were asked for: their files changed."
        )
    return tuple(_load_encoder(folder, length) for folder in where)


def encode_texts(encoders: Sequence[TextEncoder], texts: Sequence[str], pooled: bool = False) -> dict[str, Tensor]:
    """A condition's `text` [b, length, sum of widths]: features of all encoders side by side, channel by channel.

    Args:
        pooled: also give `pooled` [b, p], the vector of the last encoder that has one (`pooled_width`).
    """
    features, vectors = zip(*(encoder.read(texts) for encoder in encoders), strict=True)
    condition = {"text": torch.cat(features, dim=-1)}
    if pooled:
        condition["pooled"] = [vector for vector in vectors if vector is not None][-1]
    return condition


def pooled_width(encoders: Sequence[TextEncoder]) -> int:
    """Width of the pooled vector that `encode_texts` gives; 0 where no encoder has one."""
    return next((encoder.pooled_width for encoder in reversed(encoders) if encoder.pooled_width), 0)


def _load_encoder(folder: str, length: int) -> TextEncoder:
    from transformers import AutoTokenizer

    hub.without_bars()
    weights, words = _parts(folder)
    model_class, (variant, _) = _model_class(hub.config_of(weights)), hub.weights_of(weights)
    try:
        model = model_class.from_pretrained(weights, use_safetensors=True, variant=variant, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(words)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LtError(f"Cannot load the text encoder {folder}: {reason}") from None
    return TextEncoder(model.eval().requires_grad_(False), tokenizer, length)


def _model_class(config: Mapping[str, Any]) -> Any:
    import transformers

    kind = config.get("model_type", "")
    if "CLIPTextModelWithProjection" in (config.get("architectures") or ()):
        return transformers.CLIPTextModelWithProjection
    classes = {
        "clip": transformers.CLIPTextModel,
        "clip_text_model": transformers.CLIPTextModel,
        "chinese_clip": transformers.ChineseCLIPTextModel,
        "chinese_clip_text_model": transformers.ChineseCLIPTextModel,
        "t5": transformers.T5EncoderModel,
        "mt5": transformers.MT5EncoderModel,
        "bert": transformers.BertModel,
    }
    if kind not in classes:
        raise LtError(f"A text encoder of the kind {kind!r} is not known.", f"Known: {', '.join(classes)}.")
    return classes[kind]


def _parts(where: str) -> tuple[Path, Path]:
    """Folders of weights and of the tokenizer: those of a pipeline, one of its encoders (`DIR/text_encoder_2`), or one folder."""
    folder = hub.found(where)
    inside, beside = folder / "text_encoder", folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    weights, words = (
        (inside, folder / "tokenizer") if inside.is_dir() else (folder, beside if beside.is_dir() else folder)
    )
    if not (weights / "config.json").is_file():
        raise LtError(
            f"{folder} holds no text encoder: there is no {weights / 'config.json'}.",
            "Name a folder in the format of transformers, or of a diffusers pipeline.",
        )
    return weights, words


def _folder_digest(weights: Path, words: Path) -> str:
    files = {path for part in (weights, words) for path in part.iterdir() if path.is_file()}
    return digest_of([[path.name, digest_of_file(path)] for path in sorted(files, key=lambda path: path.name)])
