"""approve and reject: a person's word on a version, bound to its bytes, the evidence and the policy of that moment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from mlplatform.domain.approval import Approval, Evidence, Tally, tally, why_not_by
from mlplatform.domain.canonical import finite, plain
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.token import Identity
from mlplatform.domain.verdict import Finding, Measurement, Verdict, worst
from mlplatform.domain.version import Version
from mlplatform.errors import DONE, REFUSED, WORLD, Refused
from mlplatform.flows.evaluate import Judgement, judge
from mlplatform.flows.live import demand_settled
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World, failpoint

Status = Literal["done", "refused", "error"]
EXIT_CODES: dict[Status, int] = {"done": DONE, "refused": REFUSED, "error": WORLD}


@dataclass(frozen=True)
class Approved:
    """What came of a wish to approve. Refused: the gates leave nothing that an approval could settle."""

    status: Status
    version: Version
    stage: str
    because: str
    findings: tuple[Finding, ...]
    tally: Tally
    """With this approval."""
    entry: Entry | None = None
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def approve(
    world: World,
    policy: Policy,
    version: Version,
    stage: str,
    who: Identity,
    reason: str,
    dry_run: bool = False,
) -> Approved:
    """Record an approval, bound to the version's bytes, what the gates say now, and the policy.

    Raises Refused for somebody whose approval could never count, IllegalMove for a version that cannot enter the
    stage any more, ChangedBytes, GoneBytes.
    """
    policy.ladder.demand_open(world.ledger.standings(policy.model), version.number, stage)
    _demand_right(world, policy, version, stage, who)
    demand_bytes(world, version)
    judgement = judge(world, policy, stage, version, incumbent(world, policy, stage), keep=not dry_run)
    evidence = evidence_of(world, policy, stage, version, judgement)
    approval = new_approval(world, stage, who, reason, evidence)
    given = [*given_for(world, version, stage), approval]
    count = tally(given, policy.stage(stage).approvals, evidence, approval.at)
    status, because = _verdict(judgement.findings, reason)
    result = Approved(status, version, stage, because, judgement.findings, count, dry_run=dry_run)
    if dry_run or status != "done":
        return result
    failpoint("approve:judged")
    entry = world.ledger.append(approval_draft(policy, version, approval, judgement.findings))
    failpoint("approve:recorded")
    return Approved(**{**vars(result), "entry": entry})


def plan_rejection(world: World, policy: Policy, version: Version) -> list[Change]:
    """What `reject` would do; raises IllegalMove for a version that is live or out already, Refused on its way in."""
    demand_settled(world, policy, version, "rejected")
    live = {stage for stage in policy.ladder.stages if policy.stage(stage).endpoint}
    return policy.ladder.rejection(world.ledger.standings(policy.model), version.number, live)


def reject(world: World, policy: Policy, version: Version, actor: Actor, reason: str) -> Entry:
    """Take a version out for good, before it went live. It needs nobody's leave: it can only make things safer."""
    changes = tuple(plan_rejection(world, policy, version))
    failpoint("reject:decided")
    entry = world.ledger.append(
        Draft(policy.model, Kind.REJECTED, version.number, actor, reason, changes, changes[0].origin)
    )
    failpoint("reject:committed")
    return entry


# --- counting -------------------------------------------------------------------------------------------------------


def count_approvals(world: World, policy: Policy, stage: str, version: Version, evidence: Evidence) -> Tally:
    """Which approvals of a version count for a stage now."""
    given = given_for(world, version, stage)
    return tally(given, policy.stage(stage).approvals, evidence, world.clock.now())


def evidence_of(
    world: World, policy: Policy, stage: str, version: Version, judgement: Judgement | None
) -> Evidence:
    """What stands now. Without a judgement nobody asked the gates."""
    before = incumbent(world, policy, stage)
    evaluation = judgement.evaluation if judgement else None
    return Evidence(
        bundle_digest=version.digest,
        evaluation_id=evaluation.id if evaluation else "",
        policy_digest=policy.digest,
        authors=tuple(authors(world, version)),
        incumbent=before.digest if before else "",
        findings=judgement.findings if judgement else None,
        revoked=frozenset(token.id for token in world.tokens.all() if token.revoked_at),
    )


def authors(world: World, version: Version) -> Iterator[str]:
    """Whoever made a version: trained it, as MLflow says, and registered or compressed it and what it comes from."""
    versions = {v.number: v for v in world.ledger.versions(version.model)}
    line: Version | None = version
    numbers = set()
    while line is not None:
        yield line.author
        numbers.add(line.number)
        line = versions.get(line.parent) if line.parent else None
    for entry in world.ledger.entries(version.model, kinds=(Kind.REGISTERED,)):
        if entry.draft.version in numbers:
            yield entry.draft.actor.name


def incumbent(world: World, policy: Policy, stage: str) -> Version | None:
    """The stage's present version."""
    holder = world.ledger.standings(policy.model).holder(stage)
    return next((v for v in world.ledger.versions(policy.model) if v.number == holder), None)


def given_for(world: World, version: Version, stage: str) -> list[Approval]:
    """The approvals of a version for a stage in the ledger, oldest first."""
    entries = world.ledger.entries(version.model, kinds=(Kind.APPROVED,), version=version.number)
    return approvals_of(entries, version.number, stage)


def approvals_of(entries: Iterable[Entry], version: int, stage: str) -> list[Approval]:
    """The approvals of a version for a stage, oldest first."""
    drafts = [e.draft for e in entries if e.draft.kind is Kind.APPROVED]
    return [read_approval(d.data["approval"]) for d in drafts if (d.version, d.stage) == (version, stage)]


def shown_tally(
    world: World, policy: Policy, stage: str, version: Version, entries: Sequence[Entry]
) -> Tally | None:
    """Approvals of a version, from its entries, as a reader wants to see them: those that took it into the stage, or
    else what they are worth now. None where none are wanted and none were given.

    Nothing is measured: what the gates said last is held against what they said when it was approved.
    """
    asked = [e.draft for e in entries if (e.draft.version, e.draft.stage) == (version.number, stage)]
    looked = (d for d in reversed(asked) if "findings" in d.data and not d.data.get("break_glass"))
    judged = next(looked, None)
    given, demand = approvals_of(entries, version.number, stage), policy.stage(stage).approvals
    place = world.ledger.standings(policy.model).place(version.number)
    is_open = place == CANDIDATE or stage in policy.ladder.above(place)
    moves = (d for d in reversed(asked) if d.kind in (Kind.PROMOTED, Kind.ROLLOUT_OPENED))
    entered = next((d for d in moves if "approvals" in d.data), None)
    if not is_open and entered:
        used = {a.actor: a for a in given if a.actor in entered.data.get("approvals", ())}
        wanted = entered.data.get("approvals_wanted", demand.count)
        return Tally(tuple(used.values()), (), wanted) if used or wanted else None
    if not given and not (is_open and demand.count):
        return None
    seen = Judgement(tuple(map(finding_of, judged.data["findings"])), None) if judged else None
    evidence = evidence_of(world, policy, stage, version, seen)
    evidence = replace(evidence, evaluation_id=judged.data.get("evaluation_id", "") if judged else "")
    return tally(given, demand, evidence, world.clock.now())


def approvals_by_stage(
    world: World, policy: Policy, version: Version, entries: Sequence[Entry]
) -> dict[str, Tally]:
    """Of every stage where approvals are wanted or were given."""
    counts = {s: shown_tally(world, policy, s, version, entries) for s in policy.ladder.stages}
    return {stage: count for stage, count in counts.items() if count is not None}


def finding_of(raw: Mapping[str, Any]) -> Finding:
    """A finding as the ledger keeps it."""
    measurements = tuple(Measurement(**{**m, "value": float(m["value"])}) for m in raw["measurements"])
    return Finding(raw["gate"], Verdict(raw["verdict"]), raw["because"], measurements, raw["limit"])


# --- recording ----------------------------------------------------------------------------------------------------


def new_approval(world: World, stage: str, who: Identity, reason: str, evidence: Evidence) -> Approval:
    """An approval of what stands now."""
    return Approval(
        actor=who.actor.name,
        verified=who.actor.verified,
        at=world.clock.now(),
        reason=reason,
        stage=stage,
        bundle_digest=evidence.bundle_digest,
        evaluation_id=evidence.evaluation_id,
        policy_digest=evidence.policy_digest,
        roles=who.roles,
        token=who.token,
        incumbent=evidence.incumbent,
        verdicts=tuple(f.verdict for f in evidence.findings or ()),
    )


def approval_draft(
    policy: Policy,
    version: Version,
    approval: Approval,
    findings: Sequence[Finding],
    key: str | None = None,
    **more: Any,
) -> Draft:
    """The ledger's entry for an approval, with the findings that it was given on."""
    return Draft(
        policy.model,
        Kind.APPROVED,
        version.number,
        Actor(approval.actor, approval.verified),
        approval.reason,
        stage=approval.stage,
        data=finite(
            plain(
                {
                    "approval": approval,
                    "findings": list(findings),
                    "evaluation_id": approval.evaluation_id,
                    **more,
                }
            )
        ),
        key=key,
    )


def read_approval(raw: Mapping[str, Any]) -> Approval:
    """An approval as the ledger keeps it."""
    at, roles, verdicts = (
        datetime.fromisoformat(raw["at"]),
        tuple(raw["roles"]),
        map(Verdict, raw["verdicts"]),
    )
    return Approval(**{**raw, "at": at, "roles": roles, "verdicts": tuple(verdicts)})


# --- the paragraphs -------------------------------------------------------------------------------------------------


def _demand_right(world: World, policy: Policy, version: Version, stage: str, who: Identity) -> None:
    demand = policy.stage(stage).approvals
    asked = new_approval(world, stage, who, "", evidence_of(world, policy, stage, version, None))
    if why := why_not_by(asked, demand, tuple(authors(world, version))):
        hint = "Let somebody else look at it: who trained, compressed or registered it is its author."
        if not who.actor.verified:
            hint = "Act with a token in MLPLATFORM_TOKEN; an admin makes one: mlplatform token add NAME --role ROLE."
        elif demand.roles and not set(who.roles) & set(demand.roles):
            hint = (
                f"The roles of {who.actor.name}: {', '.join(who.roles) or 'none'}. They come with the token."
            )
        raise Refused(hint, what=f"{who.actor.name} cannot approve {version.ref} for {stage}: {why}")


def _verdict(findings: Sequence[Finding], reason: str) -> tuple[Status, str]:
    """A person may settle what gates cannot tell, never what they saw or could not look at."""
    bad = worst(findings)
    told = "; ".join(f"{f.gate}: {f.because}" for f in findings if f.verdict is bad)
    if bad is Verdict.FAIL:
        return "refused", f"no approval settles a gate that fails: {told}"
    if bad is Verdict.ERROR:
        return "error", f"there is nothing to approve yet: {told}"
    return "done", reason
