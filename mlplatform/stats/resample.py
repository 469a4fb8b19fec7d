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

from mlplatform.stats import special
from mlplatform.stats.arrays import Floats, Ints

RESAMPLES = 2_000
CHUNK_CELLS = 4_000_000


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Resampled values of one statistic, ready to be asked for bounds.

    studentized: (value - estimate) / its own standard error, resample by resample; empty where none is
    known. influence: what each distinct row, or group of rows, adds to the estimate; counts: how often it occurs.
    """

    estimate: float
    values: Floats
    acceleration: float
    n: int
    standard_error: float
    freedom: float
    studentized: Floats
    influence: Floats
    counts: Ints

    def bound(self, level: float) -> float:
        """The value below which the truth lies with probability `level`: bound(0.05) is a lower 95 % bound
        (BCa).
        """
        if self.values.min() == self.values.max():
            return float(self.values[0])
        z = self._bias + math.sqrt(self.n / (self.n - 1)) * float(special.stdtrit(self.n - 1, level))
        share = special.ndtr(self._bias + z / max(1 - self.acceleration * z, 1e-3))
        return float(np.quantile(self.values, float(share)))

    def studentized_bound(self, level: float) -> float:
        """The same by bootstrap-t, which alone holds its level on a small sample of a skewed loss."""
        t = float(np.quantile(self.studentized, 1 - level, method="higher" if level < 0.5 else "lower"))
        return self.estimate - t * self.standard_error if self.standard_error else self.estimate

    def student_bound(self, level: float) -> float:
        """The same by Student's t, with fewer degrees of freedom where few rows carry the variance."""
        return self.estimate + float(special.stdtrit(self.freedom, level)) * self.standard_error

    @property
    def _bias(self) -> float:
        below = (self.values < self.estimate).mean() + (self.values == self.estimate).mean() / 2
        least = 0.5 / len(self.values)
        return float(special.ndtri(min(max(float(below), least), 1 - least)))


def bootstrap_means(
    statistic: Callable[[Floats], Floats], parts: Floats, counts: Ints, seed: int, resamples: int = RESAMPLES
) -> Bootstrap:
    """Bootstrap `statistic` ((..., k) means -> (...)) of rows whose features are `parts` (distinct rows x k).

    `counts` tells how often each distinct row occurs: with labels there are few distinct rows, whatever n is.
    """
    n = int(counts.sum())
    mean = counts @ parts / n
    estimate = float(statistic(mean))
    influence = without_one_row(statistic, parts, counts)
    columns = np.column_stack([parts, influence, influence**2])
    weights = _weights(counts, n, np.random.default_rng(seed), resamples)
    means = np.concatenate([drawn @ columns / n for drawn in weights])
    values = statistic(means[:, :-2])
    errors = np.sqrt(np.maximum(means[:, -1] - means[:, -2] ** 2, 0.0) * (n - 1))
    return Bootstrap(
        estimate,
        values,
        _acceleration(influence, counts),
        n,
        math.sqrt(float(counts @ influence**2) * (n - 1) / n),
        _freedom(influence, counts),
        _ratio(values - estimate, errors),
        influence,
        counts,
    )


def without_one_row(statistic: Callable[[Floats], Floats], parts: Floats, counts: Ints) -> Floats:
    """The exact jackknife of `bootstrap_means`: each distinct row's influence on the statistic. Times sqrt((n - 1) / n)
    the squares of all rows add up to its variance.
    """
    n = int(counts.sum())
    return _influence(statistic((counts @ parts - parts) / (n - 1)), counts)


def bootstrap_rows(
    statistic: Callable[[Ints], float], n: int, seed: int, resamples: int = RESAMPLES, groups: int = 100
) -> Bootstrap:
    """Bootstrap any statistic of row indices; the jackknife leaves out groups of rows to stay affordable.

    Resamples in which the statistic is not defined (NaN) are left out.
    """
    rng = np.random.default_rng(seed)
    values = np.array([statistic(rng.integers(0, n, n)) for _ in range(resamples)])
    everyone = np.arange(n)
    left_out = np.array_split(rng.permutation(n), min(groups, n))
    jackknife = np.array([statistic(np.setdiff1d(everyone, group, assume_unique=True)) for group in left_out])
    values, jackknife = values[np.isfinite(values)], jackknife[np.isfinite(jackknife)]
    ones = np.ones(len(jackknife), np.int64)
    influence = _influence(jackknife, ones)
    error = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    return Bootstrap(
        statistic(everyone),
        values,
        _acceleration(influence, ones),
        n,
        error,
        _freedom(influence, ones),
        np.zeros(0),
        influence,
        ones,
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


def _influence(without_one: Floats, counts: Ints) -> Floats:
    """What each row adds to the statistic: the mean of the leave-one-out values minus its own."""
    if len(without_one) == 0:
        return np.zeros(0)
    return np.asarray(np.average(without_one, weights=counts) - without_one)


def _acceleration(influence: Floats, counts: Ints) -> float:
    """Efron's a: a sixth of the skewness of the jackknife's influence."""
    second, third = float(counts @ influence**2), float(counts @ influence**3)
    return third / (6 * second**1.5) if second > 1e-300 else 0.0


def _freedom(influence: Floats, counts: Ints) -> float:
    """Degrees of freedom of the variance by its own kurtosis (Satterthwaite): n - 1 for normal
    rows at most.
    """
    n, second, fourth = int(counts.sum()), float(counts @ influence**2), float(counts @ influence**4)
    if n < 3 or second <= 1e-150:
        return max(n - 1.0, 1.0)
    return min(n - 1.0, max(1.0, 2 * n / max(n * fourth / second**2 - 1, 1e-9)))


def _ratio(distance: Floats, error: Floats) -> Floats:
    """Infinite where a resample has no spread but another value: it says nothing about the error."""
    certain = error <= 1e-12
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = distance / error
    return np.where(certain, np.where(np.abs(distance) > 1e-12, np.copysign(np.inf, distance), 0.0), ratio)
