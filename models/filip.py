"""FILIP: Fine-grained Interactive Language-Image Pre-Training. Yao et al., arXiv 2111.07783, ICLR 2022.

CLIP's two towers, untouched; what changes is the similarity. Every patch looks for its best word and every word for its
best patch, and the best matches are averaged: two different similarities, one for each direction of the contrastive loss.

Faithful: towers, one linear map a tower to 256, unit length token by token, padding masked, mean (not sum) in both
directions, temperature learned from 0.07, loss over all pairs of all ranks; as switches of `contrastive.Exchange`, fp16
tokens and products and the 25 % token selection before the exchange.
Differs: the visual class token takes no part in the similarity, as in codes released since (x-clip, Wukong's).
1 / temperature is capped at 100, as CLIP's. The token selection is our reading of one sentence
(`contrastive.select_tokens`).
Added, off in the faithful presets: a colder temperature of its own for image-to-text (`colder`); `head="global"` is CLIP,
the baseline of all comparisons.

    model = Filip(FILIP["base"])
    encoded = model(pixels, tokens, mask)
    loss, metrics = contrastive_loss(encoded.images, encoded.texts, encoded.scales, exchange=FAITHFUL_EXCHANGE)
"""

from dataclasses import replace

from torch import Tensor

from lt.models.nn.contrastive import Exchange, Features
from lt.models.nn.dual import DualConfig, DualEncoder
from lt.models.nn.towers import TEXT, VISION

FILIP = {
    "tiny": DualConfig(VISION["tiny"], TEXT["tiny"], dim=64),
    "base": DualConfig(VISION["B/32"], TEXT["english-base"]),
    "base-16": DualConfig(VISION["B/16"], TEXT["english-base"]),
    "large": DualConfig(VISION["L/14"], TEXT["english-large"]),
}
CLIP = {
    "tiny": replace(FILIP["tiny"], head="global"),
    "base": replace(FILIP["base"], head="global", dim=512),
    "base-16": replace(FILIP["base-16"], head="global", dim=512),
    "large": replace(FILIP["large"], head="global", dim=768),
}

FAITHFUL_EXCHANGE = Exchange(keep=0.25, half=True)


class Filip(DualEncoder):
    """The dual encoder with FILIP's token-wise head or, with `head="global"`, CLIP's."""

    def __init__(self, config: DualConfig):
        if config.head == "reduced":
            raise ValueError('head "reduced" belongs to Wukong; FILIP knows "tokens" and "global"')
        super().__init__(config)


def word_of_patch(image: Tensor, text: Features) -> tuple[Tensor, Tensor]:
    """Best word of each patch and its product, for one picture [n, d] and one text of one row: ([n] int64, [n]).

    The alignment pictures of FILIP's figure 2 print this number at each patch's centre.
    """
    products = image @ text.tokens[0].T
    if text.mask is not None:
        products = products.masked_fill(~text.mask[0], -float("inf"))
    value, word = products.max(1)
    return word, value
