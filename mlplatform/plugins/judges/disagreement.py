"""disagreement: how often does it answer the same row otherwise than the incumbent?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, demand_share, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.batch import Array
from mlplatform.stats.sequential import error_rate_exceeds


@dataclass(frozen=True)
class DisagreementJudge:
    """Compares both answers to the same rows, which a step `shadow` brings.

    at_most: share of rows on which the answers may differ. tolerance: values are the same up to so many standard
    deviations of the incumbent's answers; classes are the same or not. min_rows: fewer are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"pairs"})
    at_most: float = 0.1
    tolerance: float = 0.1
    min_rows: int = 200

    def __post_init__(self) -> None:
        demand_share("at_most", self.at_most)
        if not 0 <= self.tolerance < float("inf"):
            raise ValueError("tolerance must be 0 or more")
        demand_count("min_rows", self.min_rows)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when the share is surely above `at_most`; INCONCLUSIVE with too few rows, or while it looks to be."""
        differ, limit = self._differ(facts), f"at most {self.at_most:g}"
        n = len(differ)
        if not n:
            return wait_for("disagreement", 0, self.min_rows, "rows that both answered")
        test = error_rate_exceeds(differ, self.at_most, facts.alpha)
        seen = (Measurement("disagreement", test.rate, test.low, n=n),)
        said = f"{test.rate:.1%} of {n} rows answered otherwise than by {facts.incumbent.ref}, {self.at_most:.1%} may"
        if test.breached:
            return Finding("disagreement", Verdict.FAIL, said, seen, limit)
        if n < self.min_rows:
            return wait_for("disagreement", n, self.min_rows, "rows that both answered", seen)
        if test.rate > self.at_most:
            return Finding("disagreement", Verdict.INCONCLUSIVE, f"{said}: not sure yet", seen, limit)
        return Finding("disagreement", Verdict.PASS, said, seen, limit)

    def _differ(self, facts: LiveFacts) -> Array:
        new, old = facts.pairs, facts.incumbent_pairs
        if facts.kind == "regression":
            apart = np.abs(new.astype(float) - old.astype(float))
            scale = float(np.std(old.astype(float))) if len(old) else 0.0
            return np.asarray(apart > self.tolerance * scale, float)
        return np.asarray(new.astype(str) != old.astype(str), float)
