"""Bootstrap intervals of functions of means: multinomial weights times row features, in chunks.

Bias-corrected and accelerated percentiles (Efron 1987) with the exact jackknife, and Hesterberg's (2015)
widening, which gives back what percentiles lose with few rows (they are narrower than t by sqrt((n - 1) /
n) z / t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from mlplatform.stats.arrays import Floats, Ints

RESAMPLES = 2_000
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resampled values of one statistic, ready to be asked for bounds."""

    estimate: float
    values: Floats
    acceleration: float
    n: int

    @property
    def standard_error(self) -> float:
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else 0.0

    def bound(self, level: float) -> float:
        """The value below which the truth lies with probability 1 - level: bound(0.05) is a lower 95 %
        bound.
        """
        if self.values.min() == self.values.max():
            return float(self.values[0])
        z = self._bias + math.sqrt(self.n / (self.n - 1)) * float(stdtrit(self.n - 1, level))
        share = ndtr(self._bias + z / max(1 - self.acceleration * z, 1e-3))
        return float(np.quantile(self.values, float(share)))

    def level_of(self, value: float) -> float:
        """The level whose bound is `value`: a one-sided p-value against "the truth is at most `value`"."""
        if self.values.min() == self.values.max():
            return 0.0 if self.values[0] > value else 1.0
        count = len(self.values)
        share = (float((self.values < value).sum()) + float((self.values <= value).sum())) / 2 / count
        u = float(ndtri(min(max(share, 0.5 / count), 1 - 0.5 / count))) - self._bias
        z = u / (1 + self.acceleration * u) - self._bias if 1 + self.acceleration * u > 0 else -8.0
        return float(stdtr(self.n - 1, z * math.sqrt((self.n - 1) / self.n)))

    @property
    def _bias(self) -> float:
        below = (self.values < self.estimate).mean() + (self.values == self.estimate).mean() / 2
        least = 0.5 / len(self.values)
        return float(ndtri(min(max(float(below), least), 1 - least)))


def bootstrap_means(
    statistic: Callable[[Floats], Floats], parts: Floats, counts: Ints, seed: int, resamples: int = RESAMPLES
) -> Bootstrap:
    """Bootstrap `statistic` ((..., k) means -> (...)) of rows whose features are `parts` (distinct rows x k).

    `counts` tells how often each distinct row occurs: with labels there are few distinct rows, whatever n is.
    """
    n = int(counts.sum())
    mean = counts @ parts / n
    values = np.concatenate(
        [
            statistic(weights @ parts / n)
            for weights in _weights(counts, n, np.random.default_rng(seed), resamples)
        ]
    )
    kept = counts > 0
    without_one = statistic((mean * n - parts[kept]) / max(n - 1, 1))
    return Bootstrap(float(statistic(mean)), values, _acceleration(without_one, counts[kept]), n)


def bootstrap_rows(
    statistic: Callable[[Ints], float], n: int, seed: int, resamples: int = RESAMPLES, groups: int = 100
) -> Bootstrap:
    """Bootstrap any statistic of row indices; the jackknife leaves out groups of rows to stay affordable."""
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    if not np.isfinite(values).all():
        values = values[np.isfinite(values)]
    everyone = np.arange(n)
    left_out = np.array_split(rng.permutation(n), min(groups, n))
    jackknife = np.array([statistic(np.setdiff1d(everyone, group, assume_unique=True)) for group in left_out])
    jackknife = jackknife[np.isfinite(jackknife)]
    return Bootstrap(
        statistic(everyone), values, _acceleration(jackknife, np.ones(len(jackknife), np.int64)), n
    )


# ---- helpers


def _weights(counts: Ints, n: int, rng: np.random.Generator, resamples: int) -> Iterator[Floats]:
    """How often each distinct row is drawn, resample by resample."""
    step = max(1, CHUNK_CELLS // max(len(counts), 1))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if len(counts) < n:
            yield rng.multinomial(n, counts / n, size=size).astype(np.float64)
        else:
            drawn = rng.integers(0, n, (size, n)) + np.arange(size)[:, None] * n
            yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _acceleration(without_one: Floats, counts: Ints) -> float:
    """Efron's a: a sixth of the skewness of the jackknife's influence."""
    if len(without_one) == 0:
        return 0.0
    influence = np.average(without_one, weights=counts) - without_one
    second, third = float(counts @ influence**2), float(counts @ influence**3)
    return third / (6 * second**1.5) if second > 1e-300 else 0.0
