"""Groups of rows against each other: ratios and differences of their rates, and which of many claims stand.

Bounds are one-sided at `confidence` each, as in compare.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlplatform.stats.arrays import Bools
from mlplatform.stats.estimate import Estimate, wilson


@dataclass(frozen=True)
class Contrast:
    """One group against another: a value with one-sided bounds. NaN where it is not defined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """How many of a group's rows something happened to."""

    name: str
    hits: int
    n: int

    @classmethod
    def of(cls, name: str, happened: Bools, rows: Bools) -> Rate:
        return cls(name, int((happened & rows).sum()), int(rows.sum()))

    @property
    def share(self) -> float:
        return self.hits / self.n if self.n else math.nan

    def bounded(self, confidence: float) -> Estimate:
        """Wilson's interval whose ends are one-sided bounds."""
        return wilson(self.hits, self.n, two_sided(confidence))


@dataclass(frozen=True)
class AtLeastRatio:
    """A group's rate over another's has to be at least the limit."""

    limit: float
    word: ClassVar[str] = "ratio"
    limit_word: ClassVar[str] = "at least"

    def of(self, a: Rate, b: Rate, confidence: float) -> Contrast:
        return rate_ratio(a.hits, a.n, b.hits, b.n, confidence)

    def within(self, c: Contrast) -> bool:
        return c.low >= self.limit

    def beyond(self, c: Contrast) -> bool:
        return c.high < self.limit

    def badness(self, c: Contrast) -> float:
        return math.inf if math.isnan(c.value) else 1 - c.value

    def enough(self, n: int, c: Contrast) -> int | None:
        if not (c.low > 0 and c.value < math.inf):
            return None
        end = c.low if c.value > self.limit else c.high
        return rows_enough(n, abs(math.log(c.value / self.limit)), abs(math.log(end / c.value)))


@dataclass(frozen=True)
class AtMostDifference:
    """A group's rate minus another's may be at most the limit."""

    limit: float
    word: ClassVar[str] = "difference"
    limit_word: ClassVar[str] = "at most"

    def of(self, a: Rate, b: Rate, confidence: float) -> Contrast:
        if not a.n or not b.n:
            return Contrast(math.nan, -math.inf, math.inf)
        return difference(a.bounded(confidence), b.bounded(confidence))

    def within(self, c: Contrast) -> bool:
        return c.high <= self.limit

    def beyond(self, c: Contrast) -> bool:
        return c.low > self.limit

    def badness(self, c: Contrast) -> float:
        return math.inf if math.isnan(c.value) else c.value

    def enough(self, n: int, c: Contrast) -> int | None:
        reach = c.high - c.value if c.value < self.limit else c.value - c.low
        return rows_enough(n, abs(c.value - self.limit), reach)


Demand = AtLeastRatio | AtMostDifference


@dataclass(frozen=True)
class Pair:
    """One group against another under a demand."""

    a: Rate
    b: Rate
    demand: Demand

    def at(self, confidence: float) -> Contrast:
        return self.demand.of(self.a, self.b, confidence)

    def surely_within(self, confidence: float) -> bool:
        return self.demand.within(self.at(confidence))

    def surely_beyond(self, confidence: float) -> bool:
        return self.demand.beyond(self.at(confidence))

    def badness(self, confidence: float) -> float:
        """How far from alike, in this direction: above 0 when the first group is the worse off."""
        return self.demand.badness(self.at(confidence))

    def enough(self, confidence: float) -> int | None:
        """Rows of the smaller group that would be enough, the other one growing alike."""
        return self.demand.enough(min(self.a.n, self.b.n), self.at(confidence))


def two_sided(confidence: float) -> float:
    """The confidence of the two-sided interval whose ends are one-sided bounds at `confidence`."""
    return 2 * confidence - 1


def rate_ratio(hits: int, n: int, other_hits: int, other_n: int, confidence: float = 0.95) -> Contrast:
    """The ratio of two independent proportions, by the method of variance estimates recovery from Wilson's bounds.

    Donner and Zou 2012 (MOVER-R). Unlike the logarithm (Katz et al. 1978) it knows what to say when nobody of a
    group was chosen.

    >>> rate_ratio(30, 100, 60, 100).value
    0.5
    >>> rate_ratio(0, 100, 60, 100).high < 0.06
    True
    """
    ours, theirs = (wilson(h, m, two_sided(confidence)) for h, m in ((hits, n), (other_hits, other_n)))
    a, b = ours.value, theirs.value
    if not (a >= 0 and b >= 0) or a == b == 0:
        return Contrast(math.nan, 0.0, math.inf)
    low = _ratio_end(a, b, ours.low, theirs.high, -1.0)
    high = _ratio_end(a, b, ours.high, theirs.low, 1.0) if theirs.low > 0 else math.inf
    return Contrast(a / b if b else math.inf, max(low, 0.0), high)


def difference(ours: Estimate, theirs: Estimate) -> Contrast:
    """The difference of two independent values from their own intervals (MOVER: Zou and Donner 2008; for
    proportions with Wilson's intervals Newcombe 1998, method 10).

    >>> difference(wilson(90, 100, 0.9), wilson(80, 100, 0.9)).low > 0
    True
    """
    value = ours.value - theirs.value
    low = value - math.hypot(ours.value - ours.low, theirs.high - theirs.value)
    high = value + math.hypot(ours.high - ours.value, theirs.value - theirs.low)
    return Contrast(value, low, high)


def holm_standing(claims: Sequence[Callable[[float], bool]], confidence: float) -> list[int]:
    """Which claims stand, with at most a chance of 1 - confidence that any of them is wrong (Holm 1979).

    A claim says whether it holds at a given one-sided confidence; it is asked again at a lower one for every
    claim that stands already.

    >>> holm_standing([lambda c: c < 0.99, lambda c: c < 0.96, lambda c: False], 0.95)
    [0]
    """
    standing: set[int] = set()
    while True:
        level = 1 - (1 - confidence) / max(len(claims) - len(standing), 1)
        more = {i for i, claim in enumerate(claims) if i not in standing and claim(level)}
        if not more:
            return sorted(standing)
        standing |= more


def rows_enough(n: int, distance: float, reach: float) -> int | None:
    """Rows at which a bound that is `reach` away from its value would be only `distance` away: bounds shrink with
    the root of the rows.
    """
    if not 0 < distance < math.inf or not 0 < reach < math.inf:
        return None
    return math.ceil(n * (reach / distance) ** 2)


def _ratio_end(a: float, b: float, end: float, other: float, sign: float) -> float:
    """One end of MOVER-R: `end` of the numerator's interval against the opposite `other` of the denominator's."""
    square = other * (2 * b - other)
    if abs(square) < 1e-15:
        return end * (2 * a - end) / (2 * a * b) if a * b else 0.0
    root = math.sqrt(max((a * b) ** 2 - end * (2 * a - end) * square, 0.0))
    return (a * b + sign * root) / square
