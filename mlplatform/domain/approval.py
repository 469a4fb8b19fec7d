"""An approval binds a person to bytes, evidence and policy; it is void when one of them changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from mlplatform.domain.duration import duration


@dataclass(frozen=True)
class Approval:
    actor: str
    verified: bool
    at: datetime
    reason: str
    stage: str
    bundle_digest: str
    evaluation_id: str
    policy_digest: str


@dataclass(frozen=True)
class Demand:
    """How many approvals a stage wants, and from whom."""

    count: int = 0
    """Approvals by different people."""
    author_may_approve: bool = False
    """Whether who trained it may approve it."""
    expires: str = "14d"
    """How long an approval counts."""
    unverified: bool = False
    """Whether the approval of an unverified actor counts."""

    def __post_init__(self) -> None:
        duration(self.expires)
        if self.count < 0:
            raise ValueError("count must not be negative")


@dataclass(frozen=True)
class Evidence:
    """What an approval must have seen to count now."""

    bundle_digest: str
    evaluation_id: str
    policy_digest: str
    author: str


@dataclass(frozen=True)
class Tally:
    counting: tuple[Approval, ...]
    void: tuple[tuple[Approval, str], ...]
    wanted: int

    @property
    def enough(self) -> bool:
        return len(self.counting) >= self.wanted


def tally(approvals: Iterable[Approval], demand: Demand, evidence: Evidence, now: datetime) -> Tally:
    """Which approvals count towards the demand now, and why the others do not. One person counts once."""
    counting: dict[str, Approval] = {}
    void = []
    for approval in approvals:
        if why := _why_void(approval, demand, evidence, now):
            void.append((approval, why))
        else:
            counting[approval.actor] = approval
    return Tally(tuple(counting.values()), tuple(void), demand.count)


def _why_void(approval: Approval, demand: Demand, evidence: Evidence, now: datetime) -> str:
    if approval.bundle_digest != evidence.bundle_digest:
        return "the bytes changed since"
    if approval.evaluation_id != evidence.evaluation_id:
        return "the evaluation changed since"
    if approval.policy_digest != evidence.policy_digest:
        return "the policy changed since"
    if now - approval.at > duration(demand.expires):
        return f"it expired after {demand.expires}"
    if approval.actor == evidence.author and not demand.author_may_approve:
        return "the author may not approve"
    if not approval.verified and not demand.unverified:
        return "the approver is not verified"
    return ""
