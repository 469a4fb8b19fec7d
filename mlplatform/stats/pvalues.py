"""P-values from counts, by scipy.special alone (scipy.stats would cost twenty times the whole comparison)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mlplatform.stats import special
from mlplatform.stats.arrays import Array, Bools, Floats
from mlplatform.stats.distance import ks

LEAST_EXPECTED = 5.0
EXACT_BELOW = 10.0


def kolmogorov_smirnov(a: Array, b: Array) -> float:
    """Two-sample KS from cell counts, with Stephens' term for small samples. Valid (at most too large) for
    any cells.
    """
    n, m = float(np.sum(a)), float(np.sum(b))
    if not n or not m:
        return 1.0
    root = math.sqrt(n * m / (n + m))
    return float(special.kolmogorov((root + 0.12 + 0.11 / root) * ks(a, b)))


def rank_shift(a: Array, b: Array) -> float:
    """Is the location the same? Wilcoxon-Mann-Whitney on the cells, as on data with ties, two-sided.

    Ranks instead of means: the z-test of two means fires on skewed columns when one side is small, ranks do
    not.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m, both = a.sum(), b.sum(), a + b
    total = n + m
    if not n or not m:
        return 1.0
    midranks = np.cumsum(both) - (both - 1) / 2
    centred = float((midranks - (total + 1) / 2) @ b)
    variance = n * m / 12 * (total + 1 - float((both**3 - both).sum()) / (total * (total - 1)))
    return float(2 * special.ndtr(-abs(centred) / math.sqrt(variance))) if variance > 1e-9 * total else 1.0


def pooled_chi2(a: Array, b: Array, least_expected: float = LEAST_EXPECTED) -> float:
    """Chi-square of homogeneity; cells that expect fewer than `least_expected` rows on either side are
    pooled into one.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    n, m = a.sum(), b.sum()
    if not n or not m:
        return 1.0
    a, b = _pool(a, b, least_expected)
    if len(a) < 2:
        return 1.0
    statistic = ((math.sqrt(m / n) * a - math.sqrt(n / m) * b) ** 2 / (a + b)).sum()
    return float(special.chdtrc(len(a) - 1, statistic))


def two_shares(hits_a: int, n: int, hits_b: int, m: int) -> float:
    """Is the share of hits the same in n and in m rows? Two-sided; hypergeometric (exact) where counts are
    small.
    """
    hits, total = hits_a + hits_b, n + m
    if not n or not m or hits in (0, total):
        return 1.0
    if min(hits, total - hits) * min(n, m) / total < EXACT_BELOW:
        if hits > total - hits:
            hits_b, hits = m - hits_b, total - hits
        return _hypergeometric(hits_b, hits, n, m)
    share = hits / total
    spread = math.sqrt(share * (1 - share) * (1 / n + 1 / m))
    return float(2 * special.ndtr(-abs(hits_a / n - hits_b / m) / spread))


def above_share(hits: int, n: int, share: float) -> float:
    """Chance of at least `hits` in n rows at this share: the exact upper binomial tail."""
    return float(special.bdtrc(hits - 1, n, min(share, 1.0))) if hits > 0 else 1.0


def beyond_extreme(hits: int, m: int, n: int) -> float:
    """Chance that at least `hits` of m new rows lie beyond the maximum of n old rows of the same
    distribution.

    Exact for any continuous column (at most this with ties): the `hits` largest of all n + m rows are all
    new.

    >>> round(beyond_extreme(1, 1, 99), 6)
    0.01
    """
    if hits <= 0 or not n:
        return 1.0
    return float(
        np.exp(
            special.gammaln(m + 1)
            - special.gammaln(m - hits + 1)
            - special.gammaln(n + m + 1)
            + special.gammaln(n + m - hits + 1)
        )
    )


def cauchy_combination(p_values: Sequence[float]) -> float:
    """One p-value from several dependent ones (Liu and Xie 2020), accurate where it matters, near zero.

    Cut at 0.99 (the truncation of Fang et al. 2023): a test without any sign of change must not outvote the
    others.
    """
    p = np.clip(np.asarray(p_values, np.float64), 1e-300, 0.99)
    tiny = p < 1e-15
    terms = np.where(tiny, 1 / (p * math.pi), np.tan((0.5 - np.where(tiny, 0.5, p)) * math.pi))
    mean = float(terms.mean())
    return 1 / (mean * math.pi) if mean > 1e14 else 0.5 - math.atan(mean) / math.pi


def benjamini_hochberg(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values (Benjamini and Hochberg 1995): at most q of those <= q are expected to be false.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    p = np.asarray(p_values, np.float64)
    if len(p) == 0:
        return p
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(scaled))
    return adjusted


def holm(p_values: Sequence[float]) -> Floats:
    """Adjusted p-values (Holm 1979): the chance of a single false one among those <= alpha is at most alpha.

    >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, np.float64)
    if len(p) == 0:
        return p
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


# ---- helpers


def _pool(a: Floats, b: Floats, least_expected: float) -> tuple[Floats, Floats]:
    smaller = min(a.sum(), b.sum()) / (a.sum() + b.sum())
    small: Bools = (a + b) * smaller < least_expected
    if not small.any():
        return a, b
    pool = np.array([a[small].sum()]), np.array([b[small].sum()])
    a, b = a[~small], b[~small]
    if (pool[0] + pool[1])[0] * smaller >= least_expected or len(a) == 0:
        return np.concatenate([a, pool[0]]), np.concatenate([b, pool[1]])
    host = int(np.argmin(a + b))  # too small even together: joins the smallest cell that stands
    a[host] += pool[0][0]
    b[host] += pool[1][0]
    return a, b


def _hypergeometric(hits: int, marked: int, n: int, m: int) -> float:
    """Twice the smaller tail for `hits` among m of n + m rows, of which `marked` are marked."""
    k = np.arange(max(0, marked - n), min(marked, m) + 1)
    log = _log_choose(m, k) + _log_choose(n, marked - k) - _log_choose(n + m, np.array(marked))
    mass = np.exp(log)
    return float(min(1.0, 2 * min(mass[k <= hits].sum(), mass[k >= hits].sum())))


def _log_choose(n: int, k: Array) -> Floats:
    return np.asarray(special.gammaln(n + 1.0) - special.gammaln(k + 1.0) - special.gammaln(n - k + 1.0))
