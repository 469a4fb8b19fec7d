"""Do two versions answer differently, on rows of their own? A test that may be looked at as often as one likes.

The distance is the largest difference of the two cumulative shares (Kolmogorov-Smirnov); of classes, in the order of
their names. Its lower bound is by Dvoretzky, Kiefer and Wolfowitz with Massart's constant (1990), for each side. It is
asked whenever the rows have doubled, and look k spends alpha * 6 / (pi k)^2, which over all looks adds up to alpha.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlplatform.stats.arrays import Array, Floats

FIRST_LOOK = 50


@dataclass(frozen=True)
class DistanceVerdict:
    """distance: now. low: its largest lower bound of all looks. exceeds: whether that lies above the limit."""

    distance: float
    low: float
    exceeds: bool
    n: int
    m: int


def distance_exceeds(new: Array, old: Array, at_most: float, alpha: float = 0.05) -> DistanceVerdict:
    """Is the distance of the two distributions above `at_most`? Rows in order of arrival; those of both sides that
    came first are looked at first, in the proportion of the whole.

    >>> distance_exceeds(np.ones(400), np.zeros(400), at_most=0.1).exceeds
    True
    """
    mine, theirs = _codes(new, old)
    n, m = len(mine), len(theirs)
    low = 0.0
    size, k = FIRST_LOOK, 1
    while size <= n and m:
        beside = max(1, round(m * size / n))
        spent = alpha * 6 / (math.pi * k) ** 2
        reach = math.sqrt(math.log(4 / spent) / 2) * (1 / math.sqrt(size) + 1 / math.sqrt(beside))
        low = max(low, _distance(mine[:size], theirs[:beside]) - reach)
        size, k = 2 * size, k + 1
    distance = _distance(mine, theirs) if n and m else math.nan
    return DistanceVerdict(distance, low, low > at_most, n, m)


def _codes(new: Array, old: Array) -> tuple[Floats, Floats]:
    """Values as they are, labels by their place among all names."""
    if new.dtype.kind == "f" and old.dtype.kind == "f":
        return np.asarray(new, np.float64), np.asarray(old, np.float64)
    names = [str(label) for label in (*new.tolist(), *old.tolist())]
    codes = np.unique(names, return_inverse=True)[1].astype(np.float64) if names else np.empty(0)
    return codes[: len(new)], codes[len(new) :]


def _distance(a: Floats, b: Floats) -> float:
    points = np.concatenate([a, b])
    below_a = np.searchsorted(np.sort(a), points, side="right") / len(a)
    below_b = np.searchsorted(np.sort(b), points, side="right") / len(b)
    return float(np.abs(below_a - below_b).max())
