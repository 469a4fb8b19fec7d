"""rollback: traffic first, then the ledger, then MLflow's alias.

While a version is being rolled out, it is this version that is taken back: the stage has not changed hands yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlplatform.domain import taking_back
from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import MOVES, Actor, Draft, Entry, Kind, tenures, way_back
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase
from mlplatform.errors import MlplatformError, Refused
from mlplatform.flows.deploy import publish, serve_holder
from mlplatform.flows.live import running
from mlplatform.flows.probation import version_of
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.state import Intent


def plan_rollback(
    world: World, policy: Policy, stage: str, to: int | None = None, named: bool = False
) -> tuple[int, list[Change]]:
    """The version that would return, and the changes; none where a rollout is taken back. `named`: a person said `to`.

    Raises Refused when there is none, IllegalMove, ChangedBytes.
    """
    standings = world.ledger.standings(policy.model)
    holder = standings.holder(stage)
    if holder is not None and to in (None, holder) and running(world, policy, stage):
        return holder, []
    entries = world.ledger.entries(policy.model, kinds=MOVES)
    held = tenures(entries, stage)
    target = to if to is not None else way_back(standings, entries, stage)
    if target is None:
        raise Refused(
            what=f"{policy.model} has no earlier good version in {stage} to go back to",
            hint="Name one with --to N, or promote another version.",
        )
    changes = taking_back.rollback(policy.ladder, standings, stage, target, held, named)
    version = version_of(world, policy.model, target)
    assert version is not None
    demand_bytes(world, version)
    if before := taking_back.taken_back(entries, target):
        world.progress(f"{version.ref} was taken back itself, {_told(before)}")
    return target, changes


def rollback(
    world: World,
    policy: Policy,
    stage: str,
    actor: Actor,
    reason: str,
    to: int | None = None,
    key: str | None = None,
    named: bool = False,
) -> Entry:
    """Put the last good version (or `to`) back. A corrupt target is refused and the live one stays."""
    target, changes = plan_rollback(world, policy, stage, to, named)
    rolling = None if changes else running(world, policy, stage)
    leaving = rolling[0].version if rolling else next((c.version for c in changes if c.origin == stage), None)
    key = key or f"rollback:{policy.model}:{stage}:{leaving}:{target}:{world.clock.now().isoformat()}"
    payload = {
        "stage": stage,
        "to": target,
        "reason": reason,
        "actor": actor.name,
        "verified": actor.verified,
        "rollout": rolling[0].id if rolling else "",
        "named": named,
    }
    world.intents.open(Intent(key, "rollback", policy.model, payload, world.clock.now()))
    failpoint("rollback:intent")
    if policy.stage(stage).endpoint:
        _shift(world, policy, stage, None if rolling else target, key)
        failpoint("rollback:shifted")
    draft = Draft(policy.model, Kind.ROLLED_BACK, target, actor, reason, tuple(changes), stage, key=key)
    if rolling:
        taken = {"rollout": rolling[0].id}
        draft = replace(draft, kind=Kind.ROLLOUT_FAILED, version=rolling[0].version, data=taken)
    else:
        despite = taking_back.taken_back(world.ledger.entries(policy.model, kinds=MOVES), target)
        mistaken = {"returns_despite": _told(despite)} if despite else {}
        draft = replace(draft, data={"from": leaving, "share": 1.0, **mistaken})
    entry = world.ledger.append(draft)
    failpoint("rollback:committed")
    _end_rollouts(world, policy, payload)
    world.intents.close(key)
    return entry


def finish_rollback(world: World, policy: Policy, intent: Intent) -> None:
    """Redo a rollback that died: its traffic may have moved already, so going on is the safe direction."""
    payload = intent.payload
    done = world.ledger.entries(policy.model, key=intent.key)
    if done:
        _end_rollouts(world, policy, payload)
        world.intents.close(intent.key)
        return
    actor = Actor(payload["actor"], payload["verified"])
    named = payload.get("named", False)
    try:
        rollback(world, policy, payload["stage"], actor, payload["reason"], payload["to"], intent.key, named)
    except Refused as error:  # its target was damaged meanwhile
        _call_off(world, policy, payload["stage"], intent.key, str(error))


def _told(taken_back: Entry) -> str:
    """Who took a version out, when and why."""
    draft = taken_back.draft
    return f"by {draft.actor.name} on {taken_back.at:%Y-%m-%d %H:%M} ({draft.reason})"


def _shift(world: World, policy: Policy, stage: str, target: int | None, key: str) -> None:
    """Traffic to the target, or to the stage's holder alone; where the server cannot follow, what is in effect goes on
    and the rollback is off."""
    try:
        if target is None:
            serve_holder(world, policy, stage, alone=True)
            return
        publish(world, policy, stage, version_of(world, policy.model, target), start=False)
    except MlplatformError as error:
        _call_off(world, policy, stage, key, str(error))
        raise


def _call_off(world: World, policy: Policy, stage: str, key: str, why: str) -> None:
    """What was to return cannot: the stage's holder answers again."""
    world.progress(f"the rollback is called off: {why}")
    if policy.stage(stage).endpoint:
        serve_holder(world, policy, stage)
    world.intents.close(key)


def _end_rollouts(world: World, policy: Policy, payload: Mapping[str, Any]) -> None:
    """The one that was taken back; where the stage changed hands, all of its rollouts."""
    for rollout in world.deployments.active(policy.model):
        if rollout.stage == payload["stage"] and payload.get("rollout", "") in ("", rollout.id):
            world.deployments.save(rollout.now_in(Phase.FAILED, payload["reason"]))
