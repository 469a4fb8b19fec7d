"""Do hits fall to one side more often than chance shares the stream? For two versions that share live requests.

Each request goes to the newcomer by chance, with a known share; it is a hit or not. The score of a hit is
1 / share at the newcomer and -1 / (1 - share) at the other, of anything else 0: its mean is the difference of both
rates at that moment, whatever the requests are like and however that changes meanwhile. A bet against "the
difference is at most the margin" follows (as in `sequential`, whose bets it places), over steps with other
shares too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.arrays import Floats
from mlplatform.stats.sequential import BETS, log_mean


@dataclass(frozen=True)
class Shared:
    """Requests and hits of both sides while the newcomer's share was the same."""

    share: float
    n: int
    hits: int
    others_n: int
    others_hits: int


@dataclass(frozen=True)
class SplitVerdict:
    """breached: the capital is at least 1 / alpha. difference: of the newcomer's rate and the other's. low: lower
    bound of it, valid at every moment at once, at confidence 1 - alpha.
    """

    breached: bool
    difference: float
    low: float


def hits_exceed(parts: Sequence[Shared], margin: float, alpha: float) -> SplitVerdict:
    """Is the newcomer's rate of hits above the other's by more than `margin`? Ask as often as you like, of growing
    numbers: the capital of the bet depends on them alone, not on the order of the requests.

    >>> hits_exceed([Shared(0.05, n=100, hits=10, others_n=1900, others_hits=0)], margin=0.01, alpha=0.01).breached
    True
    """
    if not 0 < margin < 1 or not 0 < alpha < 1 or any(not 0 < part.share < 1 for part in parts):
        raise UsageError(what="margin, alpha and every share must lie between 0 and 1")
    return SplitVerdict(log_capital(parts, margin) >= -log(alpha), difference(parts), _low(parts, alpha))


def log_capital(parts: Sequence[Shared], margin: float) -> float:
    """Log of the mean capital of all bets, starting from 1. Each keeps at least 1 - bet of it, whatever comes."""
    logs: Floats = np.zeros(len(BETS))
    for part in parts:
        worst = 1 / (1 - part.share) + margin
        stake = np.asarray(BETS) / worst
        logs += part.hits * np.log1p(stake * (1 / part.share - margin))
        logs += part.others_hits * np.log1p(-stake * worst)
        logs += (part.n - part.hits + part.others_n - part.others_hits) * np.log1p(-stake * margin)
    return float(log_mean(logs))


def difference(parts: Iterable[Shared]) -> float:
    """Of both rates of hits, as it was while the share was the same, on average over all requests."""
    seen = [part for part in parts if part.n and part.others_n]
    total = sum(part.n + part.others_n for part in seen)
    apart = (
        (part.n + part.others_n) * (part.hits / part.n - part.others_hits / part.others_n) for part in seen
    )
    return sum(apart) / total if total else 0.0


def _low(parts: Sequence[Shared], alpha: float) -> float:
    """The smallest margin that would not have been breached, from 0 on: by bisection, capital falls as it rises."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if log_capital(parts, middle) >= -log(alpha) else (low, middle)
    return low
