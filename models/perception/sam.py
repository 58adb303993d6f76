"""Segment Anything (Kirillov et al. 2023), from either kind of file.

`transformers:facebook/sam-vit-base` is a folder or a hub name, `segment-anything:sam_vit_b_01ec64.pth` the authors' own file.
What they would give in quality is not measured here; the tests run them on small models with random weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lt.models.perception.registry import BackendError, Box, from_pretrained


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


class SamFileSegmenter(SamSegmenter):
    """The same from a file of the authors' package, which holds a state dict. Its size (ViT-B, L, H) is read off the weights.

    Args:
        file: such as `sam_vit_h_4b8939.pth`. Only tensors are read from it, no code.
    """

    def __init__(self, file: str = ""):
        import torch
        from segment_anything import SamPredictor

        from lt.models.nn.device import device

        if not Path(file).is_file():
            raise BackendError(
                f"There is no file {file!r} with weights of SAM." if file else "SAM needs a file with its weights.",
                "Give it after the colon: segment-anything:sam_vit_b_01ec64.pth (the README of segment-anything has the links).",
            )
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
            model = _sam_for(weights)
            model.load_state_dict(weights)
        except Exception as error:  # pickle, zip and torch each have their own errors for a file that is something else
            raise BackendError(
                f"{file} holds no weights of SAM: {' '.join(str(error).split())[:200]}",
                "It is another file, or was cut off on its way: download it again.",
            ) from None
        self.predictor: Any = SamPredictor(model.to(device()))

    def _picture(self, image: np.ndarray, boxes: Sequence[Box]) -> list[np.ndarray]:
        import torch

        corners = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], device=self.predictor.device)
        self.predictor.set_image(image)
        scaled = self.predictor.transform.apply_boxes_torch(corners.float(), image.shape[:2])
        masks, scores, _ = self.predictor.predict_torch(None, None, scaled, multimask_output=True)  # [boxes, 3, h, w]
        best = scores.argmax(dim=1)  # [boxes]
        return list(masks[torch.arange(len(best)), best].cpu().numpy())


def _sam_for(weights: dict[str, Any]) -> Any:
    """The authors' model of the sizes that the weights have: width, depth, heads, and which blocks look at the whole picture."""
    from segment_anything.build_sam import _build_sam

    width = weights["image_encoder.pos_embed"].shape[-1]
    positions = []  # of each block: [2 * side - 1, width of a head]
    while (name := f"image_encoder.blocks.{len(positions)}.attn.rel_pos_h") in weights:
        positions.append(weights[name].shape)
    widest = max(length for length, _ in positions)
    whole = [number for number, (length, _) in enumerate(positions) if length == widest]
    return _build_sam(width, len(positions), width // positions[0][1], whole)
