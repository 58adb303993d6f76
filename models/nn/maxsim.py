"""Token-wise max-similarity (FILIP, arXiv 2111.07783, equations 4 and 5), exact, in blocks, with a backward pass of its own.

Letters: b pictures of n patches, c texts of L words, width d.

    s_i[i, j] = mean over patches k of            max over real words l of <patch_ik, word_jl>
    s_t[i, j] = mean over real words l of         max over patches k of    <patch_ik, word_jl>

All products together are b x c x n x L numbers: 411 MB at b = c = 256, n = 49, L = 32, which autograd then copies. Here
a block of products lives only until its maxima and their positions are known; the backward pass needs nothing but the
tokens and those positions, because the gradient of a maximum flows only through the winning pair.

A text without any real word has no best match: both of its similarities are 0, with no gradient.

ColBERT (arXiv 2004.12832) sums where FILIP takes the mean. A sum is n times (s_i), or the text's number of real words times
(s_t), the mean: at one temperature each row of logits is that many times colder, but its order is the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Pads = Literal["exclude", "zero"]
Wanted = Literal["both", "image", "text"]
Reduce = Literal["mean", "sum"]

CPU_BLOCK = 1 << 20  # products held at once: 4 MB in fp32, which stays in cache
GPU_BLOCK = 1 << 26  # 128 MB in fp16: large enough that starting a kernel costs nothing


def token_similarity(
    patches: Tensor,
    words: Tensor,
    mask: Tensor | None = None,
    *,
    wanted: Wanted = "both",
    pads: Pads = "exclude",
    reduce: Reduce = "mean",
    product: torch.dtype | None = None,
    block: int | None = None,
    compiled: bool | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """Both token-wise similarities of all pairs, (s_i, s_t), each [b, c] in fp32 (fp64 for fp64 tokens).

    Args:
        patches: [b, n, d] picture tokens. No padding: every one counts.
        words: [c, L, d] text tokens.
        mask: [c, L], True for real words; None when all are real.
        wanted: "image" or "text" leaves the other similarity out (None), where a rank needs only one of them.
        pads: "exclude" is the paper's rule. "zero" lets a padded place compete as a zero vector in s_i, as the code released with
            Wukong does: a patch whose real matches are all negative then scores 0.
        reduce: "mean" over the best matches is the paper's; "sum" is ColBERT's.
        product: type of the matrix products (FILIP uses fp16); None keeps that of the tokens. Means and gradients stay in fp32.
        block: how many products to hold at once; None chooses by device.
        compiled: use the compiled loops of `maxsim_cpu`. None uses them where they apply (processor, fp32 or fp64 products) and
            numba is installed. Torch's operations give the same result, more slowly there.
    """
    real = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device) if mask is None else mask
    count = real.sum(1)
    weight = real.to(torch.promote_types(patches.dtype, torch.float32)) / count.clamp(min=1)[:, None]
    if mask is not None:
        words = _fill_pads(words, mask) if pads == "exclude" else words * mask[..., None]
    plan = _plan(patches, wanted, product, block, compiled)
    with torch.autocast(patches.device.type, enabled=False):
        s_i, s_t = _TokenSimilarity.apply(patches, words, weight, plan)
    terms_i, terms_t = (count > 0, 1) if reduce == "mean" else ((count > 0) * patches.shape[1], count)
    return (s_i * terms_i if s_i is not None else None), (s_t * terms_t if s_t is not None else None)


def _plan(
    patches: Tensor, wanted: Wanted, product: torch.dtype | None, block: int | None, compiled: bool | None
) -> "_Plan":
    processor = patches.device.type == "cpu"
    if compiled is None:
        exact = (product or patches.dtype) == patches.dtype and patches.dtype in (torch.float32, torch.float64)
        compiled = processor and exact and find_spec("numba") is not None
    return _Plan(wanted, product, block or (CPU_BLOCK if processor else GPU_BLOCK), compiled)


def _fill_pads(words: Tensor, mask: Tensor) -> Tensor:
    """Put the text's first real word in each padded place: no maximum changes, and blocks need no masking pass."""
    places = torch.arange(words.shape[1], device=words.device)
    source = torch.where(mask, places, mask.int().argmax(1)[:, None])
    return words.gather(1, source[..., None].expand_as(words))


@dataclass(frozen=True)
class _Plan:
    """How to go through the products: which similarities are wanted, in which type, how many at once, by which loops."""

    wanted: Wanted
    product: torch.dtype | None
    block: int
    compiled: bool

    def blocks(self, b: int, n: int, c: int, length: int) -> Iterator[tuple[slice, slice]]:
        """Blocks of pictures and texts of about `block` products, about as many patches as words; at least one pair."""
        texts = max(1, min(c, round(self.block**0.5) // length))
        pictures = max(1, min(b, self.block // (n * length * texts)))
        for j in range(0, c, texts):
            for i in range(0, b, pictures):
                yield slice(i, min(i + pictures, b)), slice(j, min(j + texts, c))

    def products(self, v: Tensor, t: Tensor, part: int = 0, parts: int = 1) -> Iterator[tuple[slice, slice, Tensor]]:
        """Every parts-th block with its products [pictures, n, texts, L], one after the other in the same memory."""
        (b, n, _), (c, length, _) = v.shape, t.shape
        memory = v.new_empty(0)
        for i, j in islice(self.blocks(b, n, c, length), part, None, parts):
            rows, columns = (i.stop - i.start) * n, (j.stop - j.start) * length
            if len(memory) < rows * columns:
                memory = v.new_empty(rows * columns)
            block = memory[: rows * columns].view(rows, columns)
            torch.mm(v[i].flatten(0, 1), t[j].flatten(0, 1).T, out=block)
            yield i, j, block.view(i.stop - i.start, n, j.stop - j.start, length)


class _TokenSimilarity(torch.autograd.Function):
    """(s_i, s_t) for filled words [c, L, d] and the weight [c, L] of each word in the mean over words (0 for pads)."""

    @staticmethod
    def forward(ctx, patches: Tensor, words: Tensor, weight: Tensor, plan: _Plan):
        v, t = (x.to(plan.product or x.dtype) for x in (patches, words))
        track = any(ctx.needs_input_grad[:2])
        if plan.compiled and track:
            s_i, s_t, best_word, best_patch = _compiled_forward(v, t, weight, plan)
        else:
            s_i, s_t, best_word, best_patch = _forward(v, t, weight, plan, track)
        ctx.plan = plan
        ctx.save_for_backward(patches, words, weight, best_word, best_patch)
        return s_i, s_t

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_i: Tensor | None, grad_t: Tensor | None):
        patches, words, weight, best_word, best_patch = ctx.saved_tensors
        if ctx.plan.compiled:
            from lt.models.nn.maxsim_cpu import gradients

            grad_v, grad_w = gradients(patches, words, weight, best_word, best_patch, grad_i, grad_t)
        else:
            grad_v, grad_w = _gradients(patches, words, weight, best_word, best_patch, grad_i, grad_t, ctx.plan)
        return grad_v.to(patches.dtype), grad_w.to(words.dtype), None, None


Forward = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _forward(v: Tensor, t: Tensor, weight: Tensor, plan: _Plan, track: bool) -> Forward:
    """s_i, s_t [b, c] and, where tracked, the places of maxima: best_word [b, c, n], best_patch [b, c, L]. Unwanted: None."""
    (b, n, _), (c, length, _) = v.shape, t.shape
    s_i = weight.new_empty(b, c) if plan.wanted != "text" else None
    s_t = weight.new_empty(b, c) if plan.wanted != "image" else None
    best_word = _places((b, c, n), length, v.device) if track and s_i is not None else None
    best_patch = _places((b, c, length), n, v.device) if track and s_t is not None else None
    for i, j, products in plan.products(v, t):
        if s_i is not None:
            best = _best(products, 3, None if best_word is None else best_word[i, j].transpose(1, 2))
            s_i[i, j] = best.to(weight.dtype).mean(1)
        if s_t is not None:
            best = _best(products, 1, None if best_patch is None else best_patch[i, j])
            s_t[i, j] = (best * weight[j]).sum(2)
    return s_i, s_t, best_word, best_patch


def _compiled_forward(v: Tensor, t: Tensor, weight: Tensor, plan: _Plan) -> Forward:
    """As `_forward` with places. One pass over a block gives both directions; what is not wanted is dropped afterwards."""
    from lt.models.nn.maxsim_cpu import best_of_block, spread

    (b, n, _), (c, length, _) = v.shape, t.shape
    s_i, s_t = weight.new_empty(b, c), weight.new_empty(b, c)
    best_word, best_patch = _places((b, c, n), length, v.device), _places((b, c, length), n, v.device)
    v, t, weight = v.detach(), t.detach(), weight.detach()

    def fill(part: int, parts: int) -> None:
        for i, j, products in plan.products(v, t, part, parts):
            best_of_block(products, i.start, j.start, weight, s_i, s_t, best_word, best_patch)

    spread(fill)
    broken = 0 * (v.sum() + t.sum())  # NaN if any token is not finite, which maxima may swallow; else 0
    image = (s_i + broken, best_word) if plan.wanted != "text" else (None, None)
    text = (s_t + broken, best_patch) if plan.wanted != "image" else (None, None)
    return image[0], text[0], image[1], text[1]


def _gradients(
    patches: Tensor,
    words: Tensor,
    weight: Tensor,
    best_word: Tensor | None,
    best_patch: Tensor | None,
    grad_i: Tensor | None,
    grad_t: Tensor | None,
    plan: _Plan,
) -> tuple[Tensor, Tensor]:
    """By matrix products: each winning pair's share of the gradient is put into a block of zeros, which meets the tokens."""
    (b, n, _), (c, length, _) = patches.shape, words.shape
    v, t = (x.to(plan.product or x.dtype) for x in (patches, words))
    grad_v, grad_w = (torch.zeros_like(x, dtype=weight.dtype) for x in (patches, words))
    for i, j in plan.blocks(b, n, c, length):
        share = weight.new_zeros(i.stop - i.start, n, j.stop - j.start, length)
        if best_word is not None and grad_i is not None:
            source = (grad_i[i, None, j] / n)[..., None].expand(-1, n, -1, 1)
            share.scatter_(3, best_word[i, j].transpose(1, 2)[..., None].long(), source)
        if best_patch is not None and grad_t is not None:
            source = (grad_t[i, j, None] * weight[j])[:, None]
            share.scatter_add_(1, best_patch[i, None, j].long(), source)
        share = share.flatten(2).flatten(0, 1)
        grad_v[i] += _product(share, t[j].flatten(0, 1)).view_as(grad_v[i])
        grad_w[j] += _product(share.T, v[i].flatten(0, 1)).view_as(grad_w[j])
    return grad_v, grad_w


def _places(shape: tuple[int, ...], choices: int, device: torch.device) -> Tensor:
    """Room for the places of maxima among so many choices, in the smallest type that holds them."""
    dtype = torch.uint8 if choices <= 256 else torch.int16 if choices <= 32768 else torch.int32
    return torch.empty(shape, dtype=dtype, device=device)


def _best(products: Tensor, dim: int, place: Tensor | None) -> Tensor:
    """Maximum along `dim`; its place is written into `place` where that is wanted."""
    if place is None:
        return products.amax(dim)
    value, where = products.max(dim)
    place.copy_(where)
    return value


def _product(share: Tensor, tokens: Tensor) -> Tensor:
    """`share` [x, y] @ `tokens` [y, d]. Shares are of order 1 / (batch x n): they are scaled up before they are put into fp16."""
    if share.dtype == tokens.dtype:
        return share @ tokens
    scale = share.abs().amax().clamp(min=torch.finfo(share.dtype).tiny)
    return ((share / scale).to(tokens.dtype) @ tokens).to(share.dtype) * scale
