"""quality: is the model still as good as when it was let in? Where labels are missing, an estimate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.domain.verdict import Measurement
from mlplatform.domain.watch import Signal, State
from mlplatform.errors import MlplatformError
from mlplatform.ports.extensions import Reference, WindowData
from mlplatform.stats.batch import Array
from mlplatform.stats.estimate import METRICS, Estimate, QualityEstimator, interval
from mlplatform.stats.labels import Answers, find_classes, to_codes
from mlplatform.stats.metrics import Metric

ESTIMABLE = ("accuracy", "f1", "auc")


@dataclass(frozen=True)
class QualityMetric:
    """Compares a measure of quality on the window's labelled rows with the reference's.

    name: of the measure (accuracy, auc, mae ...). drop: how far it may get worse, in its own unit.
    min_labels: fewer labelled rows are no verdict. alpha: chance that a window alarms whose model is worse by
    exactly `drop`. at_least: instead of `drop`, a level that must be kept whatever the reference was (at_most for
    errors). estimate: where labels are missing, judge by the model's own calibrated probabilities; such
    an estimate alarms when it is clear, but a good one proves nothing: it cannot see the labels change.
    """

    name: str = "accuracy"
    drop: float = 0.05
    at_least: float | None = None
    at_most: float | None = None
    min_labels: int = 50
    alpha: float = 0.01
    estimate: bool = True

    def __post_init__(self) -> None:
        if self.name not in METRICS:
            raise ValueError(f"name must be one of {', '.join(METRICS)}, not {self.name!r}")
        if not 0 <= self.drop < math.inf:
            raise ValueError("drop must be 0 or more")
        level = "at_least" if METRICS[self.name].higher_is_better else "at_most"
        if (self.at_least, self.at_most) != (None, None) and getattr(self, level) is None:
            raise ValueError(f"a level of {self.name} is written {level}")
        if self.min_labels < 2:
            raise ValueError("min_labels must be at least 2")
        if not 0 < self.alpha < 0.5:
            raise ValueError("alpha must be between 0 and 0.5")

    def measure(self, reference: Reference, current: WindowData) -> Signal:
        """ALARM when it is clearly worse by more than `drop`; UNKNOWN without labels, reference or measure.

        Measurements, those that are known in this order: the measure itself, `estimated_<name>`,
        `reference_<name>`.
        """
        try:
            return self._measure(reference, current)
        except (MlplatformError, ValueError) as error:
            return self._signal(State.UNKNOWN, f"{self.name} could not be measured: {error}")

    def _measure(self, reference: Reference, current: WindowData) -> Signal:
        labelled = np.flatnonzero(current.labelled)
        now = None
        if len(labelled) >= self.min_labels:
            now = self._interval(_typed(current.truth[labelled]), current.answers.take(labelled), reference)
        seen = () if now is None else (_measurement(self.name, now),)
        if reference.answers is None or not len(reference.answers):
            if now is not None and self._level is not None:
                return self._judge_level(self._level, now, seen)
            return self._signal(State.UNKNOWN, f"the reference {self.name} is not known", seen)
        known = _typed(reference.truth)
        before = self._interval(known, reference.answers, reference)
        expected = self._expected(reference, known, current)
        if expected is not None:
            seen = (*seen, _measurement(f"estimated_{self.name}", expected))
        seen = (*seen, _measurement(f"reference_{self.name}", before))
        if now is None:
            return self._unlabelled(before, expected, len(labelled), seen)
        return self._judge(before, now, seen)

    def _judge(self, before: Estimate, now: Estimate, seen: tuple[Measurement, ...]) -> Signal:
        if self._level is not None:
            return self._judge_level(self._level, now, seen)
        loss = self._loss(before, now)
        said = f"{self.name} {_said(now)} on {now.n} labelled rows, reference {before.value:.3f}"
        if loss > self.drop:
            return self._signal(State.ALARM, f"{said}: worse by more than {self.drop:g}", seen)
        return self._signal(State.OK, f"{said}: not clearly worse by more than {self.drop:g}", seen)

    @property
    def _level(self) -> float | None:
        return self.at_least if METRICS[self.name].higher_is_better else self.at_most

    def _judge_level(self, level: float, now: Estimate, seen: tuple[Measurement, ...]) -> Signal:
        higher = METRICS[self.name].higher_is_better
        beyond = now.high < level if higher else now.low > level
        wanted = f"{'at least' if higher else 'at most'} {level:g} wanted"
        said = f"{self.name} {_said(now)} on {now.n} labelled rows, {wanted}"
        if beyond:
            return self._signal(State.ALARM, f"{said}: clearly missed", seen)
        return self._signal(State.OK, f"{said}: not clearly missed", seen)

    def _unlabelled(
        self, before: Estimate, expected: Estimate | None, labels: int, seen: tuple[Measurement, ...]
    ) -> Signal:
        few = f"{labels} labelled rows, {self.min_labels} needed to judge {self.name}"
        if expected is None:
            return self._signal(State.UNKNOWN, few, seen)
        if self._level is not None:
            guess = self._judge_level(self._level, expected, seen)
            return self._signal(
                guess.state if guess.state is State.ALARM else State.UNKNOWN,
                f"{few}; by estimate {guess.because}",
                seen,
            )
        said = f"estimated {self.name} {_said(expected)}, reference {before.value:.3f}"
        if math.isfinite(expected.low) and self._loss(before, expected) > self.drop:
            return self._signal(State.ALARM, f"{said}: worse by more than {self.drop:g}; {few}", seen)
        return self._signal(State.UNKNOWN, f"{few}; {said}", seen)

    def _loss(self, before: Estimate, now: Estimate) -> float:
        """Lower bound of how much worse it got, at confidence 1 - alpha.

        Two independent intervals combined by the squares of their reaches (Newcombe 1998, method 10), which
        keeps the skewness of each.
        """
        if METRICS[self.name].higher_is_better:
            worse, reaches = before.value - now.value, (before.value - before.low, now.high - now.value)
        else:
            worse, reaches = now.value - before.value, (before.high - before.value, now.value - now.low)
        bound = worse - math.hypot(*reaches)
        return bound if math.isfinite(bound) else -math.inf

    def _interval(self, truth: Array, answers: Answers, reference: Reference) -> Estimate:
        classes = reference.manifest.task.classes or None
        return interval(self.name, truth, answers, confidence=1 - 2 * self.alpha, classes=classes)

    def _expected(self, reference: Reference, truth: Array, current: WindowData) -> Estimate | None:
        """What the scores say, or None when they cannot."""
        before, now = reference.answers, current.answers
        if not self.estimate or self.name not in ESTIMABLE or before is None or not len(now):
            return None
        if before.scores is None or now.scores is None or before.scores.shape[1] != now.scores.shape[1]:
            return None
        classes = find_classes(truth, (before,), reference.manifest.task.classes or None)
        codes = to_codes(truth, classes)
        fitted = QualityEstimator.fit(before.scores[codes >= 0], codes[codes >= 0])
        expected = fitted.estimate(now.scores, to_codes(now.labels, classes), 1 - 2 * self.alpha)
        if self.name == "accuracy":
            return expected.accuracy
        value = expected.f1 if self.name == "f1" else expected.auc
        return None if value is None else Estimate(value, math.nan, math.nan, len(now), 1 - 2 * self.alpha)

    def _signal(self, state: State, because: str, seen: tuple[Measurement, ...] = ()) -> Signal:
        return Signal("quality", state, because, retrain=True, measurements=seen, details=self._details())

    def _details(self) -> Mapping[str, Any]:
        metric: Metric = METRICS[self.name]
        return {
            "measure": self.name,
            "drop": self.drop,
            "alpha": self.alpha,
            "higher_is_better": metric.higher_is_better,
        }


def _typed(truth: Array) -> Array:
    """Labels as one type: an object column of numbers is numbers."""
    return np.array(truth.tolist()) if truth.dtype == object else truth


def _measurement(name: str, estimate: Estimate) -> Measurement:
    low, high = (value if math.isfinite(value) else None for value in (estimate.low, estimate.high))
    return Measurement(name, estimate.value, low, high, estimate.n)


def _said(estimate: Estimate) -> str:
    if not math.isfinite(estimate.low) or not math.isfinite(estimate.high):
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
