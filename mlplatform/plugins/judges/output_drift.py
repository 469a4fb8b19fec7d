"""output_drift: do its answers have another distribution than the incumbent's?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, demand_share, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.outputs import distance_exceeds


@dataclass(frozen=True)
class OutputDriftJudge:
    """Compares the answers of both versions in the same step, each to its own requests.

    at_most: largest difference of the two cumulative shares (Kolmogorov-Smirnov distance; of classes in the order of
    their names) that a new version may make. min_rows: of either version; fewer are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"outputs"})
    at_most: float = 0.1
    min_rows: int = 200

    def __post_init__(self) -> None:
        demand_share("at_most", self.at_most)
        demand_count("min_rows", self.min_rows)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when the distance is surely above `at_most`; INCONCLUSIVE with too few rows, or while it looks to be."""
        test = distance_exceeds(facts.outputs, facts.incumbent_outputs, self.at_most, facts.alpha)
        limit = f"at most {self.at_most:g}"
        few = min(test.n, test.m)
        seen = (Measurement("output_distance", test.distance, test.low, n=test.n),) if few else ()
        said = f"distance of the answers {test.distance:.3f} on {test.n} rows beside {test.m}, {limit}"
        if test.exceeds:
            because = f"{said}; surely above {test.low:.3f}"
            return Finding("output_drift", Verdict.FAIL, because, seen, limit)
        if few < self.min_rows:
            whose = "rows" if test.n <= test.m else "rows of the incumbent"
            return wait_for("output_drift", few, self.min_rows, whose, seen)
        if test.distance > self.at_most:
            return Finding("output_drift", Verdict.INCONCLUSIVE, f"{said}: not sure yet", seen, limit)
        return Finding("output_drift", Verdict.PASS, said, seen, limit)
