"""Low-rank adapters: a few trained weights beside frozen ones.

Source: LoRA (Hu et al., arXiv 2106.09685, section 4.1): a layer W becomes W + (alpha / rank) B A, with A of `rank` rows and B of
`rank` columns; B starts at zero, so an untrained adapter changes nothing. peft's layers serve unchanged, and diffusers reads what
they learn; ours is the module that holds the adapter's weights alone, under peft's names.
"""

from collections.abc import Sequence
from typing import Any

from torch import nn

_NAME = "default"


def add_lora(network: Any, rank: int, alpha: float, targets: Sequence[str], dropout: float = 0.0) -> nn.Module:
    """Put adapters into a diffusers model, whose own weights are frozen.

    Args:
        alpha: the adapters' outputs are multiplied by alpha / rank.
        targets: ends of the paths of the layers that get one, such as `to_q`.
        dropout: share of an adapter's inputs that is dropped in training.

    Returns:
        The adapters' weights, `<path>.lora_A.weight` [rank, d] and `<path>.lora_B.weight` [d, rank], without the model's.

    Raises:
        ValueError: no layer has such a name.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    config = {"r": rank, "lora_alpha": alpha, "lora_dropout": dropout, "target_modules": list(targets)}
    network.add_adapter(LoraConfig(**config), _NAME)
    weights = nn.Module()
    for path, layer in network.named_modules():
        if isinstance(layer, LoraLayer):
            for name in ("lora_A", "lora_B", "lora_dropout"):
                _place(weights, f"{path}.{name}", getattr(layer, name)[_NAME])
    return weights


def _place(tree: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(tree.named_children()):
            tree.add_module(parent, nn.Module())
        tree = tree.get_submodule(parent)
    tree.add_module(name, module)


def lora_layers(network: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights under diffusers' names, and what diffusers must know to scale them, for `save_lora_weights`."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import get_peft_model_state_dict

    return convert_state_dict_to_diffusers(get_peft_model_state_dict(network)), network.peft_config[_NAME].to_dict()
