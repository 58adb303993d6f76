"""Segment Anything (Kirillov et al. 2023) through transformers: `transformers:facebook/sam-vit-base`, or a folder.

What it would give in quality is not measured here; the tests run it on a small model with random weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lt.models.perception.protocols import Box
from lt.models.perception.registry import from_pretrained


class SamSegmenter:
    """Segmenter: for each box the mask of the three that SAM itself scores highest.

    Args:
        name: a folder or a name on the hub.
    """

    def __init__(self, name: str = "facebook/sam-vit-base"):
        from transformers import SamModel, SamProcessor

        from lt.models.nn.device import device

        self.device = device()
        self.processor: Any = from_pretrained(SamProcessor, name)
        self.model: Any = from_pretrained(SamModel, name).eval().to(self.device)

    def segment(self, images: Sequence[np.ndarray], boxes: Sequence[Sequence[Box]]) -> list[list[np.ndarray]]:
        """Masks bool [h, w], one a box; the picture is encoded once for all its boxes."""
        return [self._picture(image, its) if len(its) else [] for image, its in zip(images, boxes, strict=True)]

    def _picture(self, image: np.ndarray, boxes: Sequence[Box]) -> list[np.ndarray]:
        import torch

        corners = [[float(x), float(y), float(x + w), float(y + h)] for x, y, w, h in boxes]
        inputs = self.processor(image, input_boxes=[corners], return_tensors="pt")
        with torch.inference_mode():
            out = self.model(**inputs.to(self.device), multimask_output=True)
        (masks,) = self.processor.image_processor.post_process_masks(
            out.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )  # [boxes, 3, h, w]
        best = out.iou_scores[0].argmax(dim=1).cpu()  # [boxes]
        return [mask[choice].numpy().astype(bool) for mask, choice in zip(masks, best, strict=True)]
