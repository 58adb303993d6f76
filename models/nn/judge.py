"""A small network that looks at a drawn person: where the key points are, what is to be seen, and features of the picture.

Key points are read from heat maps: a softmax over the cells of each point's map, trained by cross-entropy against the point
spread over its four nearest cells (bilinearly: the mean of the cells is the point), read as the mean over the likeliest square
of 3x3 cells. The mean is Sun et al. 2018, "Integral Human Pose Regression", equation 2, kept local because left and right are
easily taken for each other. What is worn and done is read from colours and features at the key points.

Letters: b pictures, p key points, g cells along one side of a heat map, d features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STRIDE = 4
_SMALL = 4


@dataclass(frozen=True)
class Looked:
    """What the network says, before softmax: `heat` [b, p, g * g], `logits` [b, classes] of each attribute; `features` [b, d]."""

    heat: Tensor
    logits: tuple[Tensor, ...]
    features: Tensor


class JudgeNet(nn.Module):
    """Two scales of residual convolutions with a way back to the finer one; one linear layer an attribute on shared features.

    Args:
        points: p.
        classes: how many values each attribute has.
        widths: channels at a quarter, an eighth and a sixteenth of the picture's side.
        features: d.
    """

    def __init__(self, points: int, classes: Sequence[int], widths: tuple[int, int, int], features: int):
        super().__init__()
        fine, middle, coarse = widths
        self.stem = nn.Sequential(_conv(3, 16, 2), _conv(16, fine, 2), Residual(fine), Residual(fine))
        self.middle = nn.Sequential(_conv(fine, middle, 2), Residual(middle), Residual(middle))
        self.coarse = nn.Sequential(_conv(middle, coarse, 2), Residual(coarse))
        self.whole = nn.Linear(coarse, coarse)
        self.to_middle, self.to_fine = nn.Conv2d(coarse, middle, 1), nn.Conv2d(middle, fine, 1)
        self.join = Residual(fine)
        self.heat = nn.Conv2d(fine, points, 1)
        seen = points * (fine + 3 + 2) + coarse + 3 * _SMALL**2
        self.features = nn.Sequential(
            nn.BatchNorm1d(seen),
            nn.Linear(seen, 4 * features, bias=False),
            nn.BatchNorm1d(4 * features),
            nn.ReLU(),
            nn.Linear(4 * features, features),
        )
        self.heads = nn.ModuleList(nn.Linear(features, count) for count in classes)

    def forward(self, pixels: Tensor) -> Looked:
        """Pixels [b, 3, s, s] in -1..1, s a multiple of 16; g = s / 4."""
        fine = self.stem(pixels.contiguous(memory_format=torch.channels_last))  # a fifth faster on processors
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        whole = self.whole(coarse.mean((2, 3)))  # left and right depend on the view, which the whole picture tells
        back = F.interpolate(self.to_middle(coarse + whole[:, :, None, None]), scale_factor=2) + middle
        joined = self.join(F.interpolate(self.to_fine(back), scale_factor=2) + fine)
        heat = self.heat(joined).flatten(2)
        shares = heat.softmax(-1)
        colours = F.avg_pool2d(pixels, _STRIDE)
        there = shares @ torch.cat([fine, colours], 1).flatten(2).transpose(1, 2)
        where = shares @ _centres(pixels.shape[-1] // _STRIDE).to(shares)
        small = F.adaptive_avg_pool2d(pixels, _SMALL)
        seen = torch.cat([there.flatten(1), where.flatten(1), whole, small.flatten(1)], dim=1)
        features = self.features(seen)
        return Looked(heat, tuple(head(features.relu()) for head in self.heads), features)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = _conv(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """[b, c, h, w] to the same shape."""
        return F.relu(x + self.norm(self.second(self.first(x))))


def _conv(before: int, after: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU())


def _centres(cells: int) -> Tensor:
    """(x, y) of every cell's centre as a share of the side: [g * g, 2]."""
    along = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x, y], -1).flatten(0, 1)


def spread(points: Tensor, cells: int) -> Tensor:
    """The heat map that a point should have: its four nearest cells, bilinearly.

    Args:
        points: [..., 2] (x, y) as shares of the side; those in the outer half of a border cell move to its centre.
        cells: g.

    Returns:
        [..., g * g], each summing to 1.
    """
    place = (points * cells - 0.5).clamp(0, cells - 1)
    distance = (place[..., None] - torch.arange(cells).to(place)).abs()  # [..., 2, g]
    share = (1 - distance).clamp(min=0)
    return (share[..., 1, :, None] * share[..., 0, None, :]).flatten(-2)


def found_points(heat: Tensor) -> Tensor:
    """Heat maps [b, p, g * g] before softmax to points [b, p, 2], (x, y) as shares of the side."""
    cells = round(heat.shape[-1] ** 0.5)
    centres, shares = _centres(cells).to(heat), heat.softmax(-1)
    squares = F.avg_pool2d(shares.unflatten(-1, (cells, cells)), 3, stride=1, padding=1).flatten(-2)
    middle = centres[squares.argmax(-1)]
    near = shares * (((centres - middle[:, :, None]).abs().amax(-1) * cells) < 1.5)
    return (near / near.sum(-1, keepdim=True)) @ centres
