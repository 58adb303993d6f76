"""Intervals: resampling of samples, and the spread over seeds."""

import warnings
from typing import NamedTuple

import numpy as np

DRAWS = 1000


class Interval(NamedTuple):
    """A figure with the ends of its 95 % interval and its standard error."""

    value: float
    low: float
    high: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def resampled(numerators: np.ndarray, denominators: np.ndarray, draws: int = DRAWS, seed: int = 0) -> list[Interval]:
    """Percentile bootstrap of ratios of sums: for each column of [n, m], sum(numerators) / sum(denominators).

    The n rows are the independent units that are drawn with replacement (pictures, say, with all their captions), the m columns
    are metrics of the same draw. A plain mean has denominators of 1. Where all denominators of a column are 0, it is nan.

    Raises:
        ValueError: shapes differ, or there is no row.
    """
    top, bottom = np.atleast_2d(np.asarray(numerators, float).T).T, np.atleast_2d(np.asarray(denominators, float).T).T
    if top.shape != bottom.shape or not len(top):
        raise ValueError(
            f"numerators {top.shape} and denominators {bottom.shape}: want equal shapes and at least one row"
        )
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(top), np.full(len(top), 1 / len(top)), size=draws)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of columns that are nan throughout
        values, drawn = top.sum(0) / bottom.sum(0), (counts @ top) / (counts @ bottom)
        low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=0)
        error = np.nanstd(drawn, axis=0, ddof=1)
    return [Interval(*map(float, column)) for column in zip(values, low, high, error, strict=True)]
