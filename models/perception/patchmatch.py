"""Inpainting by example: fill a hole with patches of the rest of the picture, from coarse to fine. No weights.

Wexler, Shechtman and Irani, "Space-Time Completion of Video" (2007): repeat (find for each patch in the hole its nearest patch
outside; let the found patches vote for each pixel) on a pyramid; Barnes et al., "PatchMatch" (2009), finds the patches. What
differs: votes are weighted by distance to the hole's edge too, and near sources are preferred: sky stays up, ground down.

It continues textures and straight borders. It knows no things: half an object at the hole's edge is not completed.

Letters: h, w = height, width; n = pixels whose patch reaches into the hole; P = patch side.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numba import njit

RADIUS = 3
"""Half patch: P = 7 pixels."""


class PatchMatch:
    """Inpainter by example, deterministic for a seed.

    Args:
        seed: of the random search.
        nearness: what a source one picture diagonal away costs, in mean squared colour distance (colours in 0..1).
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
        filled = _smooth(image, mask)
        if not sources(levels[0][1]).any():
            return filled
        field, guess = None, None
        for level in range(len(levels) - 1, -1, -1):
            picture, hole = levels[level]
            if field is None:
                first = _smooth((picture * 255).astype(np.uint8), hole).astype(np.float32) / 255
            else:
                first = cv2.resize(guess, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            guess = np.where(hole[:, :, None], first, picture)
            field, guess = self._level(guess, hole, field, rounds=2 if level == 0 else 4 + 2 * level)
        return np.where(mask[:, :, None], np.round(guess * 255).astype(np.uint8), image)

    def _level(self, guess: np.ndarray, hole: np.ndarray, field: np.ndarray | None, rounds: int):
        """Search and vote `rounds` times; the field [h, w, 2] of nearest patches (y, x) and the new guess."""
        height, width = hole.shape
        source = sources(hole)
        targets = np.argwhere(cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)).astype(bool))
        targets = targets.astype(np.int32)
        spots = np.argwhere(source).astype(np.int32)
        start = np.zeros((height, width, 2), np.int32)
        if field is None:
            rng = np.random.default_rng(self.seed)
            start[tuple(targets.T)] = spots[rng.integers(len(spots), size=len(targets))]
        else:
            rows = np.minimum(np.arange(height) // 2, field.shape[0] - 1)
            columns = np.minimum(np.arange(width) // 2, field.shape[1] - 1)
            start = field[rows][:, columns] * 2 + np.stack(np.indices((height, width)), axis=2) % 2
            start = start.astype(np.int32)
        depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 3)
        trust = (1.3**-depth).astype(np.float32)
        cost = np.empty((height, width), np.float32)
        near = np.float32(self.nearness / (height**2 + width**2))
        guess = np.ascontiguousarray(guess, dtype=np.float32)
        if (
            field is not None
        ):  # the finer picture's own pixels from where the coarser field points: sharp from the start
            start[~source[tuple(np.moveaxis(start.clip(0, (height - 1, width - 1)), 2, 0))]] = -1
            cost[:] = 1
            guess = _vote(guess, hole, targets[start[tuple(targets.T)][:, 0] >= 0], start, cost, trust)
        for turn in range(rounds):
            _search(guess, source, targets, start, cost, spots, near, self.seed + 7919 * turn)
            guess = _vote(guess, hole, targets, start, cost, trust)
        return start, guess


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
    reach = cv2.dilate(hole.astype(np.uint8), np.ones((2 * RADIUS + 1,) * 2, np.uint8)) == 0
    inside = np.zeros_like(reach)
    inside[RADIUS:-RADIUS, RADIUS:-RADIUS] = True
    return reach & inside


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
    """The new guess: each hole pixel is the weighted mean of what the patches over it say (Wexler et al., eq. 3)."""
    height, width = hole.shape
    values = np.zeros((height, width, 3), np.float32)
    weights = np.zeros((height, width), np.float32)
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
                if 0 <= y < height and 0 <= x < width and hole[y, x]:
                    weights[y, x] += weight
                    for c in range(3):
                        values[y, x, c] += weight * guess[sy + dy, sx + dx, c]
    new = guess.copy()
    for y in range(height):
        for x in range(width):
            if hole[y, x] and weights[y, x] > 0:
                for c in range(3):
                    new[y, x, c] = values[y, x, c] / weights[y, x]
    return new
