"""Diffusion inpainting through diffusers: `diffusers:stable-diffusion-v1-5/stable-diffusion-inpainting`, or a folder.

The prompt asks for an empty scene. What it would give in quality is not measured here; the tests run it on a small pipeline with
random weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from lt.models.perception.registry import from_pretrained

PROMPT = "an empty scene, background only, photograph"
AVOID = "person, people, animal, object, text, watermark"


class DiffusionInpainter:
    """Inpainter: fills at a size the model can take (a multiple of 8), scales back, keeps known pixels to the bit.

    Every picture starts from the same noise.

    Args:
        name: a folder or a name on the hub.
    """

    steps = 30
    """Of denoising."""

    def __init__(self, name: str):
        from diffusers.pipelines.auto_pipeline import AutoPipelineForInpainting

        from lt.models.nn.device import device

        self.device = device()
        self.pipeline: Any = from_pretrained(AutoPipelineForInpainting, name).to(self.device)
        self.pipeline.set_progress_bar_config(disable=True)

    def inpaint(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [self._fill(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _fill(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        import torch

        if not mask.any():
            return image.copy()
        height, width = image.shape[:2]
        size = max(8, round(width / 8) * 8), max(8, round(height / 8) * 8)
        made = self.pipeline(
            prompt=PROMPT,
            negative_prompt=AVOID,
            image=Image.fromarray(image).resize(size, Image.Resampling.LANCZOS),
            mask_image=Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST),
            width=size[0],
            height=size[1],
            num_inference_steps=self.steps,
            generator=torch.Generator("cpu").manual_seed(0),
        ).images[0]
        filled = np.asarray(made.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
        return np.where(mask[:, :, None], filled, image)
