"""Is the candidate as good as the incumbent? Paired comparisons on the same rows.

Bounds are one-sided: at confidence 0.95 `low` is a lower and `high` an upper 95 % bound, so that [low,
high] is the two-sided 90 % interval, as usual for non-inferiority (Walker and Nowacki 2011). Hence a
candidate whose true loss equals the margin passes in about 5 % of comparisons, and one that equals the
incumbent is called better in about 5 %. tests/bench/bench_gate_calibration.py measures both. One limit is
known: where single rows carry most of the loss (absolute errors of a lognormal target), no method sees the
rare rows that a small sample lacks, and a loss at the margin passes in 17 % (n = 30) to about 10 % (n =
1000); set the margin on a bounded or logarithmic loss there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlplatform.stats import special
from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.auc import Auc, auc_of, binary_auc
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import Metric, distinct, label_means, label_parts, metric_named, prepare
from mlplatform.stats.resample import RESAMPLES, Bootstrap, bootstrap_means, bootstrap_rows

POWER = 0.8
LEAST_PER_CLASS = 5
"""Rows of the rarer of two classes below which a comparison by class (F1, log loss, ...) cannot tell
anything.
"""
LEAST_MOVE = 0.5
"""Standard error of an AUC difference is at least this over the rows of the rarest class: below it rows
cannot speak.
"""
LARGEST_PARTS = 20_000_000
"""Cells of the row features above which rows are resampled one by one (hundreds of classes)."""


@dataclass(frozen=True)
class Comparison:
    """Candidate minus incumbent, oriented so that HIGHER IS BETTER (a fall of a loss is positive).

    low, high: one-sided bounds at `confidence` each (infinite: no bound can be given).
    p_value: one-sided, against "the candidate is worse by `margin` or more"; fit for a Holm correction over
    slices.
    n_needed: rows at which equal models would pass with probability 0.8, at the spread seen here; None for
    margin 0.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    test: str
    p_value: float
    n_needed: int | None
    margin: float = 0.0


def no_worse(comparison: Comparison, margin: float | None = None) -> Literal["pass", "fail", "inconclusive"]:
    """Non-inferiority: "pass" when the loss is surely below the margin, "fail" when surely above, else
    "inconclusive".

    >>> no_worse(Comparison(-0.01, -0.03, 0.01, 0.95, 500, "tango", 0.1, None), margin=0.05)
    'pass'
    """
    margin = comparison.margin if margin is None else margin
    if comparison.low > -margin:
        return "pass"
    return "fail" if comparison.high < -margin else "inconclusive"


def paired(
    metric: str | Metric,
    y_true: Array,
    incumbent: Answers,
    candidate: Answers,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
    classes: Sequence[Any] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare by a named metric with the test that fits it: Tango for accuracy, DeLong for AUC, bootstrap
    for the rest.

    `seed`: from the digest of the data, so that a repeated judgement gives the same answer.
    """
    metric = metric_named(metric) if isinstance(metric, str) else metric
    if len(y_true) == 0:
        return _undecided(0, "none", confidence, margin)
    truth, (old, new), count = prepare(metric, y_true, (incumbent, candidate), classes)
    if metric.name == "accuracy":
        return mcnemar(truth == old, truth == new, margin=margin, confidence=confidence)
    if metric.parts is None or metric.combine is None:
        return _delong(auc_of(truth, old), auc_of(truth, new), truth, margin, confidence)
    return _paired_means(metric, truth, old, new, count, margin, confidence, seed)


def mcnemar(
    incumbent_correct: Array, candidate_correct: Array, *, margin: float = 0.0, confidence: float = 0.95
) -> Comparison:
    """Difference of two accuracies on the same rows: Tango's score interval (1998).

    At margin 0 the exact binomial test of the discordant pairs (McNemar) has a veto: a bound does not
    exclude zero unless the exact test agrees.
    """
    old, new = np.asarray(incumbent_correct, np.bool_), np.asarray(candidate_correct, np.bool_)
    n, gained, lost = len(old), int((new & ~old).sum()), int((old & ~new).sum())
    if n == 0:
        return _undecided(0, "tango", confidence, margin)
    z = float(special.ndtri(confidence))
    low = tango_bound(gained, lost, n, z)
    high = -tango_bound(lost, gained, n, z)
    better, worse = _exact(gained, lost), _exact(lost, gained)
    low = low if better <= 1 - confidence else min(low, 0.0)
    high = high if worse <= 1 - confidence else max(high, 0.0)
    p_value = float(special.ndtr(-tango_z(gained, lost, n, -margin))) if margin > 0 else better
    share = max(gained + lost, 1) / n
    spread = math.sqrt(max(share - ((gained - lost) / n) ** 2, 0.0))
    needed = _n_needed(spread, margin, confidence)
    return Comparison((gained - lost) / n, low, high, confidence, n, "tango", p_value, needed, margin)


def delong(
    y_true: Array,
    incumbent_scores: Array,
    candidate_scores: Array,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
) -> Comparison:
    """Difference of two AUCs on the same rows (DeLong 1988, ties as one half), y_true being 0/1.

    Student's t with Satterthwaite's degrees of freedom instead of the normal: with few positives their
    number decides.
    """
    truth = np.asarray(y_true).astype(np.bool_)
    old = binary_auc(truth, np.asarray(incumbent_scores, np.float64))
    new = binary_auc(truth, np.asarray(candidate_scores, np.float64))
    return _delong(old, new, truth.astype(np.int64), margin, confidence)


def paired_bootstrap(
    function: Callable[[Array, Array, Array | None], float],
    y_true: Array,
    incumbent: Answers,
    candidate: Answers,
    *,
    higher_is_better: bool = True,
    margin: float = 0.0,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Any function(y_true, labels, scores) -> number: rows are resampled in pairs, BCa bounds.

    Two calls of `function` per resample; the named metrics are much cheaper through `paired`.
    """
    y_true = np.asarray(y_true)
    sign = 1.0 if higher_is_better else -1.0

    def difference(rows: Ints) -> float:
        old, new = incumbent.take(rows), candidate.take(rows)
        truth = y_true[rows]
        return sign * (function(truth, new.labels, new.scores) - function(truth, old.labels, old.scores))

    if len(y_true) < 2:
        return _undecided(len(y_true), "bootstrap", confidence, margin)
    return _from_bootstrap(bootstrap_rows(difference, len(y_true), seed, resamples), margin, confidence, 0.0)


# ---- Tango's score for a difference of paired proportions


def tango_z(gained: Any, lost: Any, n: Any, difference: Any) -> Any:
    """Standardised distance of the observed difference from an assumed one (vectorised)."""
    b = -gained - lost + (2 * n - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    q = (np.sqrt(np.maximum(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
    variance = n * np.maximum(2 * q + difference * (1 - difference), 0.0)
    distance = gained - lost - n * difference
    return distance / np.sqrt(np.maximum(variance, 1e-12))


def tango_bound(gained: int, lost: int, n: int, z: float) -> float:
    """Lower bound: the difference from which the observed one is z standard errors up. By bisection."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tango_z(gained, lost, n, middle) > z else (low, middle)
    return (low + high) / 2


# ---- helpers


def _exact(gained: int, lost: int) -> float:
    """Chance of at least `gained` of the discordant pairs when both models are equally good."""
    return float(special.bdtrc(gained - 1, gained + lost, 0.5)) if gained > 0 else 1.0


def _delong(old: Auc, new: Auc, truth: Ints, margin: float, confidence: float) -> Comparison:
    n, per_class = len(truth), np.bincount(truth)
    fewest = int(per_class[per_class > 0].min())
    if fewest < 2 or math.isnan(old.value):
        return _undecided(n, "delong", confidence, margin)
    estimate = new.value - old.value
    areas = 1 if len(per_class) <= 2 else int((per_class > 0).sum())
    squares = np.asarray(np.bincount(truth, (new.influence - old.influence) ** 2), np.float64)
    error = math.sqrt(max(float(squares.sum()), (LEAST_MOVE / fewest / areas) ** 2))
    freedom = _satterthwaite(squares[per_class > 0], per_class[per_class > 0])
    reach = float(special.stdtrit(freedom, confidence)) * error
    p_value = float(special.stdtr(freedom, -(estimate + margin) / error))
    needed = _n_needed(error * math.sqrt(n), margin, confidence)
    return Comparison(
        estimate, estimate - reach, estimate + reach, confidence, n, "delong", p_value, needed, margin
    )


def _satterthwaite(variances: Floats, rows: Ints) -> float:
    """Degrees of freedom of a sum of variances, each estimated from its own rows."""
    total = float(variances.sum())
    return total**2 / float((variances**2 / (rows - 1)).sum()) if total > 0 else float(rows.min() - 1)


def _paired_means(
    metric: Metric,
    truth: Array,
    old: Array,
    new: Array,
    classes: int,
    margin: float,
    confidence: float,
    seed: int,
) -> Comparison:
    if len(truth) < 2 or (classes == 2 and np.bincount(truth, minlength=2)[:2].min() < LEAST_PER_CLASS):
        return _undecided(len(truth), "bootstrap", confidence, margin)
    assert metric.parts is not None and metric.combine is not None
    if metric.needs != "labels":
        parts = np.hstack([metric.parts(truth, item, classes) for item in (old, new)])
        counts = np.ones(len(truth), np.int64)
        boot = bootstrap_means(_difference(metric, classes), parts, counts, seed)
        return _from_bootstrap(boot, margin, confidence, 0.0)
    boot = _label_bootstrap(metric, truth, old, new, classes, seed)
    least = _one_flip(metric, boot.n, label_means(truth, new, classes), classes)
    return _from_bootstrap(boot, margin, confidence, least)


def _label_bootstrap(metric: Metric, truth: Ints, old: Ints, new: Ints, classes: int, seed: int) -> Bootstrap:
    rows, counts = distinct(truth, old, new)
    difference = _difference(metric, classes)
    if len(rows) * 6 * (classes + 1) <= LARGEST_PARTS:
        parts = np.hstack([label_parts(truth[rows], item[rows], classes) for item in (old, new)])
        return bootstrap_means(difference, parts, counts, seed)

    def of_rows(rows: Ints) -> float:
        means = [label_means(truth[rows], item[rows], classes) for item in (old, new)]
        return float(difference(np.concatenate(means)))

    return bootstrap_rows(of_rows, len(truth), seed)


def _difference(metric: Metric, classes: int) -> Callable[[Floats], Floats]:
    combine, sign = metric.combine, 1.0 if metric.higher_is_better else -1.0
    assert combine is not None

    def statistic(means: Floats) -> Floats:
        old, new = np.split(means, 2, axis=-1)
        return np.asarray(sign * (combine(new, classes) - combine(old, classes)))

    return statistic


def _one_flip(metric: Metric, n: int, means: Floats, classes: int) -> float:
    """How far one more answer of the candidate, wrong or right, would move the metric, in the class where
    it moves it most.
    """
    assert metric.combine is not None
    hits, support = means[: classes + 1], means[classes + 1 : 2 * (classes + 1)]
    moves = [(c, -1 / n) for c in np.flatnonzero(hits > 0.5 / n)]
    moves += [(c, 1 / n) for c in np.flatnonzero(support > hits + 0.5 / n)]
    flipped = np.repeat(means[None, :], len(moves), axis=0)
    for row, (c, step) in enumerate(moves):
        flipped[row, c] += step
        flipped[row, 2 * (classes + 1) + c] += step
        flipped[row, 2 * (classes + 1) + (c + 1) % max(classes, 1)] -= step
    moved = np.abs(metric.combine(flipped, classes) - metric.combine(means, classes))
    return float(moved.max(initial=0.0))


def _from_bootstrap(boot: Bootstrap, margin: float, confidence: float, least: float) -> Comparison:
    """`least`: the effect of one flipped answer. Bounds reach at least as far as Tango's do when no answer
    differs.
    """
    z_squared = float(special.ndtri(confidence)) ** 2
    reach = least * z_squared * boot.n / (boot.n + z_squared)

    def lower(level: float) -> float:
        return min(_outer(boot, level), boot.estimate - reach)

    low, high = lower(1 - confidence), max(_outer(boot, confidence), boot.estimate + reach)
    p_value = _level_of(lower, -margin)
    needed = _n_needed(max(boot.standard_error, least) * math.sqrt(boot.n), margin, confidence)
    return Comparison(boot.estimate, low, high, confidence, boot.n, "bootstrap", p_value, needed, margin)


def _outer(boot: Bootstrap, level: float) -> float:
    """The widest of BCa, bootstrap-t and Student's t.

    On few or heavy-tailed rows each of them passes too much in another case: BCa when the skewness it
    corrects is noise, t when it is real.
    """
    bounds = [boot.bound(level), boot.student_bound(level)]
    if len(boot.studentized):
        bounds.append(boot.studentized_bound(level))
    return min(bounds) if level < 0.5 else max(bounds)


def _level_of(lower: Callable[[float], float], value: float) -> float:
    """The level at which the lower bound reaches `value`: the p-value that agrees with the bounds. By
    bisection.
    """
    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (low, middle) if lower(middle) > value else (middle, high)
    return high


def _n_needed(spread: float, margin: float, confidence: float) -> int | None:
    """Rows for a standard error of margin / (z_confidence + z_power), `spread` being the standard error
    times sqrt(n).
    """
    if margin <= 0:
        return None
    return max(1, math.ceil((float(special.ndtri(confidence) + special.ndtri(POWER)) * spread / margin) ** 2))


def _undecided(n: int, test: str, confidence: float, margin: float) -> Comparison:
    return Comparison(0.0, -math.inf, math.inf, confidence, n, test, 1.0, None, margin)
