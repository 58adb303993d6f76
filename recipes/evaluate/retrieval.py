"""Retrieval between pictures and texts: R@1, R@5, R@10 in both directions and their mean, with several captions a picture.

image->text: the picture asks, with s_i, and is right at k if one of its captions is among the first k texts.
text->image: every caption asks, with s_t, and is right at k if its picture is among the first k.
Texts that are equal word for word are equally right. Ties count against the model: features that are all the same score 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from lt.models.nn.contrastive import Features, image_similarity, text_similarity
from lt.recipes.evaluate.bootstrap import Interval, resampled

CUTS = (1, 5, 10)
_BLOCK = 256


def text_number(caption: str) -> int:
    """A number that equal captions share on every rank: 63 bits of their digest."""
    return int.from_bytes(blake2b(caption.encode("utf-8", "replace"), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Recalls:
    """Ranks (0 is best) of each picture's best true text [images], and of each text's best true picture [texts].

    `owner` [texts] is the picture that each text belongs to.
    """

    image_ranks: np.ndarray
    text_ranks: np.ndarray
    owner: np.ndarray

    def metrics(self) -> dict[str, float]:
        """`image_r1` ... `text_r10` and `mean_recall`, in percent."""
        return {name: interval.value for name, interval in self.intervals(draws=2).items()}

    def intervals(self, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """The same with 95 % bootstrap intervals; pictures are drawn, each with all its captions."""
        images = len(self.image_ranks)
        texts = np.bincount(self.owner, minlength=images)
        top = [(self.image_ranks < k).astype(float) for k in CUTS]
        top += [np.bincount(self.owner, self.text_ranks < k, minlength=images) for k in CUTS]
        bottom = [np.ones(images)] * len(CUTS) + [texts] * len(CUTS)
        # the mean recall as one ratio: a text counts images / texts, so that both directions weigh the same
        ratio = images / max(1, texts.sum())
        top.append(sum(top[:3], np.zeros(images)) + ratio * sum(top[3:], np.zeros(images)))
        bottom.append(3 * np.ones(images) + 3 * ratio * texts)
        names = [f"{side}_r{k}" for side in ("image", "text") for k in CUTS] + ["mean_recall"]
        found = resampled(100 * np.stack(top, 1), np.stack(bottom, 1), draws, seed)
        return dict(zip(names, found, strict=True))


def recalls(images: Features, texts: Features, numbers: Tensor, owner: Tensor | None = None) -> Recalls:
    """Rank all texts for every picture and all pictures for every text.

    Args:
        images, texts: features of the pictures, and of the texts.
        numbers: int64 [texts]; equal texts share one.
        owner: int64 [texts], the picture that each text belongs to; None: text i belongs to picture i.
    """
    owner = torch.arange(len(texts)) if owner is None else owner.cpu()
    numbers = numbers.cpu()
    true = _true_pairs(len(images), numbers, owner)
    s_i = torch.cat([image_similarity(rows_of(images, part), texts) for part in _blocks(len(images))])
    image_ranks = _ranks(s_i.cpu(), true)
    if images.is_global and texts.is_global:
        s_t = s_i
    else:
        s_t = torch.cat([text_similarity(images, rows_of(texts, part)) for part in _blocks(len(texts))], 1)
    return Recalls(image_ranks, _ranks(s_t.cpu().T, true.T), owner.numpy())


def rows_of(features: Features, rows: slice) -> Features:
    """Some rows of a batch's features."""
    return Features(features.tokens[rows], None if features.mask is None else features.mask[rows])


def _blocks(length: int) -> Sequence[slice]:
    return [slice(first, first + _BLOCK) for first in range(0, length, _BLOCK)]


def _true_pairs(images: int, numbers: Tensor, owner: Tensor) -> Tensor:
    """bool [images, texts]: the text, or one that equals it word for word, belongs to the picture."""
    _, group = torch.unique(numbers, return_inverse=True)
    has = torch.zeros(images, int(group.max()) + 1, dtype=torch.bool)
    has[owner, group] = True
    return has[:, group]


def _ranks(scores: Tensor, true: Tensor) -> np.ndarray:
    """For each row how many untrue columns score at least as high as the best true one."""
    best = scores.masked_fill(~true, -torch.inf).amax(1, keepdim=True)
    return ((scores >= best) & ~true).sum(1).numpy()
