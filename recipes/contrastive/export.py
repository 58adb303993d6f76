"""A trained dual encoder for others: a transformers `CLIPModel` folder where its towers are CLIP's, and both towers as ONNX.

    folder/
      config.json, model.safetensors    transformers: CLIPModel.from_pretrained(folder); not for timm towers
      preprocessor_config.json          transformers: CLIPImageProcessor
      vocab.txt                         the tokenizer's entries in order (CLIP's own English vocabulary is not repeated)
      encoder.json, encoder.safetensors everything, in lt's names: head, reduction, temperature, text length, language
      image.onnx                        pixels uint8 [b, 3, s, s] -> vectors [b, k, d] of unit length
      text.onnx                         tokens int64 [b, L], mask bool [b, L] -> vectors [b, k, d], rows of pads are zero

`CLIPModel` gives CLIP's global features. The token-wise ones of FILIP follow from it, because its weights are the same:
`visual_projection(post_layernorm(last_hidden_state))[:, 1:]` and `text_projection(last_hidden_state)`, each row to unit length.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import write_json
from lt.models.nn.dual import DualEncoder
from lt.models.nn.timm_tower import TimmConfig
from lt.models.nn.tokenizers import TextTokenizer, WordTokenizer
from lt.models.nn.towers import TextConfig, VisionConfig
from lt.recipes.contrastive.objective import CLIP_DEVIATION, CLIP_MEAN, normalised
from lt.recipes.contrastive.settings import TextSettings

TOLERANCE = 1e-4
"""The largest difference between a unit vector of ONNX and ours that is taken for rounding."""
_NAMES = {
    "image_tower.class_embedding": "vision_model.embeddings.class_embedding",
    "image_tower.conv1.": "vision_model.embeddings.patch_embedding.",
    "image_tower.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "image_tower.ln_pre.": "vision_model.pre_layrnorm.",
    "image_tower.ln_post.": "vision_model.post_layernorm.",
    "image_tower.transformer.resblocks.": "vision_model.encoder.layers.",
    "image_projection.": "visual_projection.",
    "text_tower.token_embedding.": "text_model.embeddings.token_embedding.",
    "text_tower.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_tower.ln_final.": "text_model.final_layer_norm.",
    "text_tower.transformer.resblocks.": "text_model.encoder.layers.",
    "text_projection.": "text_projection.",
    "scale.logit_scale": "logit_scale",
}
_NAMES_IN_BLOCKS = {
    ".ln_": ".layer_norm",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}


def export(model: DualEncoder, tokenizer: TextTokenizer, text: TextSettings, folder: Path) -> None:
    """Write the folder and check that both ONNX towers give what ours give.

    Raises:
        LtError: a package is missing, or ONNX differs by more than `TOLERANCE`.
    """
    model = model.eval().cpu()
    folder.mkdir(parents=True, exist_ok=True)
    write_encoder(model, tokenizer, text, folder)
    if not isinstance(model.config.vision, TimmConfig):
        write_clip(model, tokenizer, folder)
    difference = write_onnx(model, tokenizer, folder)
    if difference > TOLERANCE:
        raise LtError(f"The ONNX towers in {folder} differ from ours by {difference:.2g}, more than {TOLERANCE:.0e}.")


def write_encoder(model: DualEncoder, tokenizer: TextTokenizer, text: TextSettings, folder: Path) -> None:
    """All weights and what they mean, in lt's own names, and the vocabulary."""
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "encoder.safetensors")
    marks = {name: getattr(tokenizer, name) for name in ("start", "end", "pad", "length") if hasattr(tokenizer, name)}
    described = {"language": text.language, "tokenizer": text.tokenizer, **marks}
    write_json(folder / "encoder.json", {"model": asdict(model.config), "text": described})
    if tokenizer.words:
        entries = [*(WordTokenizer.SPECIAL if isinstance(tokenizer, WordTokenizer) else ()), *tokenizer.words]
        (folder / "vocab.txt").write_text("\n".join(entries) + "\n", encoding="utf-8")


def write_clip(model: DualEncoder, tokenizer: Any, folder: Path) -> None:
    """A transformers folder: `CLIPModel` and its image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision, text = model.config.vision, model.config.text
    assert not isinstance(vision, TimmConfig)
    config = CLIPConfig(
        projection_dim=model.config.dim,
        vision_config={
            **_shape(vision),
            "image_size": vision.size,
            "patch_size": vision.patch,
        },
        text_config={
            **_shape(text),
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.length,
            "bos_token_id": tokenizer.start,
            "eos_token_id": tokenizer.end,
            "pad_token_id": tokenizer.pad,
        },
    )
    clip = CLIPModel(config)
    clip.load_state_dict(dict(clip_names(model.state_dict())))
    with _quiet():
        clip.save_pretrained(folder)
    side = {"height": vision.size, "width": vision.size}
    processor = CLIPImageProcessor(
        size={"shortest_edge": vision.size}, crop_size=side, image_mean=list(CLIP_MEAN), image_std=list(CLIP_DEVIATION)
    )
    processor.save_pretrained(folder)


def _shape(tower: VisionConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": tower.activation,
        "layer_norm_eps": 1e-5,
    }


def clip_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our weights under the names of transformers' CLIPModel, without what CLIP does not have (reduction, second scale)."""
    for name, value in state.items():
        start = next((p for p in _NAMES if name == p or (p.endswith(".") and name.startswith(p))), None)
        if start is None:
            continue
        theirs = _NAMES[start] + name.removeprefix(start)
        for ours, other in _NAMES_IN_BLOCKS.items():
            theirs = theirs.replace(ours, other)
        if ".in_proj_" in theirs:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                yield theirs.replace("in_proj_", f"{letter}_proj."), part
        else:
            yield theirs, value.reshape(()) if theirs == "logit_scale" else value


class _Tower(nn.Module):
    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model


class _ImageTower(_Tower):
    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(normalised(pixels)).tokens


class _TextTower(_Tower):
    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode_text(tokens, mask).tokens


def write_onnx(model: DualEncoder, tokenizer: TextTokenizer, folder: Path) -> float:
    """Write `image.onnx` and `text.onnx`, for any batch size.

    Returns:
        The largest difference between a vector of theirs and of ours, on random pictures and texts.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LtError(f"{error.name} is not installed.", "pip install 'lt-toolkit[onnx]'") from None
    size, places, batch = model.config.vision.size, tokenizer.length, torch.export.Dim("batch", min=1, max=4096)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, 3, size, size), dtype=torch.uint8, generator=random)
    tokens = torch.randint(4, tokenizer.vocabulary, (5, places), generator=random)
    mask = torch.arange(places) < torch.randint(3, places + 1, (5, 1), generator=random)
    worst = 0.0
    for tower, inputs in (
        (_ImageTower(model), {"pixels": pixels}),
        (_TextTower(model), {"tokens": tokens, "mask": mask}),
    ):
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                tower.eval(),
                tuple(value[:2] for value in inputs.values()),
                input_names=list(inputs),
                output_names=["vectors"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                verbose=False,
            )
            assert program
            program.save(folder / ("image.onnx" if "pixels" in inputs else "text.onnx"))
            theirs, ours = program(*inputs.values())[0], tower(*inputs.values())
        worst = max(worst, float((theirs - ours).abs().max()))
    return worst


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress, logs or warnings of the exporters."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        if bars:
            transformers_logging.enable_progress_bar()
