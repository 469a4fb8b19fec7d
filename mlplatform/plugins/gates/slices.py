"""Is the candidate good enough in every group of rows, not only on the whole?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.errors import MlplatformError
from mlplatform.plugins.gates.common import (
    check_bins,
    check_confidence,
    check_metric,
    check_min_n,
    classes_of,
    groups,
    incumbent_answers,
    measured,
    some,
    told,
    uncompared,
    unready,
)
from mlplatform.ports.extensions import Need, Subject
from mlplatform.stats.arrays import Bools
from mlplatform.stats.compare import paired
from mlplatform.stats.estimate import Estimate, interval
from mlplatform.stats.fairness import Contrast, difference, holm_standing, rows_enough, two_sided
from mlplatform.stats.metrics import METRICS
from mlplatform.stats.slices import Slice


@dataclass(frozen=True)
class SlicesGate:
    """`{ use = "slices", by = ["sex", "race"], name = "accuracy", margin = 0.03 }`: no group of rows falls behind.

    Every value of every column of `by` is a slice; rows without a value are one, too. Judged in each slice is, with
    `at_least` or `at_most`, the candidate against that limit; otherwise the candidate against the incumbent on the
    slice's own rows; and where there is no incumbent yet, the candidate on the slice against the candidate on all
    other rows. PASS: surely good enough in every slice. FAIL: surely too bad in at least one. INCONCLUSIVE: neither,
    or a slice has fewer than `min_n` rows.

    by: one column of the rows or several: features, or what was handed over or captured beside them.
    name: accuracy, balanced_accuracy, f1, auc, log_loss, brier, mae, rmse or r2.
    margin: how much worse is still good enough, in the metric's own unit; unused with at_least and at_most.
    at_least, at_most: instead of the comparison a limit for every slice; at most one of them.
    bins: cuts numbers and times with more values into so many groups of about equal size; 0: no cutting.
    min_n: a slice with fewer rows cannot be told.
    confidence: of the one-sided bounds. For a PASS each slice has to keep it, so that one bad slice passes in 5 % of
    checks at 0.95 (Berger 1982); for a FAIL it holds over all slices together, by Holm's correction (1979).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answers", "incumbent"})

    by: str | tuple[str, ...]
    name: str = "accuracy"
    margin: float = 0.03
    at_least: float | None = None
    at_most: float | None = None
    bins: int = 0
    min_n: int = 100
    confidence: float = 0.95

    def __post_init__(self) -> None:
        check_metric(self.name)
        check_confidence(self.confidence)
        check_min_n(self.min_n)
        check_bins(self.bins)
        if not self.by:
            raise ValueError('by must name at least one column, for example ["sex"]')
        if self.at_least is not None and self.at_most is not None:
            raise ValueError("at most one of at_least and at_most may be given")
        if not all(math.isfinite(x) for x in (self.margin, self.at_least or 0.0, self.at_most or 0.0)):
            raise ValueError("margin, at_least and at_most must be finite numbers")
        if self.margin < 0:
            raise ValueError(f"margin must be 0 or more, not {self.margin}")

    def judge(self, subject: Subject) -> Finding:
        if refused := unready(self.name, subject):
            return self._finding(*refused)
        if not self._absolute and subject.incumbent is not None and (why := uncompared(subject)):
            return self._finding(Verdict.ERROR, why)
        try:
            slices = [s for column in self._columns for s in groups(subject, column, self.bins)]
            judged = [_Judged(s, self._look(subject, s.rows), self.confidence) for s in slices]
            return self._judge(subject, judged)
        except (MlplatformError, ValueError, TypeError) as error:
            return self._finding(Verdict.ERROR, told(error))

    def _judge(self, subject: Subject, judged: list[_Judged]) -> Finding:
        large = [one for one in judged if one.slice.n >= self.min_n]
        failing = [large[i] for i in holm_standing([self._fails(one) for one in large], self.confidence)]
        unsure = [one for one in judged if one not in failing and not self._passes(one)]
        numbers = tuple(number for one in judged for number in self._measured(subject, one))
        on = f"on {subject.data}"
        if failing:
            parts = some([self._said(subject, one) for one in failing])
            because = f"{len(failing)} of {len(judged)} slices: {parts}; {self._demanded}, {on}"
            return self._finding(Verdict.FAIL, because, numbers)
        if unsure or not judged:
            parts = some([f"{self._said(subject, one)}{self._wanted(one)}" for one in unsure]) or "no rows"
            because = f"cannot tell in {len(unsure)} of {len(judged)} slices: {parts}, {on}"
            return self._finding(Verdict.INCONCLUSIVE, because, numbers)
        lowest = min(judged, key=lambda one: one.contrast.low)
        because = f"kept in all {len(judged)} slices, least surely by {self._said(subject, lowest)}, {on}"
        return self._finding(Verdict.PASS, because, numbers)

    # --- one slice ---

    def _look(self, subject: Subject, rows: Bools) -> Callable[[float], Contrast]:
        """The slice's value, oriented so that higher is better, with bounds at a confidence."""
        if self._absolute:
            return lambda confidence: self._against_zero(subject, rows, confidence)
        if subject.incumbent is None:
            return lambda confidence: self._against_rest(subject, rows, confidence)
        return lambda confidence: self._against_incumbent(subject, rows, confidence)

    def _against_zero(self, subject: Subject, rows: Bools, confidence: float) -> Contrast:
        return _oriented(self._value(subject, rows, confidence), METRICS[self.name].higher_is_better)

    def _against_rest(self, subject: Subject, rows: Bools, confidence: float) -> Contrast:
        if rows.all():
            return Contrast(math.nan, -math.inf, math.inf)
        ours, theirs = (self._value(subject, chosen, confidence) for chosen in (rows, ~rows))
        contrast = difference(ours, theirs)
        return contrast if METRICS[self.name].higher_is_better else _turned(contrast)

    def _against_incumbent(self, subject: Subject, rows: Bools, confidence: float) -> Contrast:
        before, after = incumbent_answers(subject), subject.answers
        assert before is not None and after is not None
        found = paired(
            self.name,
            subject.truth[rows],
            before.take(rows),
            after.take(rows),
            margin=self.margin,
            confidence=confidence,
            classes=classes_of(subject),
            seed=subject.seed,
        )
        return Contrast(found.estimate, found.low, found.high)

    def _value(self, subject: Subject, rows: Bools, confidence: float) -> Estimate:
        assert subject.answers is not None
        return interval(
            self.name,
            subject.truth[rows],
            subject.answers.take(rows),
            confidence=two_sided(confidence),
            classes=classes_of(subject),
            seed=subject.seed,
        )

    # --- the verdict on it ---

    @property
    def _columns(self) -> tuple[str, ...]:
        return (self.by,) if isinstance(self.by, str) else self.by

    @property
    def _absolute(self) -> bool:
        return self.at_least is not None or self.at_most is not None

    @property
    def _bar(self) -> float:
        """What the oriented value has to keep above."""
        if not self._absolute:
            return -self.margin
        limit = self.at_least if self.at_least is not None else self.at_most or 0.0
        return limit if self.at_least is not None else -limit

    def _passes(self, one: _Judged) -> bool:
        low = one.contrast.low
        return one.slice.n >= self.min_n and (low >= self._bar if self._absolute else low > self._bar)

    def _fails(self, one: _Judged) -> Callable[[float], bool]:
        return lambda confidence: one.at(confidence).high < self._bar

    # --- words ---

    def _said(self, subject: Subject, one: _Judged) -> str:
        if math.isinf(one.contrast.low) and math.isinf(one.contrast.high):
            return f"{one.slice.name} (n={one.slice.n})"
        value, low, high = self._shown(one.contrast)
        sign = "" if self._absolute else "+"
        numbers = f"{format(value, sign + '.3f')} [{format(low, sign + '.3f')}, {format(high, sign + '.3f')}]"
        against = self._against(subject)
        return f"{one.slice.name} {self.name}{against} {numbers} (n={one.slice.n})"

    @property
    def _demanded(self) -> str:
        if not self._absolute:
            return f"a loss of less than {self.margin:g} is allowed" if self.margin else "no loss is allowed"
        word, limit = ("least", self.at_least) if self.at_least is not None else ("most", self.at_most)
        return f"at {word} {limit:g} is demanded"

    def _against(self, subject: Subject) -> str:
        if self._absolute:
            return ""
        return f" against {subject.incumbent.ref}" if subject.incumbent else " against the other rows"

    def _wanted(self, one: _Judged) -> str:
        """How many rows of the slice would be enough, more or less."""
        value, low, high = one.contrast.value, one.contrast.low, one.contrast.high
        reach = value - low if value > self._bar else high - value
        enough = rows_enough(one.slice.n, abs(value - self._bar), reach)
        if enough is None and one.slice.n >= self.min_n:
            return ", more rows are needed"
        return f", about {max(enough or 0, self.min_n)} would be enough"

    def _measured(self, subject: Subject, one: _Judged) -> Iterator[Measurement]:
        own = self._value(subject, one.slice.rows, self.confidence)
        yield from measured(f"{self.name} {one.slice.name}", own.value, own.low, own.high, own.n)
        if not self._absolute:
            c = one.contrast
            yield from measured(f"{self.name} gained {one.slice.name}", c.value, c.low, c.high, own.n)

    def _shown(self, contrast: Contrast) -> tuple[float, float, float]:
        """In the metric's own direction where it stands against a limit; a gain is always oriented."""
        if self._absolute and not METRICS[self.name].higher_is_better:
            contrast = _turned(contrast)
        return contrast.value, contrast.low, contrast.high

    def _finding(self, verdict: Verdict, because: str, numbers: tuple[Measurement, ...] = ()) -> Finding:
        limit = f"margin {self.margin:g}"
        if self._absolute:
            limit = f"at_least {self.at_least}" if self.at_least is not None else f"at_most {self.at_most}"
        return Finding(
            "slices", verdict, because, numbers, f"{self.name} {limit} by {', '.join(self._columns)}"
        )


class _Judged:
    """A slice and its bounds at any confidence."""

    def __init__(self, of: Slice, at: Callable[[float], Contrast], confidence: float) -> None:
        self.slice, self.at, self.contrast = of, at, at(confidence)


def _oriented(estimate: Estimate, higher_is_better: bool) -> Contrast:
    contrast = Contrast(estimate.value, estimate.low, estimate.high)
    return contrast if higher_is_better else _turned(contrast)


def _turned(contrast: Contrast) -> Contrast:
    return Contrast(-contrast.value, -contrast.high, -contrast.low)
