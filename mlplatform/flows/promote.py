"""promote: gather the subject, decide by pure rules, record in one transaction, act on what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal
from uuid import uuid4

from mlplatform.calendar import window_at
from mlplatform.domain.approval import Tally, undecided
from mlplatform.domain.canonical import finite, plain
from mlplatform.domain.freeze import Frozen
from mlplatform.domain.ladder import RETIRED, STANDBY, Change, Standings
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.verdict import Finding, Verdict, worst
from mlplatform.domain.version import Version
from mlplatform.errors import DONE, REFUSED, WAITING, WORLD, Refused, UsageError
from mlplatform.flows.approve import count_approvals, evidence_of, incumbent
from mlplatform.flows.columns import demand_columns
from mlplatform.flows.deploy import joins
from mlplatform.flows.evaluate import Judgement, judge
from mlplatform.flows.rollout import demand_idle
from mlplatform.flows.rollout_record import opened_key
from mlplatform.flows.sound import demand_bytes, demand_permitted
from mlplatform.flows.tagged import count_with_tags
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
    roles: tuple[str, ...] = ()
    """Of the actor's token."""


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
    policy_digest: str = ""
    """Of the policy that it was held against: whoever reads the ledger can tell whether that was the agreed one."""
    frozen: Frozen | None = None
    """The freeze window that is open: what refused the wish, or what the glass was broken for."""
    rollout: Rollout | None = None
    dry_run: bool = False

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.status]


def promote(world: World, policy: Policy, wish: Wish) -> Outcome:
    """Put a version into a stage if gates and approvals allow it; a stage with an endpoint opens a rollout instead.

    Raises IllegalMove when the ladder forbids it, ChangedBytes, UnknownColumns, StageConflict when somebody was faster,
    RolloutRunning while another version is on its way in; when the glass is broken UsageError without a reason, Refused
    without the role.
    """
    if wish.break_glass:
        _demand_glass(policy, wish)
    standings = world.ledger.standings(policy.model)
    demand_idle(world, policy, wish.stage, wish.version)
    changes = _changes(policy, standings, wish)
    judgement, count = _gather(world, policy, wish)
    frozen = window_at(policy.stage(wish.stage).freeze, world.clock.now())
    outcome = replace(decide(wish, changes, judgement, count, frozen), policy_digest=policy.digest)
    if wish.dry_run:
        if outcome.status == "done" and (joined := joins(world, policy, wish.stage)):
            world.progress(joined)
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


def decide(
    wish: Wish,
    changes: Sequence[Change],
    judgement: Judgement,
    count: Tally,
    frozen: Frozen | None = None,
) -> Outcome:
    """The verdict on a wish from findings, approvals and the freeze window that is open. Pure."""
    status, because = _verdict(wish, judgement.findings, count)
    if frozen and not wish.break_glass:
        because = _frozen(wish, frozen, "" if status == "done" else because)
        status = "refused"
    return Outcome(
        status=status,
        version=wish.version,
        stage=wish.stage,
        because=because,
        findings=judgement.findings,
        tally=count,
        changes=tuple(changes),
        evaluation_id=judgement.evaluation.id if judgement.evaluation else "",
        frozen=frozen,
        dry_run=wish.dry_run,
    )


# --- the paragraphs -------------------------------------------------------------------------------------------------


def _demand_glass(policy: Policy, wish: Wish) -> None:
    if not wish.reason.strip():
        raise UsageError(what="breaking the glass needs a reason", hint="Say why; it is kept in the ledger.")
    wanted = policy.stage(wish.stage).break_glass
    if wanted and not set(wanted) & set(wish.roles):
        raise Refused(
            "Act with the token of somebody who holds one of them, in MLPLATFORM_TOKEN or MLPLATFORM_TOKEN_FILE.",
            what=f"{wish.actor.name} may not break the glass of {wish.stage}: it takes one of {', '.join(wanted)}",
        )


def _changes(policy: Policy, standings: Standings, wish: Wish) -> list[Change]:
    """The move itself, and an end to the waiting of versions that an earlier switch kept warm."""
    keep_warm = policy.stage(wish.stage).endpoint is not None
    changes = policy.ladder.promotion(standings, wish.version.number, wish.stage, keep_warm)
    if not keep_warm:
        return changes
    waiting = [Change(v, STANDBY, RETIRED) for v, place in standings.places.items() if place == STANDBY]
    return [*waiting, *changes]


def _gather(world: World, policy: Policy, wish: Wish) -> tuple[Judgement, Tally]:
    demand_permitted(policy.trust, wish.version.runtime, wish.version.ref)
    demand_bytes(world, wish.version)
    demand_columns(world, policy, wish.stage, wish.version)
    version, stage = wish.version, wish.stage
    if wish.break_glass:
        evidence = evidence_of(world, policy, stage, version, None)
        return Judgement((), None), count_approvals(world, policy, stage, version, evidence)
    before = incumbent(world, policy, stage)
    judgement = judge(world, policy, stage, version, before, keep=not wish.dry_run)
    return judgement, count_with_tags(world, policy, stage, version, judgement, look_only=wish.dry_run)


def _verdict(wish: Wish, findings: Sequence[Finding], count: Tally) -> tuple[Status, str]:
    if wish.break_glass:
        return "done", f"break-glass: {wish.reason}"
    bad = worst(findings)
    reasons = "; ".join(f"{f.gate}: {f.because}" for f in findings if f.verdict is bad)
    if bad is Verdict.FAIL:
        return "refused", reasons
    if bad is Verdict.ERROR:
        return "error", reasons
    if bad is Verdict.INCONCLUSIVE and not count.settles:
        return (
            "waiting",
            f"cannot tell yet: {reasons}; {_missing(max(count.wanted, 1), count)} would settle it",
        )
    if not count.enough:
        return "waiting", f"{len(count.counting)} of {count.wanted} {_approvals(count.wanted)}"
    if bad is Verdict.INCONCLUSIVE:
        people = ", ".join(a.actor for a in count.counting)
        gates = ", ".join(f"{gate} {bad}" for gate in undecided(findings))
        return "done", f"{wish.reason} (passed by approval of {people}: {gates})"
    return "done", wish.reason


def _missing(wanted: int, count: Tally) -> str:
    left = wanted - len(count.counting)
    return f"{left} {'more ' if count.counting else ''}{_approvals(left)}"


def _approvals(count: int) -> str:
    return "approval" if count == 1 else "approvals"


def _frozen(wish: Wish, frozen: Frozen, besides: str) -> str:
    """Why a freeze window refuses, with the way through; and what would stand in the way without it."""
    told = f"{wish.stage} is {frozen}; `--break-glass --reason ...` passes and is recorded"
    return f"{told}. Besides: {besides}" if besides else told


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
                    "policy_digest": outcome.policy_digest,
                    "break_glass": wish.break_glass,
                    "frozen": str(outcome.frozen or ""),
                    "status": outcome.status,
                    "approvals": [a.actor for a in outcome.tally.counting] if outcome.tally else [],
                    "approvals_wanted": outcome.tally.wanted if outcome.tally else 0,
                    "passed_by_approval": _settled(outcome),
                }
            )
        ),
        key=key,
    )


def _settled(outcome: Outcome) -> list[str]:
    """Gates that could not tell, where people said yes."""
    return undecided(outcome.findings) if outcome.status == "done" else []


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
