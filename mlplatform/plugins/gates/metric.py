"""A metric of the candidate against a limit of the policy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.errors import MlplatformError
from mlplatform.plugins.gates.common import (
    check_confidence,
    check_metric,
    check_min_n,
    classes_of,
    measured,
    unready,
)
from mlplatform.ports.extensions import Need, Subject
from mlplatform.stats.estimate import Estimate, interval


@dataclass(frozen=True)
class MetricGate:
    """`{ use = "metric", name = "auc", at_least = 0.8 }`: the measured value must keep to the limit.

    name: accuracy, balanced_accuracy, f1, auc, log_loss, brier, mae, rmse or r2.
    at_least, at_most: the limit; exactly one of them.
    confidence: of the two-sided interval in the finding.
    min_n: below so many rows the gate cannot tell.
    strict: the whole interval must keep to the limit; an interval around the limit is INCONCLUSIVE.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answers"})

    name: str
    at_least: float | None = None
    at_most: float | None = None
    confidence: float = 0.95
    min_n: int = 100
    strict: bool = False

    def __post_init__(self) -> None:
        check_metric(self.name)
        check_confidence(self.confidence)
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("exactly one of at_least and at_most must be given")
        if not math.isfinite(self._limit):
            raise ValueError(f"{self._word} must be a finite number, not {self._limit}")
        check_min_n(self.min_n)

    def judge(self, subject: Subject) -> Finding:
        if refused := unready(self.name, subject):
            return self._finding(*refused)
        assert subject.answers is not None
        try:
            estimate = interval(
                self.name,
                subject.truth,
                subject.answers,
                confidence=self.confidence,
                classes=classes_of(subject),
                seed=subject.seed,
            )
        except (MlplatformError, ValueError, TypeError) as error:
            return self._finding(Verdict.ERROR, f"{self.name} cannot be computed: {error}")
        verdict, because = self._judge(estimate)
        numbers = measured(self.name, estimate.value, estimate.low, estimate.high, estimate.n)
        return self._finding(verdict, f"{because}, on {subject.data}", numbers)

    @property
    def _word(self) -> str:
        return "at_least" if self.at_least is not None else "at_most"

    @property
    def _limit(self) -> float:
        return self.at_least if self.at_least is not None else self.at_most or 0.0

    def _judge(self, estimate: Estimate) -> tuple[Verdict, str]:
        said = (
            f"{self.name} is {estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}] on {estimate.n} rows, "
            f"{self._word.replace('_', ' ')} {self._limit:g} is demanded{' of the whole interval' * self.strict}"
        )
        if not math.isfinite(estimate.value):
            return Verdict.INCONCLUSIVE, f"{self.name} is not defined on these {estimate.n} rows"
        if estimate.n < self.min_n:
            return Verdict.INCONCLUSIVE, f"{said}; {self.min_n} rows would be enough"
        if not self.strict:
            return (Verdict.PASS if self._keeps(estimate.value) else Verdict.FAIL), said
        if self._keeps(estimate.low) and self._keeps(estimate.high):
            return Verdict.PASS, said
        if not self._keeps(estimate.low) and not self._keeps(estimate.high):
            return Verdict.FAIL, said
        return Verdict.INCONCLUSIVE, f"{said}, which lies around it{self._enough(estimate)}"

    def _keeps(self, value: float) -> bool:
        return value >= self._limit if self.at_least is not None else value <= self._limit

    def _enough(self, estimate: Estimate) -> str:
        """Intervals shrink with the root of the rows."""
        distance = abs(estimate.value - self._limit)
        reach = max(estimate.value - estimate.low, estimate.high - estimate.value)
        if not distance or not math.isfinite(reach):
            return ""
        return f"; about {math.ceil(estimate.n * (reach / distance) ** 2)} rows would be enough"

    def _finding(self, verdict: Verdict, because: str, numbers: tuple[Measurement, ...] = ()) -> Finding:
        return Finding("metric", verdict, because, numbers, f"{self.name} {self._word} {self._limit:g}")
