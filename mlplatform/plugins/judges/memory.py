"""memory: does the server grow?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts

MB = 1_000_000


@dataclass(frozen=True)
class MemoryJudge:
    """Resident memory of the server's workers against what it was when the version had been loaded. Both versions
    share a worker: who of them leaks is not told apart.

    grow_mb: by how much a worker may have grown. min_requests: fewer are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"counts"})
    grow_mb: float = 200.0
    min_requests: int = 100

    def __post_init__(self) -> None:
        if self.grow_mb <= 0:
            raise ValueError("grow_mb must be above 0")
        demand_count("min_requests", self.min_requests)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when a worker grew by more; a plain limit, no test: memory is counted, not sampled."""
        n, limit = facts.counts.requests, f"grow_mb {self.grow_mb:g}"
        if facts.grown_bytes is None:
            return Finding("memory", Verdict.INCONCLUSIVE, "the workers' memory is not known here", (), limit)
        grown_mb = facts.grown_bytes / MB
        seen = (Measurement("grown", grown_mb, n=n, unit=" MB"),)
        said = f"a worker grew by {grown_mb:.0f} MB over {n} requests, {self.grow_mb:g} MB may be"
        if grown_mb > self.grow_mb:
            return Finding("memory", Verdict.FAIL, said, seen, limit)
        if n < self.min_requests:
            return wait_for("memory", n, self.min_requests, "requests", seen)
        return Finding("memory", Verdict.PASS, said, seen, limit)
