"""Paired comparison by resampling: metrics made of counts per class (F1, balanced accuracy), and any function."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.comparison import Comparison, Question, Wanted, rows_of_silence, silence
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import Metric, distinct, label_means, label_parts
from mlplatform.stats.resample import RESAMPLES, Bootstrap, bootstrap_means, bootstrap_rows
from mlplatform.stats.skewed import Skewed, light_tails

LARGEST_PARTS = 20_000_000
"""Cells of the row features above which rows are resampled one by one (hundreds of classes)."""


def by_class(
    metric: Metric,
    truth: Ints,
    old: Ints,
    new: Ints,
    classes: int,
    question: Question,
    wanted: Wanted,
    seed: int,
) -> Comparison:
    """Bootstrap of rows in pairs, `truth` and answers being codes of classes."""
    if wanted.lacking:
        means = np.concatenate([label_means(truth, item, classes) for item in (old, new)])
        estimate = float(difference_of(metric, classes)(means))
        return question.unanswered("bootstrap", len(truth), estimate, wanted)
    boot = _label_bootstrap(metric, truth, old, new, classes, seed)
    least = _one_flip(metric, boot.n, label_means(truth, new, classes), classes)
    return _from_bootstrap(boot, question, least, wanted)


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
    """Any function(y_true, labels, scores) -> number: rows are resampled in pairs, BCa or wider bounds.

    Two calls of `function` per resample; the named metrics are much cheaper through `paired`. Nothing is known of the
    function, so it is taken for one whose rows can weigh anything.
    """
    y_true = np.asarray(y_true)
    sign = 1.0 if higher_is_better else -1.0

    def difference(rows: Ints) -> float:
        old, new = incumbent.take(rows), candidate.take(rows)
        truth = y_true[rows]
        return sign * (function(truth, new.labels, new.scores) - function(truth, old.labels, old.scores))

    question, n = Question(margin, confidence), len(y_true)
    if n < 2:
        return question.unanswered("bootstrap", n, 0.0, Wanted(2.0, "one row is too few"))
    boot = bootstrap_rows(difference, n, seed, resamples)
    return _from_bootstrap(boot, question, 0.0, light_tails(boot.influence, n, 0.0))


def difference_of(metric: Metric, classes: int) -> Callable[[Floats], Floats]:
    """Means of the incumbent's and of the candidate's parts -> how much better the candidate is."""
    combine, sign = metric.combine, 1.0 if metric.higher_is_better else -1.0
    assert combine is not None

    def statistic(means: Floats) -> Floats:
        old, new = np.split(means, 2, axis=-1)
        return np.asarray(sign * (combine(new, classes) - combine(old, classes)))

    return statistic


# ---- helpers


def _label_bootstrap(metric: Metric, truth: Ints, old: Ints, new: Ints, classes: int, seed: int) -> Bootstrap:
    rows, counts = distinct(truth, old, new)
    difference = difference_of(metric, classes)
    if len(rows) * 6 * (classes + 1) <= LARGEST_PARTS:
        parts = np.hstack([label_parts(truth[rows], item[rows], classes) for item in (old, new)])
        return bootstrap_means(difference, parts, counts, seed)

    def of_rows(rows: Ints) -> float:
        means = [label_means(truth[rows], item[rows], classes) for item in (old, new)]
        return float(difference(np.concatenate(means)))

    return bootstrap_rows(of_rows, len(truth), seed)


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


def _from_bootstrap(boot: Bootstrap, question: Question, least: float, wanted: Wanted) -> Comparison:
    """`least`: the effect of one flipped answer."""
    if not len(boot.values):
        return question.unanswered("bootstrap", boot.n, 0.0, Wanted(math.inf, "it is defined in no resample"))
    influence = boot.influence * math.sqrt((boot.n - 1) / boot.n)
    skewed = Skewed.of(boot.estimate, influence, boot.n - 1.0, least, boot.counts)
    student = Skewed(boot.estimate, skewed.error, 0.0, 0.0, boot.freedom)

    def rows_for(distance: float) -> float:
        few = rows_of_silence(least * boot.n, distance, question.confidence)
        return max(few, *(one.rows_for(distance, boot.n, question.confidence) for one in (skewed, student)))

    low, high = _outer(boot, least, question.confidence, -1.0), _outer(boot, least, question.confidence, 1.0)
    return question.answer("bootstrap", boot.n, boot.estimate, low, high, rows_for, wanted)


def _outer(boot: Bootstrap, least: float, confidence: float, side: float) -> float:
    """The widest of BCa, bootstrap-t and Student's t, and of what rows that do not differ leave open.

    On few or heavy-tailed rows each of them passes too much in another case: BCa when the skewness it
    corrects is noise, t when it is real.
    """
    level = confidence if side > 0 else 1 - confidence
    bounds = [boot.bound(level), boot.student_bound(level)]
    bounds.append(boot.estimate + side * silence(least, boot.n, confidence))
    if len(boot.studentized):
        bounds.append(boot.studentized_bound(level))
    return max(bounds) if side > 0 else min(bounds)
