"""What every image-text contrastive model shares: features, similarities, temperature, loss, prompt ensembles.

Letters, here and in the files built on this one:
    b, c   images, texts (or the batch of one rank and that of all ranks, where said)
    n, L   tokens of a picture (patches), tokens of a text (words)
    d      width of the shared space
    s_i    [b, c] image-to-text similarity: every patch looks for its best word, mean over patches
    s_t    [b, c] text-to-image similarity: every word looks for its best patch, mean over real words

A *global* head is the special case n = L = 1: then s_i = s_t = the dot product, and everything below is CLIP's.

Sources: CLIP, arXiv 2103.00020; FILIP, arXiv 2111.07783, section 3 (equations 3 to 6). Large batches: `accumulate.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt.models.nn.gather import gather_constant, gather_rows, rank, world_size
from lt.models.nn.maxsim import Reduce, Wanted, token_similarity


@dataclass(frozen=True)
class Features:
    """What a tower says about a batch: `tokens` [b, k, d], rows of unit length, and `mask` [b, k], True where a token is real.

    k is 1 for a global head. `mask` is None when every token is real (always so for pictures). Masked rows are zero.
    """

    tokens: Tensor
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_global(self) -> bool:
        """Whether there is one vector a sample, so that similarity is a dot product."""
        return self.tokens.shape[1] == 1 and self.mask is None


@dataclass(frozen=True)
class Encoded:
    """A batch after both towers: features of the pictures and the texts, and `scales` [2] = (for s_i, for s_t)."""

    images: Features
    texts: Features
    scales: Tensor


class LogitScale(nn.Module):
    """Inverse temperature(s), learned in log space; `forward` gives [2] = (for s_i, for s_t).

    FILIP learns one, from 1 / 0.07. `colder` gives s_i its own, which starts and is capped that many times higher: the
    mean over n patches flattens s_i, so that one shared temperature leaves patches little reason to find their word (not
    in the papers; off unless set).

    CLIP caps the scale at 100 by clamping the parameter after each step. Here the parameter is clamped in place whenever
    it is read: the same value at every use, the gradient never blocked, and no loop can forget it. (Of a sharded parameter that
    clamps the gathered copy alone: call `clamp` after the step as well.)

    The parameters are vectors of one number, since FSDP shards no scalars; scalars, as CLIP's weights hold them, load into them.
    """

    def __init__(self, start: float = 1 / 0.07, limit: float = 100.0, colder: float | None = None):
        super().__init__()
        self.limit, self.colder = limit, colder
        self.logit_scale = nn.Parameter(torch.tensor([math.log(start)]))
        if colder is not None:
            self.logit_scale_image = nn.Parameter(torch.tensor([math.log(start * colder)]))
        self.register_load_state_dict_pre_hook(_scalars_to_vectors)

    @torch.no_grad()
    def clamp(self) -> None:
        """Cap the parameters in place."""
        self.logit_scale.clamp_(max=math.log(self.limit))
        if self.colder is not None:
            self.logit_scale_image.clamp_(max=math.log(self.limit * self.colder))

    def forward(self) -> Tensor:
        self.clamp()
        image = self.logit_scale if self.colder is None else self.logit_scale_image
        return torch.cat([image, self.logit_scale]).exp()


def _scalars_to_vectors(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for name, _ in module.named_parameters(prefix.removesuffix("."), recurse=False):
        if name in state and state[name].ndim == 0:
            state[name] = state[name].reshape(1)


def similarity(
    images: Features, texts: Features, wanted: Wanted = "both", *, product: torch.dtype | None = None, **how: Any
) -> tuple[Tensor, Tensor]:
    """(s_i, s_t), each [b, c], means in [-1, 1]: token-wise, or the dot product of global features.

    Args:
        wanted, product, how: see `maxsim.token_similarity`; what is not wanted is None. A sum orders every picture's texts and
            every text's pictures as the mean does: it concerns training alone, and evaluation never asks for it.

    Raises:
        ValueError: pictures with a mask; they have no padding.
    """
    if images.is_global and texts.is_global:
        x, y = images.tokens[:, 0], texts.tokens[:, 0]
        dots = (x.to(product or x.dtype) @ y.to(product or y.dtype).T).to(x.dtype)
        return dots, dots
    if images.mask is not None:
        raise ValueError("picture tokens have no padding: images.mask must be None")
    both: Any = token_similarity(images.tokens, texts.tokens, texts.mask, wanted=wanted, product=product, **how)
    return both


def image_similarity(images: Features, texts: Features, **how: Any) -> Tensor:
    """s_i alone [b, c]: how well each picture finds itself in each text. At half the passes of `similarity`."""
    return similarity(images, texts, "image", **how)[0]


def text_similarity(images: Features, texts: Features, **how: Any) -> Tensor:
    """s_t alone, [b, c] (rows are pictures here too): how well each text finds itself in each picture."""
    return similarity(images, texts, "text", **how)[1]


@dataclass(frozen=True)
class Exchange:
    """How features travel between ranks, and which part of the batch's loss a rank computes. The default is exact.

    keep: share of every picture's and text's tokens that are sent (FILIP: 0.25), see `select_tokens`. Only the far side
        of a similarity is reduced: s_i compares all patches of a local picture with the kept words of all texts, s_t all
        words of a local text with the kept patches of all pictures. The rank's own texts and pictures are reduced too
        where they stand on the far side, so that no candidate has more tokens to be found by than another.
    half: tokens are rounded to fp16 before they travel, and products are taken in fp16; means, loss and gradients are
        not.
    local_loss: each rank computes the rows of its own pictures and texts (two b x c rectangles). False computes the whole
        c x c square on every rank: the same loss and gradient after averaging over ranks, at more work; not possible
        with keep < 1.
    """

    keep: float = 1.0
    half: bool = False
    local_loss: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must lie in (0, 1], not {self.keep}")
        if self.keep < 1 and not self.local_loss:
            raise ValueError("keep < 1 reduces the far side only, so each rank needs its own rows: set local_loss")

    @property
    def dtype(self) -> torch.dtype | None:
        return torch.float16 if self.half else None


EXACT = Exchange()


def contrastive_loss(
    images: Features,
    texts: Features,
    scales: Tensor,
    *,
    exchange: Exchange = EXACT,
    reduce: Reduce = "mean",
    groups: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Symmetric cross-entropy over the batch of all ranks: (loss, named metrics of this rank), FILIP equation 3.

    Pair i of the rank is picture i and text i. Average parameter gradients over ranks (as data-parallel wrappers do) to
    obtain the gradient of the whole batch, for the scales too. Every rank passes equal shapes.

    Args:
        images, texts: features of b pairs.
        scales: [2], the inverse temperatures of s_i and s_t (`LogitScale`).
        exchange: what travels between ranks.
        reduce: the best matches' "mean" (FILIP) or "sum" (ColBERT). At one scale a sum is colder: s_i by n, s_t by the number
            of the text's words.
        groups: [b] int64. Pairs that share a number hold for one another (the same picture or the same text in one batch); they
            share the target evenly, 1 / number of positives each. None: only the pair itself is true.
    """
    s_i, s_t = _batch_similarities(images, texts, exchange, reduce)
    rows_i, rows_t = scales[0] * s_i, scales[1] * s_t.T
    target = _targets(rows_i.detach(), groups, exchange.local_loss)
    loss_i, loss_t = F.cross_entropy(rows_i, target), F.cross_entropy(rows_t, target)
    metrics = {
        "loss_image": loss_i.detach(),
        "loss_text": loss_t.detach(),
        "accuracy_image": _accuracy(rows_i, target),
        "accuracy_text": _accuracy(rows_t, target),
        "scale": scales[1].detach(),
    }
    return (loss_i + loss_t) / 2, metrics


def _batch_similarities(images: Features, texts: Features, exchange: Exchange, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """s_i [rows, c] and s_t [c, rows]: rows are this rank's pairs (local loss) or all."""
    product = exchange.dtype
    far_images, far_texts = images, texts
    if exchange.keep < 1:
        far_images = select_tokens(images, texts, exchange.keep)
        far_texts = select_tokens(texts, images, exchange.keep)
    all_images, all_texts = _gather(far_images, product), _gather(far_texts, product)
    if not exchange.local_loss:
        return similarity(all_images, all_texts, product=product, reduce=reduce)
    if world_size() == 1 and exchange.keep == 1:
        return similarity(images, texts, product=product, reduce=reduce)
    return (
        image_similarity(images, all_texts, product=product, reduce=reduce),
        text_similarity(all_images, texts, product=product, reduce=reduce),
    )


def _gather(features: Features, wire: torch.dtype | None) -> Features:
    mask = None if features.mask is None else gather_constant(features.mask)
    return Features(gather_rows(features.tokens, wire), mask)


def _targets(rows: Tensor, groups: Tensor | None, local: bool) -> Tensor:
    """The true column of each of `rows` [rows, columns], [rows] int64; with groups, the share of each column, as `rows`."""
    start = rank() * len(rows) if local else 0
    if groups is None:
        return torch.arange(start, start + len(rows), device=rows.device)
    everyone = gather_constant(groups.to(rows.device))
    same = (everyone[start : start + len(rows), None] == everyone).to(rows.dtype)
    return same / same.sum(1, keepdim=True)


def _accuracy(rows: Tensor, target: Tensor) -> Tensor:
    """Share of rows whose highest column is a true one."""
    best = rows.detach().argmax(1)
    hit = best == target if target.ndim == 1 else target.gather(1, best[:, None]) > 0
    return hit.float().mean()


@torch.no_grad()
def _selection(own: Tensor, others: Tensor, budget: int = 1 << 24) -> Tensor:
    """[b, k] the highest product of each of own's tokens [b, k, d] with any of the other side's tokens [m, d]."""
    chunk = max(1, budget // max(1, own.shape[1] * len(others)))
    return torch.cat([(part @ others.T).amax(2) for part in own.split(chunk)])


def select_tokens(own: Features, others: Features, keep: float) -> Features:
    """The tokens of each sample that matter most to the local batch: highest product with any real token of `others`.

    Of k real tokens ceil(keep * k) stay (FILIP, section 3.1, which tells the rule in one sentence; this is our reading).
    Called on the rank's own features before they are sent. Result [b, ceil(keep * k), d].

    Gradient: the choice itself has none. A token that is not chosen gets no gradient as somebody's match from the far
    side; as a member of its own local picture or text, where all tokens still ask for their best match, it does.
    """
    flat = others.tokens.flatten(0, 1) if others.mask is None else others.tokens[others.mask]
    mask = own.mask if own.mask is not None else own.tokens.new_ones(own.tokens.shape[:2], dtype=torch.bool)
    score = _selection(own.tokens, flat) if len(flat) else own.tokens.new_zeros(mask.shape)
    size = math.ceil(keep * mask.shape[1])
    chosen = score.masked_fill(~mask, -torch.inf).topk(size, dim=1).indices
    tokens = own.tokens.gather(1, chosen[..., None].expand(-1, -1, own.tokens.shape[2]))
    if own.mask is None:
        return Features(tokens)
    kept = (keep * mask.sum(1)).ceil().long()
    real = torch.arange(size, device=tokens.device) < kept[:, None]
    return Features(tokens * real[..., None], real)


def ensemble_similarity(images: Features, prompts: Features, templates: int) -> Tensor:
    """[b, classes]: pictures against classes that are described by several prompts each.

    `prompts` holds classes x templates texts, the templates of a class side by side. Token-wise features: the mean of s_i over a
    class's prompts, because tokens of different sentences do not correspond (FILIP, section 4.1). Global features: the unit mean
    vector, as CLIP does.
    """
    if prompts.is_global:
        mean = prompts.tokens.view(-1, templates, prompts.tokens.shape[2]).mean(1, keepdim=True)
        return image_similarity(images, Features(F.normalize(mean, dim=-1)))
    return image_similarity(images, prompts).view(len(images), -1, templates).mean(2)
