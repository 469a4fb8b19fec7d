"""refusals: does it refuse what the incumbent answers?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.counts import Counts, Split
from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.plugins.judges.common import demand_count, demand_share, wait_for
from mlplatform.ports.extensions import Evidence, LiveFacts
from mlplatform.stats.sequential import SequentialVerdict, count_exceeds
from mlplatform.stats.split import Shared, SplitVerdict, hits_exceed


@dataclass(frozen=True)
class RefusalsJudge:
    """Requests that a version answered with a 4xx (429 is a failure): a column that it alone demands, a missing value
    that it cannot take. What any version would refuse, both refuse alike. Of a shadow, its share of what the incumbent
    had answered.

    margin: by how much the share that it refuses may lie above the incumbent's. min_requests: fewer of either version
    are no verdict.
    """

    needs: ClassVar[frozenset[Evidence]] = frozenset({"counts"})
    margin: float = 0.01
    min_requests: int = 100

    def __post_init__(self) -> None:
        demand_share("margin", self.margin)
        demand_count("min_requests", self.min_requests)

    def judge(self, facts: LiveFacts) -> Finding:
        """FAIL when it surely refuses more, by `margin`; INCONCLUSIVE with too few requests, or while it looks so."""
        seen, limit = _Seen.of(facts.splits), f"margin {self.margin:g}"
        # Where it began as a shadow, each of the two tests spends half.
        shadow, shares = seen.tests(self.margin, facts.alpha / (2 if seen.began_as_shadow else 1))
        said = f"{seen.told(facts.incumbent.ref)}; {self.margin:.1%} more may be"
        found = []
        if seen.shadow.asked:
            found.append(Measurement("refusals of a shadow", shadow.rate, shadow.low, n=seen.shadow.asked))
        if seen.mine.asked:
            found.append(Measurement("more refusals", shares.difference, shares.low, n=seen.mine.asked))
        measured = tuple(found)
        if shadow.breached or shares.breached:
            return Finding("refusals", Verdict.FAIL, said, measured, limit)
        few, whose = seen.fewest
        if few < self.min_requests:
            return wait_for("refusals", few, self.min_requests, whose, measured)
        if shadow.rate > self.margin or shares.difference > self.margin:
            return Finding("refusals", Verdict.INCONCLUSIVE, f"{said}: not sure yet", measured, limit)
        return Finding("refusals", Verdict.PASS, said, measured, limit)


@dataclass(frozen=True)
class _Seen:
    """Requests of all steps."""

    shadow: Counts
    """What it was asked beside the incumbent, which had answered it."""
    shared: Sequence[Split]
    """Steps in which both were given requests."""
    began_as_shadow: bool

    @classmethod
    def of(cls, splits: Sequence[Split]) -> _Seen:
        beside = [split.mine for split in splits if not split.share]
        return cls(sum(beside, Counts()), [s for s in splits if 0 < s.share < 1], bool(beside))

    @property
    def mine(self) -> Counts:
        return sum((split.mine for split in self.shared), Counts())

    @property
    def theirs(self) -> Counts:
        return sum((split.theirs for split in self.shared), Counts())

    @property
    def fewest(self) -> tuple[int, str]:
        """Requests that the one of both was given that has seen fewer, and whose they are."""
        mine, theirs = self.shadow.asked + self.mine.asked, self.shadow.asked + self.theirs.asked
        return (mine, "requests") if mine <= theirs else (theirs, "requests of the incumbent")

    def tests(self, margin: float, alpha: float) -> tuple[SequentialVerdict, SplitVerdict]:
        """Of the shadow, and by shares."""
        parts = [
            Shared(s.share, s.mine.asked, s.mine.refused, s.theirs.asked, s.theirs.refused)
            for s in self.shared
        ]
        shadow = count_exceeds(self.shadow.refused, self.shadow.asked, margin, alpha)
        return shadow, hits_exceed(parts, margin, alpha)

    def told(self, incumbent: str) -> str:
        parts = []
        if self.shadow.asked:
            parts.append(f"refused {_part(self.shadow)} requests that {incumbent} had answered")
        if self.mine.asked or not parts:
            parts.append(f"refused {_part(self.mine)} requests, {incumbent} {_part(self.theirs)}")
        return " and ".join(parts)


def _part(counts: Counts) -> str:
    return f"{counts.refused} of {counts.asked}"
