"""The inner loops of token-wise max-similarity for processors, compiled by numba: same results as the torch operations.

Torch's maximum with positions reads a block of products once for each direction without vector instructions, and its only fast
way to add rows at given places is a dense product that is almost all zeros. Here one pass over a block that is still in
cache gives maxima and positions of both directions, and gradients are weighted sums of listed rows. Compiled at first use (some
seconds, kept on disk where the package's folder can be written).

Letters: b pictures of n patches, c texts of L words, width d; i, j, k, m count them.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OWN, OTHER = 64, 16  # samples whose gradients are built together, from so many of the other side: these stay in cache


@numba.njit(nogil=True, cache=True, fastmath=True)
def _best_of_block(i0, j0, products, weight, s_i, s_t, best_word, best_patch):
    """One pass over products [pictures, n, texts, L], whose first pair is (i0, j0).

    weight [c, L] of a word in s_t; filled: s_i, s_t [b, c], best_word [b, c, n], best_patch [b, c, L].
    """
    pictures, n, texts, length = products.shape
    top = np.empty(length, products.dtype)
    place = np.empty(length, np.int32)
    for i in range(pictures):
        for j in range(texts):
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


@numba.njit(nogil=True, cache=True)
def _list_shares(x0, x1, y0, y1, filled, own_best, own_grad, own_weight, other_best, other_grad, other_weight):
    """For each token of samples x0 .. x1: the tokens of y0 .. y1 that its gradient is made of, and their shares.

    A token receives its own best match, and every token that chose it, each times what the similarity's gradient [x, y] and the
    token's weight in the mean ([x, p], [y, q]) make of it. own_best [x, y, p] and other_best [x, y, q] are places. `filled` are
    rows and shares, one behind the other, token by token, and starts: where each token's begin.
    """
    rows, shares, starts = filled
    p_count, p_places = own_weight.shape[1], own_best.shape[2]  # no places where a direction was not wanted
    q_count, q_places = other_weight.shape[1], other_best.shape[2]
    free = np.empty(p_count, np.int32)
    for x in range(x0, x1):
        free[:] = y1 - y0 if p_places else 0
        for y in range(y0, y1):
            for q in range(q_places):
                free[other_best[x, y, q]] += 1
        start = (x - x0) * (y1 - y0) * (p_places + q_places)
        for p in range(p_count):
            starts[(x - x0) * p_count + p] = start
            start, free[p] = start + free[p], start
        for y in range(y0, y1):
            for p in range(p_places):
                k = free[p]
                free[p] = k + 1
                rows[k] = (y - y0) * q_count + own_best[x, y, p]
                shares[k] = own_grad[x, y] * own_weight[x, p]
            for q in range(q_places):
                p = other_best[x, y, q]
                k = free[p]
                free[p] = k + 1
                rows[k] = (y - y0) * q_count + q
                shares[k] = other_grad[x, y] * other_weight[y, q]


def spread(work: Callable[[int, int], None]) -> None:
    """Call work(part, parts) for every part, as many as torch has threads, each on a thread of its own.

    Torch's operations inside run on that thread alone: parts never wait for one another. (Threads that compute a product together
    spin when it is done, and would keep our loops off the cores.) Gradients must not be tracked inside: pass detached tensors.
    """
    parts = torch.get_num_threads()
    if parts == 1:
        return work(0, 1)
    try:
        with ThreadPoolExecutor(parts, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, range(parts), [parts] * parts))
    finally:
        torch.set_num_threads(parts)  # of this thread it never changed, but threads that start later inherit the last


def best_of_block(products: Tensor, i0: int, j0: int, *filled: Tensor) -> None:
    """Maxima, means and places of a block: contiguous products [pictures, n, texts, L] of the pairs from (i0, j0) on.

    `filled` are contiguous: weight [c, L], then s_i, s_t [b, c], best_word [b, c, n], best_patch [b, c, L], which are written.
    """
    _best_of_block(i0, j0, products.numpy(), *(x.numpy() for x in filled))


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
    v, t = patches.detach().contiguous(), words.detach().contiguous()
    to_word, to_patch = (nowhere if x is None else x for x in (best_word, best_patch))
    g_i, g_t = (nothing if x is None else x for x in (grad_i, grad_t))
    mean = v.new_full(v.shape[:2], 1 / v.shape[1])
    by_text = [x.transpose(0, 1) for x in (to_patch, g_t, to_word, g_i)]
    grad_v = _sums(t, to_word, g_i, mean, to_patch, g_t, weight)
    grad_w = _sums(v, *by_text[:2], weight, *by_text[2:], mean)
    return grad_v, grad_w


def _sums(other: Tensor, *matches: Tensor) -> Tensor:
    """Gradient [x, p, d] of one side's tokens from the other side's tokens `other` [y, q, d] and `_list_shares`' matches.

    Tile by tile: the tokens that are added stay in a core's cache, and torch's `embedding_bag` adds them in registers.
    """
    own_best, _, own_weight, other_best, _, _ = matches
    (x_count, p_count), per_pair = own_weight.shape, own_best.shape[2] + other_best.shape[2]
    arrays: list[Any] = [x.contiguous().numpy() for x in matches]
    out = other.new_zeros(x_count, p_count, other.shape[2])

    def fill(part: int, parts: int) -> None:
        room = min(OWN, x_count) * min(OTHER, len(other)) * per_pair
        rows, shares = torch.empty(room, dtype=torch.int32), other.new_empty(room)
        starts = torch.empty(min(OWN, x_count) * p_count, dtype=torch.int32)
        filled = rows.numpy(), shares.numpy(), starts.numpy()
        first, last = (x_count * edge // parts for edge in (part, part + 1))
        for x0, y0 in product(range(first, last, OWN), range(0, len(other), OTHER)):
            x1, y1 = min(x0 + OWN, last), min(y0 + OTHER, len(other))
            _list_shares(x0, x1, y0, y1, filled, *arrays)
            listed, bags = (x1 - x0) * (y1 - y0) * per_pair, starts[: (x1 - x0) * p_count]
            tokens, weights = other[y0:y1].flatten(0, 1), shares[:listed]
            sums = F.embedding_bag(rows[:listed], tokens, bags, mode="sum", per_sample_weights=weights)
            out[x0:x1] += sums.view(x1 - x0, p_count, -1)

    spread(fill)
    return out
