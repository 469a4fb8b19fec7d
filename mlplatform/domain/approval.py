"""An approval binds a person to bytes, evidence and policy; it is void when one of them changes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mlplatform.domain.canonical import one_line
from mlplatform.domain.duration import duration
from mlplatform.domain.token import ROLE
from mlplatform.domain.verdict import Finding, Verdict, rank, worst, worst_of


@dataclass(frozen=True)
class Approval:
    """What a person said yes to, as the ledger keeps it."""

    actor: str
    verified: bool
    at: datetime
    reason: str
    stage: str
    bundle_digest: str
    evaluation_id: str
    policy_digest: str
    roles: tuple[str, ...] = ()
    """Of the approver's token, when the approval was given: a token's later fate does not rewrite the past."""
    token: str = ""
    """Id of the approver's token."""
    incumbent: str = ""
    """Digest of the version that would be replaced; "" for none."""
    verdicts: tuple[Verdict, ...] = ()
    """What the stage's gates said, in their order."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason))


@dataclass(frozen=True)
class Demand:
    """How many approvals a stage wants, and from whom."""

    count: int = 0
    """Approvals by different people. With 0 one approval still settles a gate that is INCONCLUSIVE."""
    roles: tuple[str, ...] = ()
    """Only holders of one of these roles may approve: roles of their token when they approved. Empty: anybody."""
    author_may_approve: bool = False
    """Whether who trained, compressed or registered it may approve it."""
    expires: str = "14d"
    """How long an approval counts."""
    bound_to: Literal["evaluation", "verdicts"] = "evaluation"
    """Beside bytes, incumbent and policy: the evaluation that was shown, so that other rows void the approval; or only
    what the gates said of it, so that it outlives new labels until a gate says worse."""
    unverified: bool = False
    """Whether approvals without a token count: from a terminal, or by a tag in MLflow's UI."""

    def __post_init__(self) -> None:
        duration(self.expires)
        if self.count < 0:
            raise ValueError("count must not be negative")
        for role in self.roles:
            if not re.fullmatch(ROLE, role):
                raise ValueError(f"role {role!r}: write lower-case letters, digits, - and _")
        if self.roles and self.unverified:
            raise ValueError("roles are held by tokens: with roles, leave out unverified = true")


@dataclass(frozen=True)
class Evidence:
    """What stands now, for an approval to be held against."""

    bundle_digest: str
    evaluation_id: str
    policy_digest: str
    authors: tuple[str, ...] = ()
    """Who trained, compressed or registered the version."""
    incumbent: str = ""
    """Digest of the version that would be replaced; "" for none."""
    findings: tuple[Finding, ...] | None = None
    """What the stage's gates say; None when they were not asked."""
    revoked: frozenset[str] = frozenset()
    """Ids of revoked tokens."""


@dataclass(frozen=True)
class Tally:
    counting: tuple[Approval, ...]
    void: tuple[tuple[Approval, str], ...]
    wanted: int

    @property
    def enough(self) -> bool:
        return len(self.counting) >= self.wanted

    @property
    def settles(self) -> bool:
        """Whether enough people said yes to let a version pass whose gates cannot tell."""
        return len(self.counting) >= max(self.wanted, 1)


def tally(approvals: Iterable[Approval], demand: Demand, evidence: Evidence, now: datetime) -> Tally:
    """Which approvals count towards the demand now, and why the others do not. One person counts once."""
    counting: dict[str, Approval] = {}
    void = []
    for approval in approvals:
        if why := why_void(approval, demand, evidence, now):
            void.append((approval, why))
        else:
            counting[person(approval.actor)] = approval
    return Tally(tuple(counting.values()), tuple(void), demand.count)


def why_void(approval: Approval, demand: Demand, evidence: Evidence, now: datetime) -> str:
    """Why an approval does not count now; empty when it does."""
    return (
        _thing_changed(approval, evidence)
        or _evidence_changed(approval, demand, evidence)
        or _too_late(approval, demand, evidence, now)
        or why_not_by(approval, demand, evidence.authors)
    )


def why_not_by(approval: Approval, demand: Demand, authors: Collection[str]) -> str:
    """Why this person's approval can never count for this version; empty when it can."""
    if not approval.verified and not demand.unverified:
        return "the approver is not verified"
    if demand.roles and not set(approval.roles) & set(demand.roles):
        return f"the approver had none of the roles {', '.join(demand.roles)}"
    if person(approval.actor) in map(person, authors) and not demand.author_may_approve:
        return "the author may not approve"
    return ""


def person(actor: str) -> str:
    """One name for a person at a terminal and with a token: `os:Ada` and `ada` may not approve as two.

    >>> person("os:Ada")
    'ada'
    """
    return re.sub(r"\A(os:|\s)+", "", unicodedata.normalize("NFKC", actor).casefold()).rstrip()


def _thing_changed(approval: Approval, evidence: Evidence) -> str:
    if approval.bundle_digest != evidence.bundle_digest:
        return "the bytes changed since"
    if approval.policy_digest != evidence.policy_digest:
        return "the policy changed since"
    if approval.incumbent != evidence.incumbent:
        return "the version that it would replace changed since"
    return ""


def _evidence_changed(approval: Approval, demand: Demand, evidence: Evidence) -> str:
    if worst_of(approval.verdicts) in (Verdict.FAIL, Verdict.ERROR):
        return f"the gates said {worst_of(approval.verdicts)}, which no approval can settle"
    if evidence.findings is None:
        return ""
    if demand.bound_to == "evaluation" and approval.evaluation_id != evidence.evaluation_id:
        return "the evaluation changed since"
    if len(approval.verdicts) != len(evidence.findings):
        return "the gates changed since"
    # The same rows may be told differently: a budget is measured each time, freshness passes.
    for seen, finding in zip(approval.verdicts, evidence.findings, strict=True):
        if rank(finding.verdict) > rank(seen):
            return f"the evidence changed since: {finding.gate} was {seen}, is {finding.verdict} now"
    return ""


def _too_late(approval: Approval, demand: Demand, evidence: Evidence, now: datetime) -> str:
    if now - approval.at > duration(demand.expires):
        return f"it expired after {demand.expires}"
    if approval.token in evidence.revoked:
        return "the approver's token was revoked since"
    return ""


def undecided(findings: Iterable[Finding]) -> list[str]:
    """Gates that cannot tell, by name, where nothing is worse than that."""
    findings = list(findings)
    if worst(findings) is not Verdict.INCONCLUSIVE:
        return []
    return [f.gate for f in findings if f.verdict is Verdict.INCONCLUSIVE]
