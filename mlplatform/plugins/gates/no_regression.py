"""The candidate against the version that answers today, on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.errors import MlplatformError
from mlplatform.plugins.gates.common import (
    check_confidence,
    check_metric,
    check_min_n,
    classes_of,
    incumbent_answers,
    measured,
    uncompared,
    unready,
)
from mlplatform.ports.extensions import Need, Subject
from mlplatform.stats.compare import Comparison, no_worse, paired
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import METRICS

_VERDICTS = {"pass": Verdict.PASS, "fail": Verdict.FAIL, "inconclusive": Verdict.INCONCLUSIVE}


@dataclass(frozen=True)
class NoRegressionGate:
    """`{ use = "no_regression", name = "auc", margin = 0.01 }`: surely not worse than the incumbent by the
    margin.

    name: the metric; accuracy is compared by McNemar and Tango, auc by DeLong, f1 and balanced_accuracy by a paired
    bootstrap, the losses of single rows by a skewness-corrected t.
    margin: how much worse is still as good, in the metric's own unit; 0 demands that the candidate is better.
    confidence: of the one-sided bound: 0.95 lets a loss of exactly the margin through in 5 % of comparisons.
    min_n: below so many rows the gate cannot tell.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answers", "incumbent"})

    name: str
    margin: float = 0.01
    confidence: float = 0.95
    min_n: int = 100

    def __post_init__(self) -> None:
        check_metric(self.name)
        check_confidence(self.confidence)
        if not 0 <= self.margin < float("inf"):
            raise ValueError(f"margin must be 0 or more, not {self.margin}")
        check_min_n(self.min_n)

    def judge(self, subject: Subject) -> Finding:
        if subject.incumbent is None:
            return self._finding(Verdict.PASS, "there is no incumbent to fall behind")
        if refused := unready(self.name, subject):
            return self._finding(*refused)
        if why := uncompared(subject):
            return self._finding(Verdict.ERROR, why)
        before = incumbent_answers(subject)
        assert subject.answers is not None and before is not None
        try:
            comparison = self._compare(subject, before, subject.answers)
            numbers = self._numbers(subject, before, subject.answers, comparison)
        except (MlplatformError, ValueError, TypeError) as error:
            return self._finding(Verdict.ERROR, f"{self.name} cannot be compared: {error}")
        verdict = Verdict.INCONCLUSIVE if comparison.n < self.min_n else _VERDICTS[no_worse(comparison)]
        return self._finding(verdict, self._because(subject, comparison, verdict), numbers)

    def _compare(self, subject: Subject, before: Answers, after: Answers) -> Comparison:
        return paired(
            self.name,
            subject.truth,
            before,
            after,
            margin=self.margin,
            confidence=self.confidence,
            classes=classes_of(subject),
            seed=subject.seed,
        )

    def _numbers(
        self, subject: Subject, before: Answers, after: Answers, comparison: Comparison
    ) -> tuple[Measurement, ...]:
        metric, classes = METRICS[self.name], classes_of(subject)
        c = comparison
        return (
            *measured(self.name, metric.of(subject.truth, after, classes), n=c.n),
            *measured(f"{self.name} of the incumbent", metric.of(subject.truth, before, classes), n=c.n),
            *measured(f"{self.name} gained", c.estimate, c.low, c.high, c.n),
        )

    def _because(self, subject: Subject, c: Comparison, verdict: Verdict) -> str:
        assert subject.incumbent is not None
        told = f"{self.name} against {subject.incumbent.ref}: gained {c.estimate:+.4g}, {_bounds(c)}"
        more = self._enough(c) if verdict is Verdict.INCONCLUSIVE else ""
        return f"{told} ({_how(c)}){more}, on {subject.data}"

    def _enough(self, c: Comparison) -> str:
        """How many rows would have been enough, and if what."""
        for rows, case in (
            (c.n_needed, "both are equally good"),
            (c.n_as_seen, "the difference is what was seen"),
        ):
            enough = max(rows or 0, self.min_n)
            if rows is not None and enough > c.n:
                return f"; about {enough} rows would be enough if {case}"
        if c.n < self.min_n:
            return f"; {self.min_n} rows are the least"
        return "; more rows are needed to tell it from chance"

    def _finding(self, verdict: Verdict, because: str, numbers: tuple[Measurement, ...] = ()) -> Finding:
        return Finding("no_regression", verdict, because, numbers, f"{self.name} margin {self.margin:g}")


def _bounds(c: Comparison) -> str:
    return c.doubt or f"surely above {c.low:.4g} and below {c.high:.4g}"


def _how(c: Comparison) -> str:
    return f"{c.test}, {c.confidence:.0%} each, margin {c.margin:g}, n={c.n}"
