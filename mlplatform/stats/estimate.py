"""How good is one model? A value with its interval where there are labels, an estimate where there are none
yet.

Intervals here are two-sided at `confidence` (unlike compare.py, whose bounds are one-sided).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats import special
from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.auc import auc_of
from mlplatform.stats.calibrate import Calibrator, isotonic
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import METRICS, Metric, as_columns, distinct, metric_named, prepare
from mlplatform.stats.resample import bootstrap_means

__all__ = ["METRICS", "Estimate", "Expected", "QualityEstimator", "estimate_accuracy", "interval", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A value, its two-sided interval, and how many rows it comes from. Without rows all three are NaN."""

    value: float
    low: float
    high: float
    n: int
    confidence: float


def interval(
    metric: str | Metric,
    y_true: Array,
    answers: Answers,
    *,
    confidence: float = 0.95,
    classes: Sequence[Any] | None = None,
    seed: int = 0,
) -> Estimate:
    """The metric on these rows: Wilson for accuracy, DeLong (on the logit scale) for AUC, t for a mean
    loss, else BCa. NaN for a metric over classes where only one class occurs.
    """
    metric = metric_named(metric) if isinstance(metric, str) else metric
    n = len(y_true)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, confidence)
    truth, (answer,), count = prepare(metric, y_true, (answers,), classes)
    if metric.name == "accuracy":
        return wilson(int((truth == answer).sum()), n, confidence)
    if metric.parts is None or metric.combine is None:
        return _auc_interval(truth, answer, confidence)
    if metric.needs == "labels" and (truth == truth[0]).all():
        # Whoever always answers the only class there is would be perfect.
        return Estimate(math.nan, -math.inf, math.inf, n, confidence)
    if n < 2:
        return Estimate(metric.of(y_true, answers, classes), -math.inf, math.inf, n, confidence)
    rows, counts = (
        distinct(truth, answer) if metric.needs == "labels" else (np.arange(n), np.ones(n, np.int64))
    )
    parts, combine = metric.parts(truth[rows], answer[rows], count), metric.combine
    if metric.per_row:
        return _mean_interval(parts[:, 0], confidence)
    boot = bootstrap_means(lambda means: combine(means, count), parts, counts, seed)
    tail = (1 - confidence) / 2
    return Estimate(boot.estimate, boot.bound(tail), boot.bound(1 - tail), n, confidence)


def wilson(hits: float, n: int, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's interval (1927).

    >>> round(wilson(0, 30).high, 3)
    0.114
    """
    if n == 0:
        return Estimate(math.nan, 0.0, 1.0, 0, confidence)
    z_squared = float(special.ndtri(0.5 + confidence / 2)) ** 2
    share = hits / n
    centre = (share + z_squared / (2 * n)) / (1 + z_squared / n)
    reach = math.sqrt(z_squared * (share * (1 - share) / n + z_squared / (4 * n * n))) / (1 + z_squared / n)
    return Estimate(
        share, min(share, max(0.0, centre - reach)), max(share, min(1.0, centre + reach)), n, confidence
    )


# ---- quality without labels


@dataclass(frozen=True, eq=False)
class Expected:
    """What the scores say the quality is, if the meaning of a score has not changed since the reference.

    `confusion` holds expected shares of the rows (true class x answered class); `f1` is that of the second
    of two classes, else the mean; `auc` is given for two classes.
    """

    accuracy: Estimate
    confusion: Floats
    f1: float
    auc: float | None


@dataclass(frozen=True, eq=False)
class QualityEstimator:
    """Confidence-based performance estimation (CBPE; Kivimaki et al. 2025, arXiv 2407.08649), fitted on
    labelled rows.

    One isotonic curve per class (two classes: one), then expected confusion: a row answered "a" whose
    calibrated probability of "b" is 0.3 adds 0.3 to cell (b, a). Blind to a change of the labels given the
    score: settle it against the truth when labels arrive.
    """

    calibrators: tuple[Calibrator, ...]
    confidence_curve: Calibrator
    rows: int
    residual_variance: float

    @classmethod
    def fit(cls, scores: Array, codes: Ints) -> QualityEstimator:
        """scores: rows x classes; codes: the true column of each row."""
        columns = as_columns(scores)
        codes = np.asarray(codes, np.int64)
        if len(columns) != len(codes) or len(codes) == 0:
            raise UsageError(
                what=f"calibration needs as many labels as scores: {len(codes)} and {len(columns)}"
            )
        watched = [1] if columns.shape[1] == 2 else range(columns.shape[1])
        curves = tuple(isotonic(columns[:, c], codes == c) for c in watched)
        hits = columns.argmax(axis=1) == codes
        share = float(hits.mean())
        return cls(curves, isotonic(columns.max(axis=1), hits), len(codes), share * (1 - share))

    def calibrated(self, scores: Array) -> Floats:
        """Probabilities as the reference bears them out, rows x classes."""
        columns = as_columns(scores)
        if len(self.calibrators) == 1:
            positive = self.calibrators[0](columns[:, 1])
            return np.column_stack([1 - positive, positive])
        raw = np.column_stack([curve(columns[:, c]) for c, curve in enumerate(self.calibrators)])
        # one-against-rest curves are biased for the class that won: its chance has a curve of its own
        rows, top = np.arange(len(raw)), columns.argmax(axis=1)
        raw += 1e-9  # where no other class has a chance, they share what is left
        raw[rows, top] = 0.0
        won = self.confidence_curve(columns.max(axis=1))
        raw *= ((1 - won) / raw.sum(axis=1))[:, None]
        raw[rows, top] = won
        return np.asarray(raw, np.float64)

    def estimate(self, scores: Array, answers: Ints | None = None, confidence: float = 0.95) -> Expected:
        """Expected quality on unlabelled rows; `answers` (column indices) default to the likeliest class."""
        columns = as_columns(scores)
        codes = columns.argmax(axis=1) if answers is None else np.asarray(answers, np.int64)
        probabilities = self.calibrated(columns)
        n, width = probabilities.shape
        if n == 0:
            blank = Estimate(math.nan, math.nan, math.nan, 0, confidence)
            return Expected(blank, np.zeros((width, width)), math.nan, None)
        confusion = np.zeros((width, width))
        for answer in range(width):
            confusion[:, answer] = probabilities[codes == answer].sum(axis=0) / n
        auc = _expected_auc(columns[:, 1], probabilities[:, 1]) if width == 2 else None
        return Expected(
            self._accuracy(probabilities[np.arange(n), codes], confidence), confusion, _f1_of(confusion), auc
        )

    def _accuracy(self, chances: Floats, confidence: float) -> Estimate:
        """The labels' own chance plus the error of the calibration, both shrinking with their rows."""
        n, value = len(chances), float(chances.mean())
        error = math.sqrt(float((chances * (1 - chances)).mean()) / n + self.residual_variance / self.rows)
        reach = float(special.ndtri(0.5 + confidence / 2)) * error
        return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), n, confidence)


def estimate_accuracy(
    reference_scores: Array, reference_codes: Ints, current_scores: Array, confidence: float = 0.95
) -> Expected:
    """Fit on labelled reference rows and estimate the quality on unlabelled current ones, in one step."""
    return QualityEstimator.fit(reference_scores, reference_codes).estimate(
        current_scores, confidence=confidence
    )


# ---- helpers


def _mean_interval(losses: Floats, confidence: float) -> Estimate:
    n, value = len(losses), float(losses.mean())
    reach = float(special.stdtrit(n - 1, 0.5 + confidence / 2)) * float(losses.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, value - reach, value + reach, n, confidence)


def _auc_interval(truth: Ints, scores: Floats, confidence: float) -> Estimate:
    area = auc_of(truth, scores)
    n, per_class = len(truth), np.bincount(truth)
    if math.isnan(area.value):
        return Estimate(area.value, 0.0, 1.0, n, confidence)
    smaller = int(per_class[per_class > 0].min())
    error = math.sqrt(float((area.influence**2).sum()))
    if error < 0.5 / smaller:
        # Too little variation to be measured: no more than that of a share of the smaller class's rows (Birnbaum and
        # Klose 1957).
        return replace(wilson(area.value * smaller, smaller, confidence), n=n)
    logit = special.logit(area.value)
    reach = float(special.ndtri(0.5 + confidence / 2)) * error / (area.value * (1 - area.value))
    low, high = special.expit(logit - reach), special.expit(logit + reach)
    return Estimate(area.value, float(low), float(high), n, confidence)


def _expected_auc(scores: Floats, positive: Floats) -> float | None:
    """Chance that a random positive outranks a random negative, every row being both in part."""
    _, inverse = np.unique(scores, return_inverse=True)
    up, down = np.bincount(inverse, positive), np.bincount(inverse, 1 - positive)
    pairs = float(up.sum() * down.sum())
    return float(up @ (np.cumsum(down) - down / 2)) / pairs if pairs > 0 else None


def _f1_of(confusion: Floats) -> float:
    weight = confusion.sum(axis=0) + confusion.sum(axis=1)
    each = np.divide(2 * np.diag(confusion), weight, out=np.zeros(len(weight)), where=weight > 0)
    return float(each[1]) if len(each) == 2 else float(each[weight > 0].mean())
