"""rollback: traffic first, then the ledger, then MLflow's alias."""

from __future__ import annotations

from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import MOVES, Actor, Draft, Entry, Kind, tenures, way_back
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase
from mlplatform.errors import MlplatformError, Refused
from mlplatform.flows.deploy import publish, serve_holder
from mlplatform.flows.probation import version_of
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.state import Intent


def plan_rollback(
    world: World, policy: Policy, stage: str, to: int | None = None
) -> tuple[int, list[Change]]:
    """The version that would return, and the changes; raises Refused when there is none, IllegalMove, ChangedBytes."""
    standings = world.ledger.standings(policy.model)
    entries = world.ledger.entries(policy.model, kinds=MOVES)
    held = tenures(entries, stage)
    target = to if to is not None else way_back(standings, entries, stage)
    if target is None:
        raise Refused(
            what=f"{policy.model} has no earlier good version in {stage} to go back to",
            hint="Name one with --to N, or promote another version.",
        )
    changes = policy.ladder.rollback(standings, stage, target, held)
    version = version_of(world, policy.model, target)
    assert version is not None
    demand_bytes(world, version)
    return target, changes


def rollback(
    world: World,
    policy: Policy,
    stage: str,
    actor: Actor,
    reason: str,
    to: int | None = None,
    key: str | None = None,
) -> Entry:
    """Put the last good version (or `to`) back. A corrupt target is refused and the live one stays."""
    target, changes = plan_rollback(world, policy, stage, to)
    leaving = next((c.version for c in changes if c.origin == stage), None)
    key = key or f"rollback:{policy.model}:{stage}:{leaving}:{target}:{world.clock.now().isoformat()}"
    payload = {
        "stage": stage,
        "to": target,
        "reason": reason,
        "actor": actor.name,
        "verified": actor.verified,
    }
    world.intents.open(Intent(key, "rollback", policy.model, payload, world.clock.now()))
    failpoint("rollback:intent")
    if policy.stage(stage).endpoint:
        _shift(world, policy, stage, target, key)
        failpoint("rollback:shifted")
    entry = world.ledger.append(
        Draft(
            policy.model,
            Kind.ROLLED_BACK,
            target,
            actor,
            reason,
            changes=tuple(changes),
            stage=stage,
            data={"from": leaving, "share": 1.0},
            key=key,
        )
    )
    failpoint("rollback:committed")
    _end_rollouts(world, policy, stage, reason)
    world.intents.close(key)
    return entry


def finish_rollback(world: World, policy: Policy, intent: Intent) -> None:
    """Redo a rollback that died: its traffic may have moved already, so going on is the safe direction."""
    payload = intent.payload
    done = world.ledger.entries(policy.model, key=intent.key)
    if done:
        _end_rollouts(world, policy, payload["stage"], payload["reason"])
        world.intents.close(intent.key)
        return
    actor = Actor(payload["actor"], payload["verified"])
    try:
        rollback(world, policy, payload["stage"], actor, payload["reason"], payload["to"], intent.key)
    except Refused as error:  # its target was damaged meanwhile
        _call_off(world, policy, payload["stage"], intent.key, str(error))


def _shift(world: World, policy: Policy, stage: str, target: int, key: str) -> None:
    """Traffic to the target; where the server cannot follow, the present version goes on and the rollback is off."""
    try:
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


def _end_rollouts(world: World, policy: Policy, stage: str, reason: str) -> None:
    for rollout in world.deployments.active(policy.model):
        if rollout.stage == stage:
            world.deployments.save(rollout.now_in(Phase.FAILED, reason))
