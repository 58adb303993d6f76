"""Any timm backbone as an image tower: Swin-L for Wukong, and pretrained towers to be locked (LiT, arXiv 2111.07991).

Letters: b batch, s picture side in pixels, n patches, w width.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class TimmConfig:
    """A timm model by name. `pretrained` lets timm fetch its weights; `checkpoint` loads them from a file instead."""

    name: str
    size: int = 224
    pretrained: bool = False
    checkpoint: str = ""


SWIN_L = TimmConfig("swin_large_patch4_window7_224")


class TimmTower(nn.Module):
    """Pixels [b, 3, s, s] -> (one vector [b, w], patches [b, n, w]).

    The one vector is the class token where the backbone has one, otherwise the mean of its patches (as Wukong does for Swin).
    """

    backbone: Any  # timm's models share methods, not a type

    def __init__(self, config: TimmConfig):
        super().__init__()
        import timm

        self.config = config
        self.backbone = timm.create_model(
            config.name, pretrained=config.pretrained, checkpoint_path=config.checkpoint, num_classes=0, global_pool=""
        )
        self.width = int(self.backbone.num_features)
        self.prefix = int(getattr(self.backbone, "num_prefix_tokens", 0))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.backbone.forward_features(pixels)
        if tokens.ndim == 4:  # [b, height, width, w], as Swin; convolutional nets in timm are [b, w, height, width]
            tokens = tokens.flatten(1, 2) if tokens.shape[3] == self.width else tokens.flatten(2).transpose(1, 2)
        patches = tokens[:, self.prefix :]
        return (tokens[:, 0] if self.prefix else patches.mean(1)), patches
