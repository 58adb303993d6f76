"""Image towers that start from weights made elsewhere: safetensors or weights-only `.pt` files, lt runs and checkpoints."""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lt.datagen.shards import LtError
from lt.models.nn.dual import DualEncoder, openai_state
from lt.models.nn.timm_tower import TimmTower
from lt.models.nn.towers import Activation
from lt.recipes.training import checkpoints
from lt.recipes.training.checkpoints import Record

_PREFIX = "image_tower."


def load_image_tower(model: DualEncoder, where: Path) -> str:
    """Load the image tower's weights into `model`, and nothing else.

    Weights do not say with which activation they were trained. A configuration of transformers (`config.json`) or open_clip
    (`open_clip_config.json`) beside the file does.

    Args:
        where: a `.safetensors` or `.pt` file whose names are OpenAI's or open_clip's (`visual.conv1.weight` ...), those of
            transformers' CLIPModel (`vision_model.` ...) or, for a timm tower, timm's own; or a run or checkpoint of lt.

    Returns:
        A line for people where nothing says which activation it is, else "".

    Raises:
        LtError: the file cannot be read, it does not hold this tower, or the tower has another activation.
    """
    state = _from_run(where) if where.is_dir() else _from_file(where)
    if isinstance(model.image_tower, TimmTower):
        _load(model.image_tower.backbone, {name: value for name, value in state.items() if "head" not in name}, where)
        return ""
    if any(name.startswith("vision_model.") for name in state):
        ours = _from_transformers(state, model)
    else:
        ours = state if any(name.startswith(_PREFIX) for name in state) else openai_state(state)
    _load(model.image_tower, {n.removeprefix(_PREFIX): v for n, v in ours.items() if n.startswith(_PREFIX)}, where)
    mine, theirs = model.image_tower.config.activation, _activation(where)
    if theirs not in ("", mine):
        known = theirs in get_args(Activation)
        hint = f"--set model.activation={theirs}" if known else f"Known: {', '.join(get_args(Activation))}."
        raise LtError(f"The weights of {where} were trained with {theirs}, this tower has {mine}.", hint)
    return "" if theirs else f"{where} does not say its activation: read as {mine} (model.activation)"


def _activation(where: Path) -> str:
    """What a run, or a configuration beside a file of weights, says of the image tower's activation; "" where it says nothing."""
    if where.is_dir():
        return Record.load(checkpoints.chosen(where)).settings.get("model.activation", "quick_gelu")
    theirs, openclip = (_json(where.with_name(name)) for name in ("config.json", "open_clip_config.json"))
    if isinstance(shape := openclip.get("model_cfg"), dict):
        return "quick_gelu" if shape.get("quick_gelu") else "gelu"
    vision = theirs.get("vision_config")
    return str((vision if isinstance(vision, dict) else theirs).get("hidden_act", ""))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _load(tower: nn.Module, state: Mapping[str, Tensor], where: Path) -> None:
    try:
        tower.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise LtError(f"{where} does not hold this image tower: {reason}", "Check model.size.") from None


def _from_transformers(state: Mapping[str, Tensor], model: DualEncoder) -> dict[str, Tensor]:
    """What transformers' CLIPModel calls otherwise, and partly cuts in three, under our names: `export.clip_names` backwards."""
    from lt.recipes.contrastive.export import clip_names

    ours = {}
    for name, value in model.image_tower.state_dict(prefix=_PREFIX).items():
        theirs = [their_name for their_name, _ in clip_names({name: value})]
        if all(their_name in state for their_name in theirs):
            ours[name] = torch.cat([state[their_name] for their_name in theirs])
    return ours


def _from_run(where: Path) -> dict[str, Tensor]:
    found = checkpoints.chosen(where)
    tensors = checkpoints.read_tensors(found, Record.load(found), "model")
    return {name.removeprefix("model."): value for name, value in tensors.items()}


def _from_file(where: Path) -> dict[str, Tensor]:
    try:
        if where.suffix == ".safetensors":
            return load_file(where)
        state = torch.load(where, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise LtError(
            f"Cannot read the weights {where}: {reason}",
            "Want a .safetensors file, or a .pt that holds nothing but tensors (no program, nothing pickled).",
        ) from None
    state = state.get("state_dict", state)
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
