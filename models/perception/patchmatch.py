"""Inpainting by example: fill a hole with patches of the rest of the picture, from coarse to fine. No weights.

Wexler, Shechtman and Irani, "Space-Time Completion of Video" (2007): repeat (find for each patch in the hole its nearest patch
outside; let the found patches vote for each pixel) on a pyramid. Barnes et al., "PatchMatch" (2009), finds the patches. As in
Darabi et al., "Image Melding" (2012), patches vote for gradients too, which are integrated, so that two skies of different
brightness meet without a seam; strong edges keep their voted colours. Near sources are preferred: sky stays up, ground down.

It continues textures and straight borders. It knows no things: half an object at the hole's edge is not completed.

Letters: h, w = height, width; pictures are float32 [h, w, 3] in 0..1; a patch has 2 RADIUS + 1 pixels a side. A field
[h, w, 2] holds for each target (the centre of a patch that reaches into the hole) the centre (y, x) of its nearest patch.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit

RADIUS = 3
PULL = np.float32(0.02)
"""Weight of the coarser level's colours against the gradients."""
EDGE = np.float32(0.1)
"""Colour distance from which a step between neighbouring votes is an edge to keep, not a seam to smooth."""


class PatchMatch:
    """Inpainter by example, deterministic for a seed.

    Args:
        seed: of the random search.
        nearness: what a source one picture diagonal away costs, in mean squared colour distance.
    """

    def __init__(self, seed: int | str = 0, nearness: float = 0.3):
        self.seed, self.nearness = int(seed), nearness

    def inpaint(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Fill the masks [h, w]. A picture without one whole patch outside its mask is filled smoothly (Navier-Stokes)."""
        return [self._fill(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _fill(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        if not mask.any():
            return image.copy()
        levels = pyramid(image.astype(np.float32) / 255, mask)
        if not sources(mask).any():
            return _smooth(image, mask)
        picture, hole = levels[-1]
        coarse = _smooth((picture * 255).astype(np.uint8), hole).astype(np.float32) / 255
        spots = np.argwhere(sources(hole))
        field = spots[np.random.default_rng(self.seed).integers(len(spots), size=hole.shape)].astype(np.int32)
        guess = self._iterate(np.where(hole[:, :, None], coarse, picture), None, hole, field, 4 + 2 * len(levels))
        for level in range(len(levels) - 2, -1, -1):
            picture, hole = levels[level]
            field = finer(field, hole.shape)
            anchor = cv2.resize(guess, (hole.shape[1], hole.shape[0]), interpolation=cv2.INTER_LINEAR)
            start = np.where(hole[:, :, None], anchor, picture)
            guess = self._iterate(start, anchor, hole, field, 4 + 2 * level if level else 1)
        return np.where(mask[:, :, None], np.round(guess * 255).astype(np.uint8), image)

    def _iterate(
        self, guess: np.ndarray, anchor: np.ndarray | None, hole: np.ndarray, field: np.ndarray, rounds: int
    ) -> np.ndarray:
        """Search (changes `field` in place) and vote `rounds` times; a finer level first votes with the field it was given."""
        source, spots = sources(hole), np.argwhere(sources(hole)).astype(np.int32)
        targets = np.argwhere(dilate(hole)).astype(np.int32)
        trust = (1.3 ** -cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)).astype(np.float32)
        cost = np.ones(hole.shape, np.float32)
        near = np.float32(self.nearness / (hole.shape[0] ** 2 + hole.shape[1] ** 2))
        inside = np.argwhere(hole).astype(np.int32)

        def blend(guess: np.ndarray, targets: np.ndarray) -> np.ndarray:
            """The patches' votes, with seams smoothed and low frequencies from `anchor` (None: from the votes)."""
            voted, right, down = _vote(guess, hole, targets, field, cost, trust)
            low = voted if anchor is None else np.ascontiguousarray(anchor, dtype=np.float32)
            return _integrate(voted, low, right, down, inside, 60)

        guess = np.ascontiguousarray(guess, dtype=np.float32)
        if anchor is not None:
            guess = blend(guess, targets[source[tuple(np.moveaxis(field[tuple(targets.T)], 1, 0))]])
        for turn in range(rounds):
            _search(guess, source, targets, field, cost, spots, near, self.seed + 7919 * turn)
            guess = blend(guess, targets)
        return guess


def finer(field: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The field of the next finer level, of size `shape`: the same patches, at twice the coordinates."""
    rows = np.minimum(np.arange(shape[0]) // 2, field.shape[0] - 1)
    columns = np.minimum(np.arange(shape[1]) // 2, field.shape[1] - 1)
    odd = np.moveaxis(np.indices(shape), 0, 2) % 2
    return np.minimum(field[rows][:, columns] * 2 + odd, np.array(shape) - 1).astype(np.int32)


def pyramid(picture: np.ndarray, hole: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Picture float32 [h, w, 3] and hole bool [h, w], halved until the hole is thin, while whole patches outside it remain."""
    levels = [(picture, hole)]
    while True:
        picture, hole = levels[-1]
        depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3).max()
        size = (picture.shape[1] + 1) // 2, (picture.shape[0] + 1) // 2
        if depth <= 2 or min(size) < 8 * RADIUS:
            return levels
        known = (~hole).astype(np.float32)
        weight = cv2.resize(known, size, interpolation=cv2.INTER_AREA)
        smaller = cv2.resize(picture * known[:, :, None], size, interpolation=cv2.INTER_AREA)
        smaller /= np.maximum(weight, 1e-6)[:, :, None]
        if sources(weight < 0.5).mean() < 0.1:
            return levels
        levels.append((smaller, weight < 0.5))


def sources(hole: np.ndarray) -> np.ndarray:
    """Centres [h, w] of patches that lie inside the picture and wholly outside `hole`."""
    inside = np.zeros(hole.shape, bool)
    inside[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    return inside & ~dilate(hole)


def dilate(hole: np.ndarray) -> np.ndarray:
    """Centres [h, w] of patches that reach into `hole`."""
    return cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)).astype(bool)


def _smooth(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    filled = cv2.inpaint(image, mask.astype(np.uint8), 3, cv2.INPAINT_NS)
    return np.where(mask[:, :, None], filled, image)


@njit(cache=True, nogil=True)
def _distance(guess, ty, tx, sy, sx, near, best):  # pragma: no cover - compiled
    """Mean squared distance of two patches, over the part of the target that lies in the picture; stops above `best`."""
    height, width = guess.shape[:2]
    y0, y1 = max(-RADIUS, -ty), min(RADIUS, height - 1 - ty)
    x0, x1 = max(-RADIUS, -tx), min(RADIUS, width - 1 - tx)
    count = (y1 - y0 + 1) * (x1 - x0 + 1)
    total = near * ((ty - sy) * (ty - sy) * 4 + (tx - sx) * (tx - sx)) * count
    limit = best * count
    for dy in range(y0, y1 + 1):
        for dx in range(x0, x1 + 1):
            for c in range(3):
                difference = guess[ty + dy, tx + dx, c] - guess[sy + dy, sx + dx, c]
                total += difference * difference
        if total > limit:
            return np.float32(np.inf)
    return np.float32(total / count)


@njit(cache=True, nogil=True)
def _search(guess, source, targets, field, cost, spots, near, seed):  # pragma: no cover - compiled
    """Improve `field` [h, w, 2] and `cost` [h, w] in place: two passes of propagation and random search (PatchMatch, 3.2)."""
    height, width = source.shape
    state = np.uint64(seed) * np.uint64(2654435761) + np.uint64(88172645463325252)
    infinite = np.float32(np.inf)
    is_target = np.zeros((height, width), np.bool_)
    for i in range(len(targets)):
        ty, tx = targets[i]
        is_target[ty, tx] = True
        sy, sx = field[ty, tx]
        if sy < 0 or sx < 0 or sy >= height or sx >= width or not source[sy, sx]:
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            sy, sx = spots[np.int64(state >> np.uint64(33)) % len(spots)]
            field[ty, tx, 0], field[ty, tx, 1] = sy, sx
        cost[ty, tx] = _distance(guess, ty, tx, sy, sx, near, infinite)
    for turn in range(2):
        step = 1 if turn == 0 else -1
        for i in range(len(targets)):
            ty, tx = targets[i if turn == 0 else len(targets) - 1 - i]
            best = cost[ty, tx]
            for k in range(2):
                ny, nx = (ty - step, tx) if k == 0 else (ty, tx - step)
                if 0 <= ny < height and 0 <= nx < width and is_target[ny, nx]:
                    sy, sx = field[ny, nx, 0] + (ty - ny), field[ny, nx, 1] + (tx - nx)
                    if 0 <= sy < height and 0 <= sx < width and source[sy, sx]:
                        found = _distance(guess, ty, tx, sy, sx, near, best)
                        if found < best:
                            best = found
                            field[ty, tx, 0], field[ty, tx, 1] = sy, sx
            span = max(height, width)
            while span >= 1:
                state ^= state << np.uint64(13)
                state ^= state >> np.uint64(7)
                state ^= state << np.uint64(17)
                sy = field[ty, tx, 0] + np.int64(state >> np.uint64(40)) % (2 * span + 1) - span
                sx = field[ty, tx, 1] + np.int64((state >> np.uint64(16)) & np.uint64(0xFFFFFF)) % (2 * span + 1) - span
                if 0 <= sy < height and 0 <= sx < width and source[sy, sx]:
                    found = _distance(guess, ty, tx, sy, sx, near, best)
                    if found < best:
                        best = found
                        field[ty, tx, 0], field[ty, tx, 1] = sy, sx
                span //= 2
            cost[ty, tx] = best


@njit(cache=True, nogil=True)
def _vote(guess, hole, targets, field, cost, trust):  # pragma: no cover - compiled
    """What the patches over each pixel say, weighted (Wexler et al., eq. 3): colours in the hole, steps right and down."""
    height, width = hole.shape
    values, right, down = np.zeros_like(guess), np.zeros_like(guess), np.zeros_like(guess)
    weights, right_weights, down_weights = np.zeros_like(cost), np.zeros_like(cost), np.zeros_like(cost)
    costs = np.empty(len(targets), np.float32)
    for i in range(len(targets)):
        costs[i] = cost[targets[i, 0], targets[i, 1]]
    scale = max(np.percentile(costs, 30), 1e-6)
    for i in range(len(targets)):
        ty, tx = targets[i]
        sy, sx = field[ty, tx]
        weight = np.exp(-cost[ty, tx] / (2 * scale)) * trust[ty, tx] + 1e-12
        for dy in range(-RADIUS, RADIUS + 1):
            for dx in range(-RADIUS, RADIUS + 1):
                y, x = ty + dy, tx + dx
                if not (0 <= y < height and 0 <= x < width):
                    continue
                weights[y, x] += weight
                right_weights[y, x] += weight if dx < RADIUS else 0
                down_weights[y, x] += weight if dy < RADIUS else 0
                for c in range(3):
                    here = guess[sy + dy, sx + dx, c]
                    values[y, x, c] += weight * here
                    if dx < RADIUS:
                        right[y, x, c] += weight * (guess[sy + dy, sx + dx + 1, c] - here)
                    if dy < RADIUS:
                        down[y, x, c] += weight * (guess[sy + dy + 1, sx + dx, c] - here)
    for y in range(height):
        for x in range(width):
            for c in range(3):
                values[y, x, c] = (
                    values[y, x, c] / weights[y, x] if hole[y, x] and weights[y, x] > 0 else guess[y, x, c]
                )
                right[y, x, c] /= max(right_weights[y, x], 1e-20)
                down[y, x, c] /= max(down_weights[y, x], 1e-20)
    return values, right, down


@njit(cache=True, nogil=True)
def _keep_edges(voted, step, below):  # pragma: no cover - compiled
    """Where the voted colours step by more than `EDGE` from what `step` says, let `step` be their step. Changes it in place."""
    height, width = voted.shape[:2]
    for y in range(height - below):
        for x in range(width - (1 - below)):
            gap = np.float32(0)
            for c in range(3):
                gap += (voted[y + below, x + 1 - below, c] - voted[y, x, c] - step[y, x, c]) ** 2
            seam = np.exp(-gap / (EDGE * EDGE))
            for c in range(3):
                difference = voted[y + below, x + 1 - below, c] - voted[y, x, c]
                step[y, x, c] = seam * step[y, x, c] + (1 - seam) * difference


@njit(cache=True, nogil=True)
def _integrate(voted, anchor, right, down, hole, rounds):  # pragma: no cover - compiled
    """Colours [h, w, 3] whose steps are `right` and `down` and that stay near `anchor`, in the pixels `hole` [n, 2] (y, x).

    Screened Poisson equation, by successive over-relaxation in alternating directions, from `anchor` on.
    """
    height, width = voted.shape[:2]
    _keep_edges(voted, right, 0)
    _keep_edges(voted, down, 1)
    new = voted.copy()
    for i in range(len(hole)):
        new[hole[i, 0], hole[i, 1]] = anchor[hole[i, 0], hole[i, 1]]
    for turn in range(rounds):
        for k in range(len(hole)):
            y, x = hole[k if turn % 2 == 0 else len(hole) - 1 - k]
            for c in range(3):
                total, weight = PULL * anchor[y, x, c], PULL
                if x + 1 < width:
                    total, weight = total + new[y, x + 1, c] - right[y, x, c], weight + 1
                if x > 0:
                    total, weight = total + new[y, x - 1, c] + right[y, x - 1, c], weight + 1
                if y + 1 < height:
                    total, weight = total + new[y + 1, x, c] - down[y, x, c], weight + 1
                if y > 0:
                    total, weight = total + new[y - 1, x, c] + down[y - 1, x, c], weight + 1
                new[y, x, c] += np.float32(1.6) * (total / weight - new[y, x, c])
    for i in range(len(hole)):
        for c in range(3):
            new[hole[i, 0], hole[i, 1], c] = min(max(new[hole[i, 0], hole[i, 1], c], 0), 1)
    return new
