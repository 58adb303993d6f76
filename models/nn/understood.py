"""Which diffusers pipelines are understood: those that are sampled here to the pixels of their own ``__call__``.

A pipeline's class reads some fields of its parts' configurations itself, outside of the parts. What it reads and we do not, and
what it does not read though the part means it, would change pixels in silence; so such fields may only say what is understood.
All other fields act inside of diffusers' own classes, which serve unchanged.
"""

from collections.abc import Mapping
from typing import Any

KINDS = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionControlNetPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
    "StableDiffusionXLControlNetPipeline": "sdxl",
    "PixArtAlphaPipeline": "pixart",
    "PixArtSigmaPipeline": "pixart",
}
SCHEDULERS = (
    *("DDIM", "DDPM", "DEISMultistep", "DPMSolverMultistep", "DPMSolverSinglestep", "EulerAncestralDiscrete"),
    *("EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "TCD"),
    "UniPCMultistep",
)
"""Schedulers whose pixels tests/models/test_pipelines.py compares. Not those that draw noise from no seed (DPMSolverSDE)."""
Fields = Mapping[str, tuple[Any, ...]]
"""Fields of a configuration with the values that are understood; a type stands for its values."""

_VAE = {"_class_name": ("AutoencoderKL",), "shift_factor": (None, 0)}
_UNSCALED = {"latents_mean": (None,), "latents_std": (None,)}  # SDXL's pipelines alone read them
_UNET = {
    "sample_size": (int,),
    "time_cond_proj_dim": (None,),  # consistency models are told the guidance scale
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "encoder_hid_dim_type": (None, "text_proj"),
}
_CONTROLNET = {
    "_class_name": ("ControlNetModel",),
    "conditioning_channels": (3,),
    "global_pool_conditions": (None, False),  # such a branch is asked about the prompt alone, and in another strength
}


def objections(pipe: Any) -> list[str]:
    """Why a pipeline is not understood, one phrase each; none for those that are."""
    name = type(pipe).__name__
    if (kind := KINDS.get(name)) is None:
        return [
            f"{name} is not understood: Stable Diffusion 1 and 2, SDXL and PixArt are, the first three also with ControlNets"
        ]
    scheduler = type(pipe.scheduler).__name__
    found = [] if scheduler.removesuffix("Scheduler") in SCHEDULERS else [f"its {scheduler} is not understood"]
    found += strange(pipe.vae, "vae", _VAE | (_UNSCALED if kind != "sdxl" else {}))
    if kind == "pixart":
        return found + strange(pipe.transformer, "transformer", {"sample_size": (int,)})
    latent = (pipe.vae.config.latent_channels,)
    added = ("text_time",) if kind == "sdxl" else (None, "text")
    fields = {"in_channels": latent, "out_channels": latent, "addition_embed_type": added}
    found += strange(pipe.unet, "unet", _UNET | fields)
    for net in controlnets(pipe):
        found += strange(net, "controlnet", _CONTROLNET)
    return found


def strange(part: Any, name: str, fields: Fields) -> list[str]:
    """A phrase for every field of a part's configuration that says something else than is understood."""
    values = {"_class_name": type(part).__name__, **part.config}
    return [
        f"{name}: {field} = {values.get(field)!r} is not understood, {' or '.join(map(_shown, known))} is"
        for field, known in fields.items()
        if not any(
            isinstance(values.get(field), one) if isinstance(one, type) else values.get(field) == one for one in known
        )
    ]


def _shown(known: Any) -> str:
    return "a number" if known is int else repr(known)


def controlnets(pipe: Any) -> list[Any]:
    """A pipeline's ControlNets, in their order."""
    net = getattr(pipe, "controlnet", None)
    return [] if net is None else list(getattr(net, "nets", [net]))
