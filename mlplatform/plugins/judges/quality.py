"""quality: where the truth is known, does it err more often than the incumbent?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, demand_share, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.sequential import worse_exceeds


@dataclass(frozen=True)
class QualityJudge:
    """Compares both versions on the same labelled rows: wrong classes, or absolute errors. A rollout with this judge
    waits for labels.

    drop: how much more often than the incumbent it may be the worse of the two. min_labels: fewer labelled rows are no
    verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"labels"})
    drop: float = 0.05
    min_labels: int = 100

    def __post_init__(self) -> None:
        demand_share("drop", self.drop)
        demand_count("min_labels", self.min_labels)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when it is surely worse by more than `drop`; INCONCLUSIVE with too few labels, or while it looks so."""
        n, limit = len(facts.losses), f"drop {self.drop:g}"
        rows = (
            f"labelled rows ({facts.refused_labels} labels refused)"
            if facts.refused_labels
            else "labelled rows"
        )
        if not n:
            return wait_for("quality", 0, self.min_labels, rows)
        test = worse_exceeds(facts.losses, facts.incumbent_losses, self.drop, facts.alpha)
        new, old = float(facts.losses.mean()), float(facts.incumbent_losses.mean())
        what = "error rate" if facts.kind == "classification" else "mean absolute error"
        seen = (Measurement("loss", new, n=n), Measurement("incumbent_loss", old, n=n))
        said = f"{what} {new:.3g} on {n} labelled rows, {facts.incumbent.ref} {old:.3g} on the same"
        if test.breached:
            return Finding("quality", Verdict.FAIL, f"{said}: worse by more than {self.drop:g}", seen, limit)
        if n < self.min_labels:
            return wait_for("quality", n, self.min_labels, rows, seen)
        if test.rate > (self.drop + 1) / 2:
            return Finding("quality", Verdict.INCONCLUSIVE, f"{said}: not sure yet", seen, limit)
        return Finding("quality", Verdict.PASS, said, seen, limit)
