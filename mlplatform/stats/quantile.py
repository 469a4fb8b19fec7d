"""A quantile of measured values with its interval, whatever their distribution is."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from mlplatform.stats import special
from mlplatform.stats.estimate import Estimate


def quantile_interval(values: ArrayLike, share: float, confidence: float = 0.95) -> Estimate:
    """Two-sided, between order statistics: how many values lie below a quantile is binomial (Thompson 1936).

    An end that so few values cannot give is infinite: the upper one of a 99th percentile wants 368 of them.

    >>> quantile_interval(range(1, 16), 0.5)
    Estimate(value=8.0, low=4.0, high=12.0, n=15, confidence=0.95)
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n, tail = len(ordered), (1 - confidence) / 2
    if n == 0:
        return Estimate(math.nan, -math.inf, math.inf, 0, confidence)
    # The chance that at most 0, 1, ... n - 1 values lie below the quantile.
    below = np.asarray(special.bdtr(np.arange(n), n, share))
    first, last = int((below <= tail).sum()), int((below < 1 - tail).sum())
    low = float(ordered[first - 1]) if first else -math.inf
    high = float(ordered[last]) if last < n else math.inf
    return Estimate(float(np.quantile(ordered, share)), low, high, n, confidence)
