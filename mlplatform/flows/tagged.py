"""Approvals that people write as tags on MLflow's version page.

MLflow keeps no author of a tag, so that they are the word of one unverified somebody. Each becomes one entry of the
ledger; the answer is a tag beside it, written with the version's card.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.domain.approval import Tally, tally, undecided
from mlplatform.domain.canonical import digest, plain
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.token import Identity
from mlplatform.domain.verdict import Verdict, worst
from mlplatform.domain.version import Version
from mlplatform.errors import IllegalMove, MlflowUnreachable, UnknownName, WorldError
from mlplatform.flows.approve import (
    approval_draft,
    count_approvals,
    evidence_of,
    given_for,
    incumbent,
    new_approval,
    read_approval,
    shown_tally,
)
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.evaluate import Judgement, judge
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.tracking import ANSWER_TAG, OutsideView, TaggedApproval

SOMEBODY = Identity(Actor("mlflow"))
LONGEST_REASON = 1000


def waiting(world: World, policy: Policy, view: OutsideView) -> list[TaggedApproval]:
    """Tags on our versions that the ledger does not know yet."""
    if not view.approvals:
        return []
    ours, ledger = world.ledger.standings(policy.model).places, world.ledger
    tags = [tag for tag in view.approvals if tag.version in ours]
    return [tag for tag in tags if not ledger.entries(policy.model, key=_key(tag))]


def differences(world: World, policy: Policy, view: OutsideView) -> list[Difference]:
    """Tags that wait, with what takes them up."""
    return [
        Difference(
            policy.model,
            f"a tag in MLflow approves version {tag.version} for {tag.stage}",
            f"recorded; the tag {ANSWER_TAG}{tag.stage} beside it says what it is worth",
            bound(take_up, world, policy, tag),
        )
        for tag in waiting(world, policy, view)
    ]


def take_up(world: World, policy: Policy, tag: TaggedApproval) -> Entry:
    """Enter a tag into the ledger, bound to what stands now. Raises WorldError when the gates could not look."""
    version = next(v for v in world.ledger.versions(policy.model) if v.number == tag.version)
    if why := _nonsense(world, policy, tag):
        return _refuse(world, tag, version, why)
    judgement = judge(world, policy, tag.stage, version, incumbent(world, policy, tag.stage))
    if worst(judgement.findings) is Verdict.ERROR:
        told = "; ".join(f.because for f in judgement.findings if f.verdict is Verdict.ERROR)
        raise WorldError(what=f"{version.ref} cannot be judged for {tag.stage}: {told}")
    return _record(world, policy, tag, version, judgement)


def count_with_tags(
    world: World, policy: Policy, stage: str, version: Version, judgement: Judgement, look_only: bool
) -> Tally:
    """Approvals that count for a stage. Where they are too few, MLflow is asked for tags that may count.

    `look_only`: tags count as if they were taken up.
    """
    evidence = evidence_of(world, policy, stage, version, judgement)
    count = count_approvals(world, policy, stage, version, evidence)
    enough = count.settles if undecided(judgement.findings) else count.enough
    hopeless = worst(judgement.findings) in (Verdict.FAIL, Verdict.ERROR)
    if enough or hopeless or not policy.stage(stage).approvals.unverified:
        return count
    tags = [t for t in _seen(world, policy) if (t.version, t.stage) == (version.number, stage)]
    tags = [t for t in tags if not _nonsense(world, policy, t)]
    if look_only:
        given = given_for(world, version, stage)
        given += [new_approval(world, stage, SOMEBODY, tag.reason, evidence) for tag in tags]
        return tally(given, policy.stage(stage).approvals, evidence, world.clock.now())
    for tag in tags:
        _record(world, policy, tag, version, judgement)
    return count_approvals(world, policy, stage, version, evidence)


def answers(world: World, policy: Policy, version: Version, entries: Sequence[Entry]) -> dict[str, str]:
    """What the tags of a version are worth now, by the stage that they name."""
    said = {}
    for entry in entries:
        if entry.draft.version == version.number and (tag := entry.draft.data.get("tag")):
            said[tag["stage"]] = _answer(world, policy, version, entry, entries)
    return said


# --- helpers --------------------------------------------------------------------------------------------------------


def _seen(world: World, policy: Policy) -> list[TaggedApproval]:
    try:
        return waiting(world, policy, world.registry.outside(policy.model))
    except MlflowUnreachable as error:
        world.progress(f"{error}; approvals by tag, if there are any, do not count now")
        return []


def _nonsense(world: World, policy: Policy, tag: TaggedApproval) -> str:
    """Why a tag is no approval, whoever wrote it."""
    try:
        policy.ladder.demand_open(world.ledger.standings(policy.model), tag.version, tag.stage)
    except (UnknownName, IllegalMove) as error:
        return f"{error}. {error.next_step}".strip()
    return "" if tag.reason.strip() else "write the reason as the tag's value"


def _record(
    world: World, policy: Policy, tag: TaggedApproval, version: Version, judgement: Judgement
) -> Entry:
    evidence = evidence_of(world, policy, tag.stage, version, judgement)
    approval = new_approval(world, tag.stage, SOMEBODY, tag.reason[:LONGEST_REASON], evidence)
    draft = approval_draft(policy, version, approval, judgement.findings, _key(tag), tag=_facts(tag))
    entry = world.ledger.append(draft)
    failpoint("approve:taken_up")
    return entry


def _refuse(world: World, tag: TaggedApproval, version: Version, why: str) -> Entry:
    data = {"tag": _facts(tag)}
    return world.ledger.append(
        Draft(version.model, Kind.REFUSED, version.number, SOMEBODY.actor, why, data=data, key=_key(tag))
    )


def _answer(world: World, policy: Policy, version: Version, entry: Entry, entries: Sequence[Entry]) -> str:
    if entry.draft.kind is not Kind.APPROVED:
        return f"void: {entry.draft.reason}"
    stage = str(entry.draft.stage)
    count = shown_tally(world, policy, stage, version, entries)
    assert count is not None
    own = read_approval(entry.draft.data["approval"])
    if why := dict(count.void).get(own):
        return f"void: {why}"
    return f"counted: {len(count.counting)} of {count.wanted} approvals"


def _key(tag: TaggedApproval) -> str:
    """The same words on the same page are one approval, for ever."""
    return f"tag:{digest(plain(tag))}"


def _facts(tag: TaggedApproval) -> dict[str, object]:
    return {"stage": tag.stage, "version": tag.version}
