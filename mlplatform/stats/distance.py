"""Distances between two distributions given as counts in the same cells.

All are magnitudes to show, not thresholds to alarm on: their size under no drift depends on the number of
rows. A side without rows has no distribution and gives NaN.
"""

from __future__ import annotations

import math

import numpy as np

from mlplatform.stats.arrays import Array, Floats, Ints


def psi(a: Array, b: Array, floor: float = 1e-4) -> float:
    """Population stability index, sum of (p - q) ln(p / q); shares below `floor` count as `floor`."""
    p, q = np.maximum(_shares(a), floor), np.maximum(_shares(b), floor)
    return float(((p - q) * np.log(p / q)).sum())


def decile_psi(a: Array, b: Array) -> float:
    """PSI over the deciles of `a`, the usual reading of the index; exact when the deciles of `a` are edges
    of the cells.
    """
    a, b = np.asarray(a, np.int64), np.asarray(b, np.int64)
    groups = _decile_groups(a)
    return psi(np.bincount(groups, a), np.bincount(groups, b))


def ks(a: Array, b: Array) -> float:
    """Largest difference of the two cumulative shares at the edges: never above the D of the raw values."""
    return float(np.abs(np.cumsum(_shares(a)) - np.cumsum(_shares(b))).max())


def js(a: Array, b: Array) -> float:
    """Jensen-Shannon distance (square root, base 2): 0 for equal, 1 for disjoint.

    >>> js(np.array([5, 0]), np.array([0, 9]))
    1.0
    """
    p, q = _shares(a), _shares(b)
    divergence = (_relative_entropy(p, (p + q) / 2) + _relative_entropy(q, (p + q) / 2)) / 2
    return math.sqrt(min(1.0, max(0.0, divergence))) if divergence == divergence else math.nan


def hellinger(a: Array, b: Array) -> float:
    """Hellinger distance, in [0, 1]."""
    affinity = float(np.sqrt(_shares(a) * _shares(b)).sum())
    return math.sqrt(max(0.0, 1.0 - affinity)) if affinity == affinity else math.nan


def total_variation(a: Array, b: Array) -> float:
    """Half the sum of absolute differences of shares: the part of the rows that would have to change cell."""
    return float(np.abs(_shares(a) - _shares(b)).sum() / 2)


def wasserstein(
    a: Array,
    b: Array,
    edges: Floats,
    low_excess: tuple[float, float] = (0.0, 0.0),
    high_excess: tuple[float, float] = (0.0, 0.0),
) -> float:
    """Earth mover's distance in the unit of the column: shares are taken as spread evenly inside a cell.

    The excess sums (a, b) tell how far the values lie outside the outermost edges; a tail adds the
    difference of its mean excess, which is exact unless the two cumulative curves cross there.
    """
    if len(edges) == 0:
        return 0.0
    n, m = float(np.sum(a)), float(np.sum(b))
    if not n or not m:
        return math.nan
    difference = np.cumsum(np.asarray(a) / n)[:-1] - np.cumsum(np.asarray(b) / m)[:-1]
    left, right = np.abs(difference[:-1]), np.abs(difference[1:])
    crossing = difference[:-1] * difference[1:] < 0
    total = np.where(crossing, left + right, 1.0)
    heights = np.where(crossing, (left**2 + right**2) / (2 * total), (left + right) / 2)
    inner = float((heights * np.diff(edges)).sum())
    return inner + abs(low_excess[0] / n - low_excess[1] / m) + abs(high_excess[0] / n - high_excess[1] / m)


# ---- helpers


def _shares(counts: Array) -> Floats:
    counts = np.asarray(counts, np.float64)
    total = counts.sum()
    return counts / total if total else np.full(len(counts), np.nan)


def _relative_entropy(p: Floats, q: Floats) -> float:
    present = ~(p == 0)
    return float((p[present] * np.log2(p[present] / q[present])).sum())


def _decile_groups(a: Ints) -> Array:
    """For every cell the decile of `a` it belongs to. Integer arithmetic: no decile is lost to rounding."""
    cumulative = np.cumsum(a)[:-1]
    if len(cumulative) == 0:
        return np.zeros(len(a), np.int64)
    targets = np.arange(1, 10) * int(a.sum())
    cuts = np.unique(np.minimum(np.searchsorted(cumulative * 10, targets), len(cumulative) - 1))
    return np.searchsorted(cuts, np.arange(len(a)))
