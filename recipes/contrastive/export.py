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

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from lt.datagen.shards import LtError
from lt.datagen.shards.storage import write_json
from lt.models.nn.dual import DualEncoder
from lt.models.nn.timm_tower import TimmConfig
from lt.models.nn.tokenizers import TextTokenizer, WordTokenizer
from lt.recipes.contrastive.settings import TextSettings

TOLERANCE = 1e-4
"""The largest difference between a unit vector of ONNX and ours that is taken for rounding."""
_BLOCK_NAMES = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_OUTER_NAMES = {
    "image_tower.class_embedding": "vision_model.embeddings.class_embedding",
    "image_tower.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "image_tower.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "image_tower.ln_pre.": "vision_model.pre_layrnorm.",
    "image_tower.ln_post.": "vision_model.post_layernorm.",
    "image_projection.weight": "visual_projection.weight",
    "text_tower.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "text_tower.positional_embedding": "text_model.embeddings.position_embedding.weight",
    "text_tower.ln_final.": "text_model.final_layer_norm.",
    "text_projection.weight": "text_projection.weight",
    "scale.logit_scale": "logit_scale",
}


def export(model: DualEncoder, tokenizer: TextTokenizer, text: TextSettings, folder: Path) -> None:
    """Write the folder and check that both ONNX towers give what ours give.

    Raises:
        LtError: a package is missing, or ONNX differs by more than `TOLERANCE`.
    """
    model = model.eval().cpu()
    size = model.config.vision.size
    folder.mkdir(parents=True, exist_ok=True)
    write_encoder(model, tokenizer, text, folder)
    if not isinstance(model.config.vision, TimmConfig):
        write_clip(model, tokenizer, folder)
    write_onnx(model, size, tokenizer.length, folder)
    difference = onnx_difference(model, size, tokenizer, folder)
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

    from lt.recipes.contrastive.objective import CLIP_DEVIATION, CLIP_MEAN

    vision, text = model.config.vision, model.config.text
    assert not isinstance(vision, TimmConfig)
    config = CLIPConfig(
        projection_dim=model.config.dim,
        vision_config={
            **_shape(vision.width, vision.layers, vision.heads, vision.activation),
            "image_size": vision.size,
            "patch_size": vision.patch,
        },
        text_config={
            **_shape(text.width, text.layers, text.heads, text.activation),
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


def _shape(width: int, layers: int, heads: int, activation: str) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
    }


def clip_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our weights under the names of transformers' CLIPModel, without what CLIP does not have (reduction, second scale)."""
    for name, value in state.items():
        if ".resblocks." in name:
            tower = "vision_model" if name.startswith("image_tower") else "text_model"
            number, _, rest = name.partition(".resblocks.")[2].partition(".")
            for inner, part in _block_weights(rest, value):
                yield f"{tower}.encoder.layers.{number}.{inner}", part
        else:
            for ours, theirs in _OUTER_NAMES.items():
                if name == ours or (ours.endswith(".") and name.startswith(ours)):
                    yield name.replace(ours, theirs), value


def _block_weights(name: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            yield f"self_attn.{letter}_proj.{kind}", part
    else:
        layer, _, kind = name.rpartition(".")
        yield f"{_BLOCK_NAMES[layer]}.{kind}", value


class _ImageTower(nn.Module):
    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        from lt.recipes.contrastive.objective import normalised

        return self.model.encode_image(normalised(pixels)).tokens


class _TextTower(nn.Module):
    def __init__(self, model: DualEncoder):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode_text(tokens, mask).tokens


def write_onnx(model: DualEncoder, size: int, length: int, folder: Path) -> None:
    """`image.onnx` and `text.onnx`, for any batch size."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise LtError(f"{error.name} is not installed.", "pip install 'lt-toolkit[onnx]'") from None
    batch = torch.export.Dim("batch", min=1, max=4096)
    pixels = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    tokens, mask = torch.zeros(2, length, dtype=torch.long), torch.ones(2, length, dtype=torch.bool)
    jobs: list[tuple[str, nn.Module, tuple[Tensor, ...], list[str]]] = [
        ("image", _ImageTower(model), (pixels,), ["pixels"]),
        ("text", _TextTower(model), (tokens, mask), ["tokens", "mask"]),
    ]
    for name, tower, inputs, names in jobs:
        with torch.no_grad(), _quiet():
            torch.onnx.export(
                tower.eval(),
                inputs,
                folder / f"{name}.onnx",
                input_names=names,
                output_names=["vectors"],
                dynamic_shapes=tuple({0: batch} for _ in inputs),
                dynamo=True,
                external_data=False,
                verbose=False,
            )


def onnx_difference(model: DualEncoder, size: int, tokenizer: TextTokenizer, folder: Path, rows: int = 5) -> float:
    """The largest difference between a vector of the ONNX towers and of ours, on random pictures and texts."""
    try:
        import onnxruntime
    except ImportError as error:
        raise LtError(f"{error.name} is not installed.", "pip install 'lt-toolkit[onnx]'") from None
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (rows, 3, size, size), dtype=np.uint8)
    tokens = rng.integers(4, tokenizer.vocabulary, (rows, tokenizer.length))
    mask = np.arange(tokenizer.length) < rng.integers(3, tokenizer.length + 1, (rows, 1))
    towers = {
        "image": (_ImageTower(model), {"pixels": pixels}),
        "text": (_TextTower(model), {"tokens": tokens, "mask": mask}),
    }
    worst = 0.0
    for name, (tower, inputs) in towers.items():
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
        theirs = np.asarray(session.run(None, inputs)[0])
        with torch.no_grad():
            ours = tower(*(torch.from_numpy(value) for value in inputs.values())).numpy()
        worst = max(worst, float(np.abs(theirs - ours).max()))
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
