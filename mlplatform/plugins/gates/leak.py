"""Were rows of the evaluation in the training data?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.plugins.gates.common import measured
from mlplatform.ports.extensions import Need, Subject


@dataclass(frozen=True)
class LeakGate:
    """`{ use = "leak", at_most = 0.0 }`: so large a share of the rows for the evaluation was in the version's training
    data. Such rows are never judged on; that there are any says that the split went wrong.

    Rows are the same when all their features are, so that in data of a few coarse columns some will be by chance:
    then `at_most` is the share that chance explains.

    at_most: share of the rows, 0 to 1.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    at_most: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.at_most < 1:
            raise ValueError(f"at_most must be between 0 and 1, not {self.at_most}")

    def judge(self, subject: Subject) -> Finding:
        offered, seen = subject.rows_offered, subject.seen_in_training
        limit = f"at_most {self.at_most:g}"
        if offered is None or seen is None:
            return Finding(
                "leak", Verdict.ERROR, "the rows were not compared with the training data", (), limit
            )
        if offered == 0:
            return Finding(
                "leak", Verdict.INCONCLUSIVE, f"there are no rows in the {subject.data}", (), limit
            )
        share = seen / offered
        verdict = Verdict.PASS if share <= self.at_most else Verdict.FAIL
        numbers = measured("share seen in training", share, n=offered)
        return Finding("leak", verdict, self._because(subject, offered, seen), numbers, limit)

    def _because(self, subject: Subject, offered: int, seen: int) -> str:
        also = subject.seen_by_incumbent or 0
        others = f", {also} more in that of {subject.incumbent.ref}" if also and subject.incumbent else ""
        limit = f"at most {100 * self.at_most:g}% are allowed" if self.at_most else "none is allowed"
        allowed = f", {limit}" if seen / offered > self.at_most else ""
        return (
            f"{seen} of {offered} rows ({seen / offered:.2%}) were in the training data of {subject.version.ref}"
            f"{others}{allowed}; {len(subject.truth)} rows are left to judge on"
        )
