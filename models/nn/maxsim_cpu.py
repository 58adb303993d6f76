"""The inner loops of token-wise max-similarity for processors, compiled by numba: same results as the torch operations.

Torch's maximum with positions reads a block of products once for each direction without vector instructions, and its only fast
way to add rows at given places is a dense product that is almost all zeros. Here one pass over a block that is still in
cache gives maxima and positions of both directions, and gradients are sums of single rows. Compiled at first use (some
seconds, kept on disk where the package's folder can be written).

Letters: b pictures of n patches, c texts of L words, width d; i, j, k, m count them.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import torch
from torch import Tensor

TILE = 8  # samples whose gradients are built together: they and one of the other side stay in a core's cache


@numba.njit(nogil=True, cache=True, fastmath=True)
def _best_of_block(first, last, i0, j0, products, weight, s_i, s_t, best_word, best_patch):
    """One pass over products [pictures, n, texts, L], whose first pair is (i0, j0), for its texts first .. last.

    weight [c, L] of a word in s_t; filled: s_i, s_t [b, c], best_word [b, c, n], best_patch [b, c, L].
    """
    pictures, n, _, length = products.shape
    top = np.empty(length, products.dtype)
    place = np.empty(length, np.int32)
    for i in range(pictures):
        for j in range(first, last):
            top[:] = products[i, 0, j]
            place[:] = 0
            total = 0.0
            for k in range(n):
                highest = products[i, k, j, 0]
                for m in range(1, length):
                    highest = max(highest, products[i, k, j, m])
                where = np.int32(length - 1)
                for m in range(length):
                    where = min(where, np.int32(m) if products[i, k, j, m] == highest else np.int32(length))
                best_word[i0 + i, j0 + j, k] = where
                total += highest
                for m in range(length):
                    higher = products[i, k, j, m] > top[m]
                    top[m] = products[i, k, j, m] if higher else top[m]
                    place[m] = k if higher else place[m]
            s_i[i0 + i, j0 + j] = total / n
            total = 0.0
            for m in range(length):
                best_patch[i0 + i, j0 + j, m] = place[m]
                total += top[m] * weight[j0 + j, m]
            s_t[i0 + i, j0 + j] = total


@numba.njit(nogil=True, cache=True, fastmath=True)
def _pull(first, last, own_best, own_grad, own_weight, other_best, other_grad, other_weight, other, out):
    """Gradient `out` [x, p, d] of one side's tokens, samples first .. last; `other` [y, q, d] are the other side's.

    A token receives its own best match, and every token that chose it, each times what the similarity's gradient [x, y] and the
    token's weight in the mean ([x, p], [y, q]) make of it. own_best [x, y, p] and other_best [x, y, q] are places.
    """
    d = out.shape[2]
    for x0 in range(first, last, TILE):
        for y in range(len(other)):
            for x in range(x0, min(x0 + TILE, last)):
                for p in range(own_best.shape[2]):
                    share, at = own_grad[x, y] * own_weight[x, p], own_best[x, y, p]
                    for e in range(d):
                        out[x, p, e] += share * other[y, at, e]
                for q in range(other_best.shape[2]):
                    share, at = other_grad[x, y] * other_weight[y, q], other_best[x, y, q]
                    for e in range(d):
                        out[x, at, e] += share * other[y, q, e]


def threads() -> ThreadPoolExecutor:
    """As many threads as torch uses, for the functions below; the loops let the interpreter go. A context manager."""
    return ThreadPoolExecutor(torch.get_num_threads())


def _share_out(pool: ThreadPoolExecutor, loop: Callable[[int, int], None], count: int) -> None:
    """Run loop(first, last) over 0 .. count in equal parts, one a thread."""
    parts = min(torch.get_num_threads(), count)
    edges = [count * part // parts for part in range(parts + 1)]
    if parts == 1:
        loop(0, count)
    else:
        list(pool.map(loop, edges[:-1], edges[1:]))


def best_of_block(pool: ThreadPoolExecutor, products: Tensor, i0: int, j0: int, *filled: Tensor) -> None:
    """Maxima, means and places of a block: contiguous products [pictures, n, texts, L] of the pairs from (i0, j0) on.

    `filled` are contiguous: weight [c, L], then s_i, s_t [b, c], best_word [b, c, n], best_patch [b, c, L], which are written.
    """
    arrays = [x.numpy() for x in filled]
    block = products.numpy()
    _share_out(pool, lambda first, last: _best_of_block(first, last, i0, j0, block, *arrays), products.shape[2])


def gradients(
    patches: Tensor,
    words: Tensor,
    weight: Tensor,
    best_word: Tensor | None,
    best_patch: Tensor | None,
    grad_i: Tensor | None,
    grad_t: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Gradients of patches [b, n, d] and words [c, L, d] from those of s_i and s_t, [b, c] each.

    A direction that was not wanted has neither places nor gradient (None).
    """
    pairs = (len(patches), len(words))
    nowhere, nothing = torch.empty(*pairs, 0, dtype=torch.uint8), patches.new_zeros(pairs)
    v, t, w = (x.detach().contiguous().numpy() for x in (patches, words, weight))
    to_word, to_patch = ((nowhere if x is None else x).numpy() for x in (best_word, best_patch))
    g_i, g_t = ((nothing if x is None else x.contiguous()).numpy() for x in (grad_i, grad_t))
    mean = np.full(v.shape[:2], 1 / v.shape[1], v.dtype)
    grad_v, grad_w = np.zeros_like(v), np.zeros_like(t)
    by_text = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in (to_patch, g_t, to_word, g_i)]
    for_patches = (to_word, g_i, mean, to_patch, g_t, w, t, grad_v)
    for_words = (by_text[0], by_text[1], w, by_text[2], by_text[3], mean, v, grad_w)
    with threads() as pool:
        _share_out(pool, lambda first, last: _pull(first, last, *for_patches), len(v))
        _share_out(pool, lambda first, last: _pull(first, last, *for_words), len(t))
    return torch.from_numpy(grad_v), torch.from_numpy(grad_w)
