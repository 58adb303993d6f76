"""Does a word find its thing? The share of named things whose name's best patch lies on the thing.

A thing's name may have several tokens ("pair of socks", 考拉): the best patch is the one with the highest mean product with them.
It lies on the thing if the thing's visible pixels cover at least a quarter of the patch, or at least half of the largest cover
that any patch has (things smaller than a patch). Chance is the share of a picture's patches that would count.

Letters: b pictures of n patches, L places for tokens, t things, d width of the shared space.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_COVER = 0.25


class Found(NamedTuple):
    """For the things of some pictures: whether each was found, the chance of that for a random patch, and its picture's row."""

    hits: Tensor
    chance: Tensor
    rows: Tensor


def found(patches: Tensor, words: Tensor, names: Tensor, cells: Tensor) -> Found:
    """Look for every thing.

    Args:
        patches: [b, n, d] and words: [b, L, d], unit vectors.
        names: bool [b, t, L], the tokens of each thing's name; a row without any is no thing.
        cells: [b, t, n], which part (0..1) of each patch the thing covers.
    """
    products = words @ patches.transpose(1, 2)
    weight = names.to(products.dtype)
    maps = weight @ products / weight.sum(2, keepdim=True).clamp(min=1)
    best = maps.argmax(2)
    right = on_thing(cells)
    real = names.any(2) & right.any(2)
    rows = torch.arange(len(patches), device=patches.device)[:, None].expand_as(real)
    hits = right.gather(2, best[..., None])[..., 0]
    return Found(hits[real].float().cpu(), right.float().mean(2)[real].cpu(), rows[real].cpu())


def on_thing(cells: Tensor) -> Tensor:
    """Which patches count as lying on a thing, from covers [..., n]: bool [..., n]."""
    largest = cells.amax(-1, keepdim=True)
    return (cells > 0) & (cells >= torch.minimum(largest / 2, torch.full_like(largest, LEAST_COVER)))


def found_metrics(parts: Sequence[Found]) -> dict[str, float]:
    """`found` and `found_chance`, in percent, over all parts; nothing where there was no thing."""
    hits = torch.cat([part.hits for part in parts]) if parts else torch.zeros(0)
    if not len(hits):
        return {}
    chance = torch.cat([part.chance for part in parts])
    return {"found": 100 * float(hits.mean()), "found_chance": 100 * float(chance.mean())}
