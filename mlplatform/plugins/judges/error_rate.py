"""error_rate: does it fail more requests than it may?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, demand_share, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.sequential import count_exceeds


@dataclass(frozen=True)
class ErrorRateJudge:
    """Requests that ended with a status from 500 on (the model raised, or answered with NaN or infinity) or with 429
    (too many waited for it). A worker that died counts as one.

    at_most: the share that may fail. min_requests: fewer are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"counts"})
    at_most: float = 0.01
    min_requests: int = 100

    def __post_init__(self) -> None:
        demand_share("at_most", self.at_most)
        demand_count("min_requests", self.min_requests)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when the rate is surely above `at_most`; INCONCLUSIVE with too few, or while it looks to be."""
        failed = facts.counts.failed + facts.restarts
        n = facts.counts.requests + facts.restarts
        test = count_exceeds(failed, n, self.at_most, facts.alpha)
        limit = f"at most {self.at_most:.3g}"
        seen = (Measurement("error_rate", failed / n, test.low, n=n),) if n else ()
        died = f", {facts.restarts} of them by the death of a worker" if facts.restarts else ""
        said = f"{failed} of {n} requests failed{died}, {self.at_most:.1%} may"
        if test.breached:
            return Finding("error_rate", Verdict.FAIL, said, seen, limit)
        if n < self.min_requests:
            return wait_for("error_rate", n, self.min_requests, "requests", seen)
        if failed > self.at_most * n:
            more = int(failed / self.at_most) + 1 - n
            because = f"{said}: not sure yet; {more} more without a failure would clear it"
            return Finding("error_rate", Verdict.INCONCLUSIVE, because, seen, limit)
        return Finding("error_rate", Verdict.PASS, said, seen, limit)
