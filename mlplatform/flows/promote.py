"""promote: gather the subject, decide by pure rules, record in one transaction, act on what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from mlplatform.domain.approval import Approval, Evidence, Tally, tally
from mlplatform.domain.canonical import finite, plain
from mlplatform.domain.ladder import RETIRED, STANDBY, Change, Standings
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.verdict import Finding, Verdict, worst
from mlplatform.domain.version import Version
from mlplatform.errors import DONE, REFUSED, WAITING, WORLD, Refused
from mlplatform.flows.deploy import opened_key
from mlplatform.flows.evaluate import Judgement, judge
from mlplatform.flows.world import World, failpoint

Status = Literal["done", "refused", "waiting", "error", "rolling_out"]
EXIT_CODES: dict[Status, int] = {
    "done": DONE,
    "rolling_out": DONE,
    "refused": REFUSED,
    "waiting": WAITING,
    "error": WORLD,
}


@dataclass(frozen=True)
class Wish:
    """Somebody wants a version in a stage."""

    version: Version
    stage: str
    actor: Actor
    reason: str
    break_glass: bool = False
    """Skip gates and approvals; recorded and shown."""
    dry_run: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of a wish: a result, also when it is a refusal."""

    status: Status
    version: Version
    stage: str
    because: str
    findings: tuple[Finding, ...] = ()
    tally: Tally | None = None
    changes: tuple[Change, ...] = ()
    evaluation_id: str = ""
    rollout: Rollout | None = None
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def promote(world: World, policy: Policy, wish: Wish) -> Outcome:
    """Put a version into a stage if gates and approvals allow it; a stage with an endpoint opens a rollout instead.

    Raises IllegalMove when the ladder forbids it, ChangedBytes, StageConflict when somebody was faster.
    """
    standings = world.ledger.standings(policy.model)
    changes = _changes(policy, standings, wish)
    judgement, count = _gather(world, policy, standings, wish)
    outcome = decide(wish, changes, judgement, count)
    if wish.dry_run:
        return outcome
    if outcome.status != "done":
        _record(world, wish, Kind.REFUSED, outcome, ())
        return outcome
    failpoint("promote:decided")
    if policy.stage(wish.stage).endpoint:
        return _open_rollout(world, policy, standings, wish, outcome)
    _record(world, wish, Kind.PROMOTED, outcome, outcome.changes)
    failpoint("promote:committed")
    return outcome


def decide(wish: Wish, changes: Sequence[Change], judgement: Judgement, count: Tally) -> Outcome:
    """The verdict on a wish from findings and approvals. Pure."""
    status, because = _verdict(wish, judgement.findings, count)
    return Outcome(
        status=status,
        version=wish.version,
        stage=wish.stage,
        because=because,
        findings=judgement.findings,
        tally=count,
        changes=tuple(changes),
        evaluation_id=judgement.evaluation.id if judgement.evaluation else "",
        dry_run=wish.dry_run,
    )


def approve(world: World, policy: Policy, wish: Wish) -> Entry:
    """Record an approval, bound to the version's bytes, its newest evaluation and the policy as they are now."""
    standings = world.ledger.standings(policy.model)
    standings.place(wish.version.number)
    policy.ladder.rank(wish.stage)
    judgement = judge(world, policy, wish.stage, wish.version, _incumbent(world, standings, wish.stage))
    evaluation = judgement.evaluation
    approval = Approval(
        actor=wish.actor.name,
        verified=wish.actor.verified,
        at=world.clock.now(),
        reason=wish.reason,
        stage=wish.stage,
        bundle_digest=wish.version.digest,
        evaluation_id=evaluation.id if evaluation else "",
        policy_digest=policy.digest,
    )
    demand = policy.stage(wish.stage).approvals
    if not wish.actor.verified and not demand.unverified:
        raise Refused(
            what=f"{wish.actor.name} is not verified, and {wish.stage} of {policy.model} wants verified approvals",
            hint="Set `approvals = { count = N, unverified = true }` in the policy to count those from a terminal.",
        )
    data = {"approval": plain(approval)}
    failpoint("approve:judged")
    return world.ledger.append(
        Draft(
            policy.model,
            Kind.APPROVED,
            wish.version.number,
            wish.actor,
            wish.reason,
            stage=wish.stage,
            data=data,
        )
    )


def count_approvals(world: World, policy: Policy, stage: str, version: Version, evaluation_id: str) -> Tally:
    """Which approvals of a version count for a stage now."""
    given = approvals_of(world.ledger.entries(policy.model), version.number, stage)
    evidence = Evidence(version.digest, evaluation_id, policy.digest, version.author)
    return tally(given, policy.stage(stage).approvals, evidence, world.clock.now())


def approvals_of(entries: Sequence[Entry], version: int, stage: str) -> list[Approval]:
    """The approvals of a version for a stage, oldest first."""
    from datetime import datetime

    found = []
    for entry in entries:
        draft = entry.draft
        if draft.kind is Kind.APPROVED and (draft.version, draft.stage) == (version, stage):
            raw: dict[str, Any] = dict(draft.data["approval"])
            found.append(Approval(**{**raw, "at": datetime.fromisoformat(raw["at"])}))
    return found


# --- the paragraphs -------------------------------------------------------------------------------------------------


def _changes(policy: Policy, standings: Standings, wish: Wish) -> list[Change]:
    """The move itself, and an end to the waiting of versions that an earlier switch kept warm."""
    keep_warm = policy.stage(wish.stage).endpoint is not None
    changes = policy.ladder.promotion(standings, wish.version.number, wish.stage, keep_warm)
    if not keep_warm:
        return changes
    waiting = [Change(v, STANDBY, RETIRED) for v, place in standings.places.items() if place == STANDBY]
    return [*waiting, *changes]


def _gather(world: World, policy: Policy, standings: Standings, wish: Wish) -> tuple[Judgement, Tally]:
    world.bundles.verify(wish.version.digest)
    incumbent = _incumbent(world, standings, wish.stage)
    judgement = (
        Judgement((), None) if wish.break_glass else judge(world, policy, wish.stage, wish.version, incumbent)
    )
    name = judgement.evaluation.id if judgement.evaluation else ""
    return judgement, count_approvals(world, policy, wish.stage, wish.version, name)


def _incumbent(world: World, standings: Standings, stage: str) -> Version | None:
    holder = standings.holder(stage)
    return next((v for v in world.ledger.versions(standings.model) if v.number == holder), None)


def _verdict(wish: Wish, findings: Sequence[Finding], count: Tally) -> tuple[Status, str]:
    if wish.break_glass:
        return "done", f"break-glass: {wish.reason}"
    bad = worst(findings)
    reasons = "; ".join(f"{f.gate}: {f.because}" for f in findings if f.verdict is bad)
    if bad is Verdict.FAIL:
        return "refused", reasons
    if bad is Verdict.ERROR:
        return "error", reasons
    if bad is Verdict.INCONCLUSIVE:
        return "waiting", f"cannot tell yet: {reasons}"
    if not count.enough:
        return "waiting", f"{len(count.counting)} of {count.wanted} approvals"
    return "done", wish.reason


def _record(world: World, wish: Wish, kind: Kind, outcome: Outcome, changes: Sequence[Change]) -> Entry:
    return world.ledger.append(promotion_draft(wish, kind, outcome, changes))


def promotion_draft(
    wish: Wish, kind: Kind, outcome: Outcome, changes: Sequence[Change], key: str | None = None
) -> Draft:
    """The ledger's entry for a wish, with all its evidence."""
    return Draft(
        wish.version.model,
        kind,
        wish.version.number,
        wish.actor,
        outcome.because,
        changes=tuple(changes),
        stage=wish.stage,
        data=finite(
            plain(
                {
                    "findings": list(outcome.findings),
                    "evaluation_id": outcome.evaluation_id,
                    "break_glass": wish.break_glass,
                    "status": outcome.status,
                    "approvals": [a.actor for a in outcome.tally.counting] if outcome.tally else [],
                }
            )
        ),
        key=key,
    )


def _open_rollout(
    world: World, policy: Policy, standings: Standings, wish: Wish, outcome: Outcome
) -> Outcome:
    endpoint = policy.stage(wish.stage).endpoint
    assert endpoint is not None
    rollout = world.deployments.open(
        Rollout(
            id=uuid4().hex,
            model=policy.model,
            version=wish.version.number,
            stage=wish.stage,
            endpoint=endpoint.name,
            previous=standings.holder(wish.stage),
            phase=Phase.OPENED,
            opened_at=world.clock.now(),
            actor=wish.actor.name,
            reason=outcome.because,
        )
    )
    failpoint("deploy:opened")
    draft = promotion_draft(wish, Kind.ROLLOUT_OPENED, outcome, (), key=opened_key(rollout.id))
    world.ledger.append(draft)
    failpoint("deploy:recorded")
    return Outcome(**{**vars(outcome), "status": "rolling_out", "rollout": rollout})
