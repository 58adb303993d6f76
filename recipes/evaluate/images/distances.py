"""Distances between two sets of pictures, as pure functions on their features [n, d]; everything is computed in float64.

Fréchet distance: between Gaussians fitted to both sets; with Inception's features it is FID. Heusel et al. 2017, arXiv
1706.08500, equation 6. Kernel distance: squared MMD with a cubic kernel, unbiased; with Inception's features it is KID.
Bińkowski et al. 2018, arXiv 1801.01401, section 3. Precision and recall: share of one set inside the other's manifold of
nearest neighbours. Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 and 2.
"""

from collections.abc import Callable

import numpy as np
import torch

from lt.recipes.evaluate.bootstrap import Interval, resampled

BLOCK = 1000
"""Pictures a block of the kernel distance; the papers' size."""
NEIGHBOURS = 3
GROUPS = 10
_T_95 = 2.262  # Student's, for GROUPS - 1 degrees of freedom

Distance = Callable[[np.ndarray, np.ndarray], float]


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), S with n - 1 degrees of freedom.

    The trace of the root is that of the symmetric R S2 R with R = S1^(1/2), whose eigenvalues are real and not negative but for
    rounding; the usual root of S1 S2 may turn out complex.

    Raises:
        ValueError: sets of other widths, or not more samples than numbers a feature: the covariances would be singular.
    """
    first, second = _checked(first, second, least=first.shape[1] + 1)
    gap = first.mean(0) - second.mean(0)
    s1, s2 = np.atleast_2d(np.cov(first, rowvar=False)), np.atleast_2d(np.cov(second, rowvar=False))
    values, vectors = np.linalg.eigh(s1)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root).clip(min=0)).sum()
    return max(0.0, float(gap @ gap + np.trace(s1) + np.trace(s2) - 2 * shared))


def kernel_distance(first: np.ndarray, second: np.ndarray, block: int = BLOCK, seed: int = 0) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / d + 1)^3, unbiased: it may fall below 0 for equal distributions.

    Larger sets are shuffled and cut into blocks of `block` pictures of each set, whose estimates are averaged.

    Raises:
        ValueError: sets of other widths, or fewer than two samples.
    """
    first, second = _checked(first, second, least=2)
    rng = np.random.default_rng(seed)
    first, second = rng.permutation(first), rng.permutation(second)
    count = max(1, min(len(first), len(second)) // block)
    pairs = zip(np.array_split(first, count), np.array_split(second, count), strict=True)
    return float(np.mean([_unbiased(a, b) for a, b in pairs]))


def _unbiased(a: np.ndarray, b: np.ndarray) -> float:
    own = [(kernel.sum() - np.trace(kernel)) / (len(x) * (len(x) - 1)) for x in (a, b) for kernel in (_cubic(x, x),)]
    return sum(own) - 2 * _cubic(a, b).mean()


def _cubic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a @ b.T / a.shape[1] + 1) ** 3


def inside(samples: np.ndarray, manifold: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Which samples [n, d] lie in the manifold of others [m, d]: no farther from one of them than its k-th neighbour; bool [n].

    Raises:
        ValueError: sets of other widths, or not more than `neighbours` points in the manifold.
    """
    samples, manifold = _checked(samples, manifold, least=1)
    _checked(manifold, manifold, least=neighbours + 1)
    points, asked = torch.from_numpy(manifold), torch.from_numpy(samples)
    radius = [torch.cdist(part, points).kthvalue(neighbours + 1).values for part in points.split(BLOCK)]
    reach = torch.cat(radius)
    return torch.cat([(torch.cdist(part, points) <= reach).any(1) for part in asked.split(BLOCK)]).numpy()


def precision_recall(
    drawn: np.ndarray, reference: np.ndarray, neighbours: int = NEIGHBOURS
) -> tuple[Interval, Interval]:
    """Percent of the drawn pictures inside the reference's manifold, and the other way round, with bootstrap intervals over the
    pictures that are asked about (the manifold stays as it is).
    """
    found = (inside(drawn, reference, neighbours), inside(reference, drawn, neighbours))
    precision, recall = (resampled(100.0 * hits, np.ones(len(hits)))[0] for hits in found)
    return precision, recall


def with_interval(distance: Distance, first: np.ndarray, second: np.ndarray, seed: int = 0) -> Interval:
    """A distance with its 95 % interval by the delete-a-group jackknife: both sets without a tenth, ten times over.

    A bootstrap would not do: samples drawn twice shrink covariances and meet themselves in kernels.

    Source:
        Kott 2001, "The delete-a-group jackknife", equation 1.

    Raises:
        ValueError: what the distance raises, also for nine tenths of the sets.
    """
    rng = np.random.default_rng(seed)
    parts = [rng.permutation(len(features)) % GROUPS for features in (first, second)]
    values = [distance(first[parts[0] != g], second[parts[1] != g]) for g in range(GROUPS)]
    error = float(np.sqrt((GROUPS - 1) * np.var(values)))
    value = distance(first, second)
    return Interval(value, value - _T_95 * error, value + _T_95 * error, error)


def _checked(first: np.ndarray, second: np.ndarray, least: int) -> tuple[np.ndarray, np.ndarray]:
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"features are {first.shape} and {second.shape}, want [n, d] of one d")
    if min(len(first), len(second)) < least:
        raise ValueError(f"{len(first)} and {len(second)} samples of {first.shape[1]} numbers, want at least {least}")
    return first.astype(np.float64), second.astype(np.float64)
