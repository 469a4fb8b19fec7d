"""Is the candidate as good as the incumbent? Paired comparisons on the same rows.

Bounds are one-sided: at confidence 0.95 `low` is a lower and `high` an upper 95 % bound, so that [low,
high] is the two-sided 90 % interval, as usual for non-inferiority (Walker and Nowacki 2011). Hence a
candidate whose true loss equals the margin passes in at most about 5 % of comparisons, and so does, at margin
0, one that equals the incumbent. tests/bench/bench_gate_calibration.py measures both. Where that cannot be
promised no bound is given: few rows of a class, or a loss without an upper limit whose variance few rows
carry. What no method can see is a kind of row that a sample lacks altogether: of n rows, one that comes less
often than in 3/n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.auc import Auc, auc_of, binary_auc
from mlplatform.stats.bootstrap import by_class, difference_of, paired_bootstrap
from mlplatform.stats.comparison import (
    NO_ROWS,
    Comparison,
    Question,
    Wanted,
    no_worse,
    rows_of_silence,
    silence,
)
from mlplatform.stats.labels import Answers
from mlplatform.stats.mcnemar import mcnemar
from mlplatform.stats.metrics import Metric, metric_named, prepare
from mlplatform.stats.resample import without_one_row
from mlplatform.stats.skewed import Skewed, light_tails

__all__ = ["Comparison", "delong", "mcnemar", "no_worse", "paired", "paired_bootstrap"]

LEAST_PER_CLASS = 5
"""Rows of the rarer of two classes below which a comparison by class or score cannot tell anything."""
SURE_PER_CLASS = 8
"""Rows of a class to be expected, so that with probability 0.9 there are five."""
LEAST_MOVE = 0.5
"""Standard error of an AUC difference is at least this over the rows of the rarest class: below it rows
cannot speak.
"""


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
    """Compare by a named metric with the test that fits it: McNemar and Tango for accuracy, DeLong for AUC, a
    skewness-corrected t for losses of single rows, a bootstrap for what is made of counts per class (F1, ...).

    `seed`: from the digest of the data, so that a repeated judgement gives the same answer.
    """
    metric = metric_named(metric) if isinstance(metric, str) else metric
    question = Question(margin, confidence)
    if len(y_true) == 0:
        return question.unanswered("none", 0, 0.0, NO_ROWS)
    truth, (old, new), count = prepare(metric, y_true, (incumbent, candidate), classes)
    if metric.name == "accuracy":
        return mcnemar(truth == old, truth == new, margin=margin, confidence=confidence)
    if metric.parts is None or metric.combine is None:
        return _delong(auc_of(truth, old), auc_of(truth, new), truth, question)
    if len(truth) < 2:
        return question.unanswered("t", len(truth), 0.0, Wanted(2.0, "one row is too few"))
    if metric.needs == "labels":
        return by_class(metric, truth, old, new, count, question, _of_both_classes(truth, count), seed)
    return _by_row(metric, truth, old, new, count, question)


def delong(
    y_true: Array,
    incumbent_scores: Array,
    candidate_scores: Array,
    *,
    margin: float = 0.0,
    confidence: float = 0.95,
) -> Comparison:
    """Difference of two AUCs on the same rows (DeLong 1988, ties as one half), y_true being 0/1.

    Student's t with Satterthwaite's degrees of freedom instead of the normal, since with few positives their
    number decides, and with the skewness of the rows' influences taken out.
    """
    truth = np.asarray(y_true).astype(np.bool_)
    old = binary_auc(truth, np.asarray(incumbent_scores, np.float64))
    new = binary_auc(truth, np.asarray(candidate_scores, np.float64))
    return _delong(old, new, truth.astype(np.int64), Question(margin, confidence))


# ---- AUC


def _delong(old: Auc, new: Auc, truth: Ints, question: Question) -> Comparison:
    n, per_class = len(truth), np.bincount(truth)
    present = per_class > 0
    fewest = int(per_class[present].min())
    if math.isnan(old.value):
        return question.unanswered("delong", n, 0.0, Wanted(math.inf, "all rows are of one class"))
    areas = 1 if len(per_class) <= 2 else int(present.sum())
    influence = new.influence - old.influence
    squares = np.asarray(np.bincount(truth, influence**2), np.float64)
    freedom = _satterthwaite(squares[present], np.maximum(per_class[present], 2))
    skewed = Skewed.of(new.value - old.value, influence, freedom, LEAST_MOVE / fewest / areas)
    wanted = _of_both_classes(truth, 2 if areas == 1 else areas)
    if fewest < 2 and not wanted.lacking:
        wanted = Wanted(2.0 * n, "a class has a single row")
    return _from_skewed("delong", skewed, n, question, 0.0, wanted)


def _satterthwaite(variances: Floats, rows: Ints) -> float:
    """Degrees of freedom of a sum of variances, each estimated from its own rows."""
    total = float(variances.sum())
    return total**2 / float((variances**2 / (rows - 1)).sum()) if total > 0 else float(rows.min() - 1)


# ---- metrics made of one loss per row


def _by_row(
    metric: Metric, truth: Array, old: Array, new: Array, classes: int, question: Question
) -> Comparison:
    """Log loss, Brier, MAE, RMSE and R2, all smooth in means over rows: the jackknife tells every row's influence."""
    assert metric.parts is not None and metric.combine is not None
    n = len(truth)
    parts = np.hstack([metric.parts(truth, item, classes) for item in (old, new)])
    statistic, mean = difference_of(metric, classes), parts.mean(axis=0)
    influence = without_one_row(statistic, parts, np.ones(n, np.int64)) * math.sqrt((n - 1) / n)
    skewed = Skewed.of(float(statistic(mean)), influence, n - 1.0)
    wanted = _of_both_classes(truth, classes)
    if metric.unlimited and not wanted.lacking:
        tails = light_tails(influence, n, question.margin)
        wanted = Wanted(max(wanted.rows, tails.rows), tails.lacking)
    return _from_skewed("skewness-corrected t", skewed, n, question, _one_row(statistic, mean, n), wanted)


def _one_row(statistic: Callable[[Floats], Floats], means: Floats, n: int) -> float:
    """How far one more row with the candidate's mean loss would move the metric."""
    more = means.copy()
    first = len(means) // 2  # of the candidate's half: its loss
    more[first] *= 1 + 1 / n
    return abs(float(statistic(more) - statistic(means)))


def _from_skewed(
    test: str, skewed: Skewed, n: int, question: Question, least: float, wanted: Wanted
) -> Comparison:
    room, confidence = silence(least, n, question.confidence), question.confidence
    low = min(skewed.low(confidence), skewed.estimate - room)
    high = max(skewed.high(confidence), skewed.estimate + room)

    def rows_for(distance: float) -> float:
        few = rows_of_silence(least * n, distance, confidence)
        return max(skewed.rows_for(distance, n, confidence), few)

    return question.answer(test, n, skewed.estimate, low, high, rows_for, wanted)


# ---- helpers


def _of_both_classes(truth: Array, classes: int) -> Wanted:
    """Rows enough of the rarer of two classes."""
    if classes != 2:
        return Wanted()
    n, fewest = len(truth), int(np.bincount(truth, minlength=2)[:2].min())
    rows = SURE_PER_CLASS * n / fewest if fewest else math.inf
    if fewest >= LEAST_PER_CLASS:
        return Wanted(rows)
    return Wanted(rows, f"the rarer class has {fewest} rows, and {LEAST_PER_CLASS} are wanted")
