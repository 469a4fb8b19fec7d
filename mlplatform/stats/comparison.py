"""What a paired comparison says, and how many rows would have said more."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mlplatform.stats import special

POWER = 0.8
MOST_ROWS = 10**9


@dataclass(frozen=True)
class Comparison:
    """Candidate minus incumbent, oriented so that HIGHER IS BETTER (a fall of a loss is positive).

    low, high: one-sided bounds at `confidence` each (infinite: no honest bound can be given, `doubt` says why).
    n_needed: rows at which models that are equally good would pass with probability 0.8; None at margin 0.
    n_as_seen: rows at which a candidate with the gain seen here would; None when it lies beyond the margin.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    n: int
    test: str
    n_needed: int | None = None
    margin: float = 0.0
    n_as_seen: int | None = None
    doubt: str = ""


def no_worse(comparison: Comparison, margin: float | None = None) -> Literal["pass", "fail", "inconclusive"]:
    """Non-inferiority: "pass" when the loss is surely below the margin, "fail" when surely above, else
    "inconclusive". At margin 0 superiority: the candidate has to be surely better.

    >>> no_worse(Comparison(-0.01, -0.03, 0.01, 0.95, 500, "tango"), margin=0.05)
    'pass'
    """
    margin = comparison.margin if margin is None else margin
    if comparison.low > -margin:
        return "pass"
    return "fail" if comparison.high < -margin else "inconclusive"


@dataclass(frozen=True)
class Wanted:
    """How many rows like these are wanted before any bound is honest; `lacking` says what these lack, or ""."""

    rows: float = 0.0
    lacking: str = ""


NO_ROWS = Wanted(math.inf, "there are no rows")


@dataclass(frozen=True)
class Question:
    """What is asked of every comparison."""

    margin: float
    confidence: float

    def answer(
        self,
        test: str,
        n: int,
        estimate: float,
        low: float,
        high: float,
        rows_for: Callable[[float], float],
        wanted: Wanted,
    ) -> Comparison:
        """low, high: bounds at the confidence. rows_for: distance from the truth to the limit -> rows at which it is
        seen with probability 0.8.
        """

        def rows(distance: float) -> int | None:
            if not 0 < distance < math.inf:
                return None
            found = max(rows_for(distance), wanted.rows)
            return max(1, math.ceil(found)) if found < MOST_ROWS else None

        bounds = (-math.inf, math.inf) if wanted.lacking else (low, high)
        enough, as_seen = rows(self.margin), rows(estimate + self.margin)
        return Comparison(
            estimate, *bounds, self.confidence, n, test, enough, self.margin, as_seen, wanted.lacking
        )

    def unanswered(self, test: str, n: int, estimate: float, wanted: Wanted) -> Comparison:
        """The rows cannot tell; with as many as wanted others would still be needed."""
        return self.answer(test, n, estimate, -math.inf, math.inf, lambda distance: 0.0, wanted)


def silence(one: float, n: int, confidence: float) -> float:
    """What n rows without a difference leave open, when one row that differs weighs `one`: as far as Tango's bound."""
    z_squared = float(special.ndtri(confidence)) ** 2
    return one * n * z_squared / (n + z_squared)


def rows_of_silence(whole: float, distance: float, confidence: float) -> float:
    """Rows without a difference that leave open less than `distance`, when all rows together weigh `whole`."""
    return max(whole / distance - 1, 0.0) * float(special.ndtri(confidence)) ** 2
