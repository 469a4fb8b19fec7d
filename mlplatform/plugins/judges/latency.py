"""latency: is it slower than it may be?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.sequential import SequentialVerdict, count_exceeds


@dataclass(frozen=True)
class LatencyJudge:
    """Times of whole requests in the server, by its histogram; a limit counts as the histogram's next bound above it
    (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500 ms, 1, 2.5, 10 s). Of a shadow, times of the model alone.

    p99_ms: at most one request in a hundred may take longer. times_incumbent: at most half of the requests may take
    longer than so many times the incumbent's median in the same time. min_requests: fewer are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"counts"})
    p99_ms: float | None = None
    times_incumbent: float | None = None
    min_requests: int = 100

    def __post_init__(self) -> None:
        if self.p99_ms is None and self.times_incumbent is None:
            raise ValueError("give p99_ms or times_incumbent")
        if self.p99_ms is not None and self.p99_ms <= 0:
            raise ValueError("p99_ms must be above 0")
        if self.times_incumbent is not None and self.times_incumbent <= 1:
            raise ValueError("times_incumbent must be above 1")
        demand_count("min_requests", self.min_requests)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when a limit is surely broken; INCONCLUSIVE with too few requests, or while it looks to be."""
        n, beside = sum(facts.counts.durations), sum(facts.incumbent_counts.durations)
        limits = self._limits(facts)
        alpha = facts.alpha / sum(limit is not None for limit in (self.p99_ms, self.times_incumbent))
        tests = {name: self._test(facts, seconds, share, alpha) for name, (seconds, share) in limits.items()}
        seen = tuple(
            Measurement(f"above {name}", test.rate, test.low, n=n) for name, test in tests.items() if n
        )
        said = "; ".join(
            f"{test.rate:.1%} of {n} requests above {name}, {limits[name][1]:.0%} may"
            for name, test in tests.items()
        )
        limit = ", ".join(limits)
        if any(test.breached for test in tests.values()):
            return Finding("latency", Verdict.FAIL, said, seen, limit)
        if n < self.min_requests:
            return wait_for("latency", n, self.min_requests, "requests", seen)
        if self.times_incumbent is not None and beside < self.min_requests:
            return wait_for("latency", beside, self.min_requests, "requests of the incumbent", seen)
        if any(test.rate > limits[name][1] for name, test in tests.items()):
            return Finding("latency", Verdict.INCONCLUSIVE, f"{said}: not sure yet", seen, limit)
        return Finding("latency", Verdict.PASS, said, seen, limit)

    def _limits(self, facts: LiveFacts) -> dict[str, tuple[float, float]]:
        """By what they are called: seconds, and the share of requests that may take longer."""
        limits = {}
        if self.p99_ms is not None:
            limits[f"{self.p99_ms:g} ms"] = (self.p99_ms / 1000, 0.01)
        if self.times_incumbent is not None and sum(facts.incumbent_counts.durations) >= self.min_requests:
            median_s = facts.incumbent_counts.median_s()
            name = f"{self.times_incumbent:g} times the incumbent's median ({1000 * median_s:g} ms)"
            limits[name] = (self.times_incumbent * median_s, 0.5)
        return limits

    def _test(self, facts: LiveFacts, seconds: float, share: float, alpha: float) -> SequentialVerdict:
        slow, n = facts.counts.slower_than(seconds), sum(facts.counts.durations)
        return count_exceeds(slow, n, share, alpha)
