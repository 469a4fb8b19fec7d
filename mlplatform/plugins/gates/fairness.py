"""Are groups of people treated alike? Selection rates and error rates, group against group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import ClassVar

import numpy as np

from mlplatform.domain.verdict import Finding, Measurement, Verdict, worst
from mlplatform.errors import MlplatformError, UnknownName
from mlplatform.plugins.gates.common import (
    check_bins,
    check_confidence,
    check_min_n,
    classes_of,
    groups,
    measured,
    not_finite,
    some,
    told,
)
from mlplatform.ports.extensions import Need, Subject
from mlplatform.stats.arrays import Array, Bools
from mlplatform.stats.fairness import AtLeastRatio, AtMostDifference, Demand, Pair, Rate, holm_standing
from mlplatform.stats.labels import to_codes


@dataclass(frozen=True)
class FairnessGate:
    """`{ use = "fairness", by = "sex", favourable = ">50K", selection_ratio = 0.8 }`: groups are chosen alike.

    Judged is the candidate alone, on the same rows as everything else; every value of the column is a group, and rows
    without a value are one, too. PASS: surely within the limit for every pair of groups. FAIL: surely beyond it for
    one, with Holm's correction over the pairs. INCONCLUSIVE: neither, or a group has fewer than `min_n` rows.

    by: column with the groups: a feature, or one that was handed over or captured beside them.
    favourable: the class that people want to be given.
    selection_ratio: least share of rows given the favourable class in a group, over the share in any other: 0.8 is
    the four-fifths rule (29 CFR 1607.4 D).
    odds_difference: largest difference between groups of the share that is given the favourable class, among those
    who deserved it (true positive rate) and among those who did not (false positive rate): equalized odds (Hardt,
    Price and Srebro 2016).
    bins: cuts numbers with more values into so many groups of about equal size; 0: no cutting.
    min_n: a group with fewer rows cannot be told.
    confidence: of the one-sided bounds: Donner and Zou (2012) for the ratio, Newcombe (1998) for differences.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answers"})

    by: str
    favourable: str | int | float | bool
    selection_ratio: float | None = None
    odds_difference: float | None = None
    bins: int = 0
    min_n: int = 100
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.selection_ratio is None and self.odds_difference is None:
            raise ValueError("selection_ratio or odds_difference must be given")
        if self.selection_ratio is not None and not 0 < self.selection_ratio <= 1:
            raise ValueError(f"selection_ratio must be above 0 and at most 1, not {self.selection_ratio}")
        if self.odds_difference is not None and not 0 <= self.odds_difference < 1:
            raise ValueError(f"odds_difference must be between 0 and 1, not {self.odds_difference}")
        check_bins(self.bins)
        check_min_n(self.min_n)
        check_confidence(self.confidence)

    def judge(self, subject: Subject) -> Finding:
        if subject.answers is not None and (bad := not_finite(subject.answers)):
            because = f"{bad} of {len(subject.truth)} answers are not finite numbers"
            return self._finding(Verdict.FAIL, because)
        try:
            parts = list(self._parts(subject))
        except (MlplatformError, ValueError, TypeError) as error:
            return self._finding(Verdict.ERROR, told(error))
        verdict = worst(parts)
        because = "; ".join(part.because for part in parts if part.verdict is verdict)
        numbers = tuple(number for part in parts for number in part.measurements)
        return self._finding(verdict, f"{because}, on {subject.data}", numbers)

    def _parts(self, subject: Subject) -> Iterator[Finding]:
        selected, deserving = self._chosen(subject)
        found = groups(subject, self.by, self.bins)
        if small := [f"{group.name} has {group.n} rows" for group in found if group.n < self.min_n]:
            yield self._finding(Verdict.INCONCLUSIVE, f"{some(small)}, {self.min_n} would be enough")
        large = [group for group in found if group.n >= self.min_n]
        if len(large) < 2:
            yield self._finding(Verdict.INCONCLUSIVE, f"there are not two groups of {self.by} to compare")
            return
        if self.selection_ratio is not None:
            rates = [Rate.of(group.name, selected, group.rows) for group in large]
            yield self._judge("selection rate", rates, AtLeastRatio(self.selection_ratio))
        if self.odds_difference is not None:
            for name, among in (("true positive rate", deserving), ("false positive rate", ~deserving)):
                rates = [Rate.of(group.name, selected, group.rows & among) for group in large]
                # Both rates make one claim: each may err in half of the cases.
                yield self._judge(name, rates, AtMostDifference(self.odds_difference), claims=2)

    def _chosen(self, subject: Subject) -> tuple[Bools, Bools]:
        """Rows that are given the favourable class, and rows that deserve it."""
        if subject.manifest.task.kind != "classification":
            raise ValueError(f"fairness is for classification, the task is {subject.manifest.task.kind}")
        if subject.answers is None:
            raise ValueError("the candidate's answers were not measured")
        wanted: Array = np.asarray([self.favourable], dtype=object)
        classes = classes_of(subject)
        if classes is not None and (to_codes(np.asarray(classes, dtype=object), wanted) < 0).all():
            raise UnknownName("class of the model", str(self.favourable), map(str, classes))
        return to_codes(subject.answers.labels, wanted) == 0, to_codes(subject.truth, wanted) == 0

    def _judge(self, name: str, rates: Sequence[Rate], demand: Demand, claims: int = 1) -> Finding:
        """All pairs of groups, each in both directions for a PASS; in the direction that was seen for a FAIL."""
        pairs = [Pair(a, b, demand) for a, b in permutations(rates, 2)]
        seen = [pair for pair in pairs if 0 < pair.badness(self.confidence) < math.inf]
        level = 1 - (1 - self.confidence) / claims
        failing = [seen[i] for i in holm_standing([pair.surely_beyond for pair in seen], level)]
        unsure = [pair for pair in pairs if not pair.surely_within(self.confidence)]
        numbers = self._measured(name, rates, self._worst_first(pairs)[0])
        if failing:
            named = [self._said(name, pair) for pair in self._worst_first(failing)]
            return self._finding(Verdict.FAIL, some(named), numbers)
        if unsure:
            once = {
                frozenset((pair.a.name, pair.b.name)): pair for pair in reversed(self._worst_first(unsure))
            }
            named = [
                self._said(name, pair) + self._wanted(pair) for pair in self._worst_first([*once.values()])
            ]
            return self._finding(Verdict.INCONCLUSIVE, f"cannot tell: {some(named)}", numbers)
        return self._finding(Verdict.PASS, self._said(name, self._worst_first(pairs)[0]), numbers)

    def _worst_first(self, pairs: Sequence[Pair]) -> list[Pair]:
        return sorted(pairs, key=lambda pair: pair.badness(self.confidence), reverse=True)

    def _said(self, name: str, pair: Pair) -> str:
        c, a, b = pair.at(self.confidence), pair.a, pair.b
        if math.isnan(c.value):
            return f"{name} of {a.name} (n={a.n}) and {b.name} (n={b.n}) cannot be compared"
        return (
            f"{name} of {a.name} {a.share:.1%} (n={a.n}), of {b.name} {b.share:.1%} (n={b.n}): "
            f"{pair.demand.word} {c.value:.3f} [{c.low:.3f}, {c.high:.3f}], "
            f"{pair.demand.limit_word} {pair.demand.limit:g}"
        )

    def _wanted(self, pair: Pair) -> str:
        smaller = min(pair.a, pair.b, key=lambda rate: rate.n)
        enough = pair.enough(self.confidence)
        return f"; about {enough} of {smaller.name} would be enough" if enough else "; more rows are needed"

    def _measured(self, name: str, rates: Sequence[Rate], pair: Pair) -> tuple[Measurement, ...]:
        """Every group's rate, and the worst pair."""
        numbers: list[Measurement] = []
        for rate in rates:
            e = rate.bounded(self.confidence)
            numbers += measured(f"{name} {rate.name}", e.value, e.low, e.high, e.n)
        c = pair.at(self.confidence)
        label = f"{name} {pair.demand.word} {pair.a.name} to {pair.b.name}"
        return (*numbers, *measured(label, c.value, c.low, c.high, pair.a.n + pair.b.n))

    def _finding(self, verdict: Verdict, because: str, numbers: tuple[Measurement, ...] = ()) -> Finding:
        demands = {"selection_ratio": self.selection_ratio, "odds_difference": self.odds_difference}
        limits = [f"{name} {value:g}" for name, value in demands.items() if value is not None]
        return Finding("fairness", verdict, because, numbers, f"{', '.join(limits)} by {self.by}")
