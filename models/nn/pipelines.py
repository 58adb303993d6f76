"""diffusers pipelines as models, and models as diffusers pipelines.

Any Stable Diffusion 1.x / 2.x, SDXL, ControlNet or PixArt pipeline of diffusers becomes a denoiser, a latent space and
conditions, with the numbers that its own ``__call__`` would use; and a U-Net trained here becomes a pipeline that opens
with ``DiffusionPipeline.from_pretrained``. The parity test samples both ways and compares pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lt.models.nn.control import HINT, ControlledUNet
from lt.models.nn.diffusion import Condition, Denoiser, NoiseSchedule
from lt.models.nn.understood import controlnets, objections
from lt.models.nn.unet import weights_dtype


def denoiser_from(pipe: Any, controls: Sequence[str] = ()) -> Denoiser:
    """The network of a pipeline as a denoiser, with its ControlNets as branches.

    Args:
        pipe: a diffusers pipeline with ``scheduler`` and ``unet`` (and possibly ``controlnet``), or PixArt's.
        controls: names for the pipeline's ControlNets, in their order.

    Raises:
        ValueError: a pipeline that is not understood (`understood.objections`), or other names than it has ControlNets.
    """
    if found := objections(pipe):
        raise ValueError("; ".join(found))
    unet, branches = getattr(pipe, "unet", None), controlnets(pipe)
    if len(branches) != len(controls):
        raise ValueError(
            f"the pipeline has {len(branches)} ControlNets, {len(controls)} names were given: {list(controls)}"
        )
    if unet is None:
        network: nn.Module = PixArtNetwork(pipe.transformer)
    else:
        network = ControlledUNet(unet, dict(zip(controls, branches, strict=True)))
    config = pipe.scheduler.config
    return Denoiser(network, NoiseSchedule.from_config(config), prediction_type=config.prediction_type)


def is_pixart(pipe: Any) -> bool:
    """Whether a pipeline's network is PixArt's transformer."""
    return type(getattr(pipe, "transformer", None)).__name__ == "PixArtTransformer2DModel"


class PixArtNetwork(nn.Module):
    """PixArt's transformer as the ``network`` of a :class:`~lt.models.nn.diffusion.Denoiser`; its learned variance is left out.

    Reads ``text`` ``[b, l, d]``, ``text_mask`` ``[b, l]`` and, for the 1024-pixel model, ``ids`` ``[b, 3]``: height, width,
    height / width.
    """

    def __init__(self, transformer: Any):
        super().__init__()
        self.transformer = transformer

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Noise ``[b, c, h, w]`` for states ``z`` of the same shape."""
        ids = condition.get("ids")
        micro = {"resolution": None, "aspect_ratio": None}
        if ids is not None:
            micro = {"resolution": ids[:, :2], "aspect_ratio": ids[:, 2:]}
        output = self.transformer(
            z.to(weights_dtype(self.transformer)),
            encoder_hidden_states=condition["text"],
            encoder_attention_mask=condition["text_mask"],
            timestep=t.expand(len(z)),
            added_cond_kwargs=micro,
            return_dict=False,
        )[0]
        return output[:, : z.shape[1]].to(z.dtype)


@torch.no_grad()
def prompt_conditions(
    pipe: Any,
    prompts: Sequence[str],
    size: tuple[int, int],
    negative: str | None = None,
    hints: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Prompts through a pipeline's own text encoders.

    Args:
        prompts: one a sample.
        size: (width, height) of the picture in pixels, which SDXL is told.
        negative: negative prompt; None means what the pipeline does without one.
        hints: control pictures by branch name, ``[b, 3, height, width]`` in 0..1.

    Returns:
        The condition and its empty counterpart, named tensors ``[b, ...]``.
    """
    if is_pixart(pipe):
        return _pixart_conditions(pipe, prompts, size, negative or "")
    negatives = None if negative is None else [negative] * len(prompts)
    device = pipe.unet.device
    encoded = pipe.encode_prompt(
        list(prompts),
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt=negatives,
    )
    full, empty = {"text": encoded[0]}, {"text": encoded[1]}
    if len(encoded) == 4:  # SDXL: pooled features, and the six numbers of original size, crop and target size
        width, height = size
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=encoded[0].dtype, device=device)
        for condition, pooled in ((full, encoded[2]), (empty, encoded[3])):
            condition |= {"pooled": pooled, "ids": ids.expand(len(prompts), -1)}
    pictures = {HINT + name: hint.to(device, encoded[0].dtype) for name, hint in (hints or {}).items()}
    return full | pictures, empty | pictures


def _pixart_conditions(
    pipe: Any, prompts: Sequence[str], size: tuple[int, int], negative: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """PixArt's own rule but for its "caption cleaning", which depends on what else is installed."""
    device = pipe.transformer.device
    text, mask, empty_text, empty_mask = pipe.encode_prompt(
        list(prompts), True, negative_prompt=negative, device=device, clean_caption=False
    )
    full, empty = {"text": text, "text_mask": mask}, {"text": empty_text, "text_mask": empty_mask}
    if pipe.transformer.config.sample_size == 128:  # the model that is told the size, by diffusers' own criterion
        width, height = size
        ids = torch.tensor([[height, width, height / width]], dtype=text.dtype, device=device).expand(len(prompts), -1)
        full, empty = full | {"ids": ids}, empty | {"ids": ids}
    return full, empty


def stable_diffusion_pipeline(
    unet: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any, controlnets: Sequence[Any] = ()
) -> Any:
    """Parts as the diffusers pipeline that saves and opens everywhere.

    Args:
        unet, vae, scheduler: diffusers' classes.
        text_encoder, tokenizer: transformers' CLIP classes, the only ones that this pipeline knows.
        controlnets: diffusers' ControlNets; with any, a ``StableDiffusionControlNetPipeline`` is made.
    """
    from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "scheduler": scheduler,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    if controlnets:
        nets = controlnets[0] if len(controlnets) == 1 else list(controlnets)
        return StableDiffusionControlNetPipeline(**parts, controlnet=nets)
    return StableDiffusionPipeline(**parts)
