"""Two accuracies on the same rows: McNemar's test and Tango's interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mlplatform.stats import special
from mlplatform.stats.arrays import Array
from mlplatform.stats.comparison import NO_ROWS, POWER, Comparison, Question, Wanted

MID_P_FROM = 25
"""Discordant rows from which McNemar's mid-p stands in for the exact test. With fewer its error can pass the nominal
(5.6 % at 0.95, 12 % at 0.9 with 20 rows that all differ); from here it stays within a tenth of it.
"""


def mcnemar(
    incumbent_correct: Array, candidate_correct: Array, *, margin: float = 0.0, confidence: float = 0.95
) -> Comparison:
    """Difference of two accuracies on the same rows: Tango's score interval (1998).

    At margin 0 McNemar's test of the rows where one is right and the other wrong has a veto: a bound does not exclude
    zero unless the test does. It is exact for few such rows, mid-p for more (Fagerland, Lydersen and Laake 2013).
    """
    old, new = np.asarray(incumbent_correct, np.bool_), np.asarray(candidate_correct, np.bool_)
    n, gained, lost = len(old), int((new & ~old).sum()), int((old & ~new).sum())
    test = "tango" if margin > 0 else "mcnemar"
    question = Question(margin, confidence)
    if n == 0:
        return question.unanswered(test, 0, 0.0, NO_ROWS)

    z = float(special.ndtri(confidence))
    low, high = tango_bound(gained, lost, n, z), -tango_bound(lost, gained, n, z)
    low = low if mcnemar_p(gained, lost) <= 1 - confidence else min(low, 0.0)
    high = high if mcnemar_p(lost, gained) <= 1 - confidence else max(high, 0.0)

    def rows_for(distance: float) -> float:
        return _rows(max(gained + lost, 1) / n, distance - margin, margin, confidence)

    return question.answer(test, n, (gained - lost) / n, low, high, rows_for, Wanted())


def mcnemar_p(gained: int, lost: int) -> float:
    """Chance of at least `gained` of the discordant rows when both models are equally good, one-sided.

    >>> mcnemar_p(5, 0)
    0.03125
    """
    if gained <= 0:
        return 1.0
    several = gained + lost
    more = float(special.bdtrc(gained, several, 0.5))
    exactly = float(special.bdtrc(gained - 1, several, 0.5)) - more
    return more + (exactly / 2 if several >= MID_P_FROM else exactly)


def tango_z(gained: Any, lost: Any, n: Any, difference: Any) -> Any:
    """Standardised distance of the observed difference from an assumed one (vectorised)."""
    variance = n * restricted_variance(gained / n, lost / n, difference)
    return (gained - lost - n * difference) / np.sqrt(np.maximum(variance, 1e-12))


def restricted_variance(gained: Any, lost: Any, difference: Any) -> Any:
    """Variance of a row's gain under an assumed difference, from shares of the rows; the share lost by maximum
    likelihood under that difference.
    """
    b = -gained - lost + (2 - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    q = (np.sqrt(np.maximum(b * b - 8 * c, 0.0)) - b) / 4
    return np.maximum(2 * q + difference * (1 - difference), 0.0)


def tango_bound(gained: int, lost: int, n: int, z: float) -> float:
    """Lower bound: the difference from which the observed one is z standard errors up. By bisection."""
    low, high = -1.0, (gained - lost) / n
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if tango_z(gained, lost, n, middle) > z else (low, middle)
    return (low + high) / 2


def _rows(discordant: float, gain: float, margin: float, confidence: float) -> float:
    """Rows at which a true gain is told from minus the margin with probability 0.8 (Connor 1987 for margin 0)."""
    share = max(discordant, abs(gain))
    null = float(restricted_variance((share + gain) / 2, (share - gain) / 2, -margin))
    true = share - gain**2
    reach = float(special.ndtri(confidence)) * math.sqrt(null) + float(special.ndtri(POWER)) * math.sqrt(true)
    return (reach / (gain + margin)) ** 2
