"""The measures of quality, by name.

Each is a smooth function of means over rows (`parts` per row, `combine` of their means), except AUC, which
is a rank statistic. That one shape makes bootstrap and jackknife of any of them a matrix product, and
quality additive over shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlplatform.errors import UnknownName, UsageError
from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.auc import auc_of
from mlplatform.stats.labels import Answers, find_classes, to_codes

Needs = Literal["labels", "scores", "values"]
LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Metric:
    """A measure of quality and how it is computed.

    needs: "labels" (a class per row), "scores" (probabilities), "values" (a number per row).
    parts: (truth, answer, classes) -> rows x k; combine: (..., k) means, classes -> (...). None for AUC.
    per_row: the metric is a mean of one loss per row. unlimited: one row's loss can be of any size.
    """

    name: str
    higher_is_better: bool
    needs: Needs
    parts: Callable[[Array, Array, int], Floats] | None
    combine: Callable[[Floats, int], Floats] | None
    per_row: bool = False
    unlimited: bool = False

    def __call__(
        self,
        y_true: Array,
        y_pred: Array,
        scores: Array | None = None,
        *,
        classes: Sequence[Any] | None = None,
    ) -> float:
        """The value on these rows; NaN where it is not defined (no rows, AUC of one class).

        >>> METRICS["accuracy"](np.array([1, 0, 1]), np.array([1, 0, 0])).__round__(3)
        0.667
        """
        return self.of(
            y_true, Answers(np.asarray(y_pred), None if scores is None else as_columns(scores)), classes
        )

    def of(self, y_true: Array, answers: Answers, classes: Sequence[Any] | None = None) -> float:
        """The value of one model's answers."""
        if len(y_true) == 0:
            return float("nan")
        truth, (answer,), count = prepare(self, y_true, (answers,), classes)
        if self.parts is None or self.combine is None:
            return auc_of(truth, answer).value
        if self.needs == "labels":
            return float(self.combine(label_means(truth, answer, count), count))
        return float(self.combine(self.parts(truth, answer, count).mean(axis=0), count))

    def per_row_loss(
        self, y_true: Array, answers: Answers, classes: Sequence[Any] | None = None
    ) -> Floats | None:
        """One loss per row, lower is better, whose mean is the metric (accuracy: 1 for a wrong row); None
        if there is none.
        """
        if not self.per_row or self.parts is None:
            return None
        truth, (answer,), count = prepare(self, y_true, (answers,), classes)
        if self.needs == "labels":
            return np.asarray(truth != answer, np.float64)
        return self.parts(truth, answer, count)[:, 0]


def metric_named(name: str) -> Metric:
    """The metric of this name, or UnknownName with the nearest one."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    return METRICS[name]


def prepare(
    metric: Metric, y_true: Array, answers: Sequence[Answers], classes: Sequence[Any] | None
) -> tuple[Array, tuple[Array, ...], int]:
    """Truth and answers in the form that `parts` wants, checked; and the number of classes (0 for values)."""
    y_true = np.asarray(y_true)
    if any(len(item) != len(y_true) for item in answers):
        raise UsageError(
            what=f"{metric.name}: {len(y_true)} true values but {[len(item) for item in answers]} answers"
        )
    if metric.needs == "values":
        return _numbers(y_true), tuple(np.asarray(item.labels, np.float64) for item in answers), 0
    if metric.needs == "scores" and any(item.scores is None for item in answers):
        raise UsageError(
            what=f"{metric.name} needs probabilities, the model gives labels only",
            hint="Use accuracy or f1, or log a model that returns probabilities.",
        )
    names = find_classes(y_true, answers, classes)
    truth = to_codes(y_true, names)
    if metric.needs == "scores":
        return _scored(metric, truth, answers, len(names))
    # a label outside the classes is an answer like any other, and wrong: it gets a last, artificial class
    coded = [to_codes(item.labels, names) for item in answers]
    return _wrapped(truth, len(names)), tuple(_wrapped(item, len(names)) for item in coded), len(names)


def _numbers(truth: Array) -> Floats:
    try:
        return truth.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError(what=f"the truth of a regression must be numbers: {error}") from error


def as_columns(scores: Array) -> Floats:
    """Scores as rows x classes; a single number per row is the positive class's probability."""
    scores = np.asarray(scores, np.float64)
    return np.column_stack([1 - scores, scores]) if scores.ndim == 1 else scores


# ---- parts and combinations


def label_parts(truth: Array, answer: Array, classes: int) -> Floats:
    """Per row three indicators per class: hit, true label, answered label. A last class stands for "some
    other label".
    """
    parts = np.zeros((len(truth), 3, classes + 1))
    rows = np.arange(len(truth))
    parts[rows, 0, truth] = truth == answer
    parts[rows, 1, truth] = 1.0
    parts[rows, 2, answer] = 1.0
    return parts.reshape(len(truth), -1)


def label_means(truth: Ints, answer: Ints, classes: int) -> Floats:
    """The mean of `label_parts` over the rows, without making them."""
    size = classes + 1
    tallies = [np.bincount(item, minlength=size) for item in (truth[truth == answer], truth, answer)]
    return np.concatenate(tallies) / len(truth)


def distinct(*codes: Ints) -> tuple[Ints, Ints]:
    """An example row of each combination of codes, and how often it occurs: few, whatever n is."""
    cells = codes[0]
    for item in codes[1:]:
        cells = cells * (int(item.max(initial=0)) + 1) + item
    _, rows, counts = np.unique(cells, return_index=True, return_counts=True)
    return rows, counts.astype(np.int64)


def _accuracy(means: Floats, classes: int) -> Floats:
    return np.asarray(_tallies(means, classes)[0].sum(axis=-1))


def _balanced_accuracy(means: Floats, classes: int) -> Floats:
    hits, support, _ = _tallies(means, classes)
    return _mean_over(support > 0, hits, support)


def _f1(means: Floats, classes: int) -> Floats:
    """Of the second of two classes; with more (or one) the mean over the classes that occur in truth or
    answers.
    """
    hits, support, answered = _tallies(means, classes)
    weight = support + answered
    if classes == 2:
        hits, weight = hits[..., 1:2], weight[..., 1:2]
        return _mean_over(np.ones(weight.shape, np.bool_), 2 * hits, weight)
    return _mean_over(weight > 0, 2 * hits, weight)


def _tallies(means: Floats, classes: int) -> tuple[Floats, Floats, Floats]:
    # a mean of nothing comes out of a subtraction as 1e-17 in the jackknife: it must stay nothing
    means = np.where(means > 1e-12, means, 0.0).reshape(*means.shape[:-1], 3, classes + 1)
    return means[..., 0, :], means[..., 1, :], means[..., 2, :]


def _mean_over(present: Array, numerator: Floats, denominator: Floats) -> Floats:
    ratios = np.divide(
        numerator, denominator, out=np.zeros_like(numerator, dtype=np.float64), where=denominator > 0
    )
    return np.asarray(np.where(present, ratios, 0.0).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def _log_loss_parts(truth: Array, scores: Array, classes: int) -> Floats:
    chosen = scores[np.arange(len(truth)), truth]
    total = scores.sum(axis=1)
    shares = np.clip(chosen / np.where(total > 0, total, 1.0), LEAST_PROBABILITY, 1.0)
    return np.asarray(-np.log(shares)[:, None], np.float64)


def _brier_parts(truth: Array, scores: Array, classes: int) -> Floats:
    """Two classes: (p - y)^2 of the positive one; more: the sum over classes (Brier 1950)."""
    if classes == 2:
        return ((scores[:, 1] - truth) ** 2)[:, None]
    hot = np.zeros_like(scores)
    hot[np.arange(len(truth)), truth] = 1.0
    return np.asarray(((scores - hot) ** 2).sum(axis=1)[:, None], np.float64)


def _r2(means: Floats, classes: int) -> Floats:
    error, y, y_squared = means[..., 0], means[..., 1], means[..., 2]
    variance = y_squared - y**2
    safe = np.where(variance > 0, variance, 1.0)
    return np.asarray(np.where(variance > 0, 1 - error / safe, np.where(error > 0, 0.0, 1.0)))


def _r2_parts(truth: Array, values: Array, classes: int) -> Floats:
    centred = truth - truth.mean()  # the variance of a large constant plus a little would cancel to nothing
    return np.column_stack([(truth - values) ** 2, centred, centred**2])


def _absolute(truth: Array, values: Array, classes: int) -> Floats:
    return np.asarray(np.abs(truth - values)[:, None], np.float64)


def _squared(truth: Array, values: Array, classes: int) -> Floats:
    return np.asarray(((truth - values) ** 2)[:, None], np.float64)


def _first(means: Floats, classes: int) -> Floats:
    return means[..., 0]


def _root(means: Floats, classes: int) -> Floats:
    return np.sqrt(means[..., 0])


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", True, "labels", label_parts, _accuracy, per_row=True),
        Metric("balanced_accuracy", True, "labels", label_parts, _balanced_accuracy),
        Metric("f1", True, "labels", label_parts, _f1),
        Metric("auc", True, "scores", None, None),
        Metric("log_loss", False, "scores", _log_loss_parts, _first, per_row=True, unlimited=True),
        Metric("brier", False, "scores", _brier_parts, _first, per_row=True),
        Metric("mae", False, "values", _absolute, _first, per_row=True, unlimited=True),
        Metric("rmse", False, "values", _squared, _root, unlimited=True),
        Metric("r2", True, "values", _r2_parts, _r2, unlimited=True),
    )
}


# ---- helpers


def _scored(
    metric: Metric, truth: Ints, answers: Sequence[Answers], classes: int
) -> tuple[Array, tuple[Array, ...], int]:
    scores = tuple(item.scores for item in answers if item.scores is not None)
    if any(item.shape[1] != classes for item in scores):
        raise UsageError(
            what=f"{metric.name}: {[item.shape[1] for item in scores]} score columns for {classes} classes"
        )
    if (truth < 0).any():
        raise UsageError(
            what=f"{metric.name}: some true labels are none of the {classes} classes the model scores",
            hint="Pass `classes`, in the order of the score columns.",
        )
    return truth, scores, classes


def _wrapped(codes: Ints, classes: int) -> Ints:
    return np.where(codes < 0, classes, codes)
