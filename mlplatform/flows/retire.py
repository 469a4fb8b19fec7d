"""retire: a version that nobody needs leaves its place for good; its bytes and its history stay."""

from __future__ import annotations

from mlplatform.domain.ladder import STANDBY, Change, is_stage
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version
from mlplatform.flows.deploy import serve_holder
from mlplatform.flows.live import demand_settled
from mlplatform.flows.world import World, failpoint


def plan_retirement(world: World, policy: Policy, version: Version) -> list[Change]:
    """What `retire` would do; raises IllegalMove for a version that is live or out already, Refused on its way in."""
    standings = world.ledger.standings(policy.model)
    changes = policy.ladder.retirement(standings, version.number, _live_stages(policy))
    demand_settled(world, policy, version, "retired")
    return changes


def retire(world: World, policy: Policy, version: Version, actor: Actor, reason: str) -> Entry:
    """Take a version out of a stage without an endpoint, or from among the candidates and those kept warm."""
    [change] = plan_retirement(world, policy, version)
    failpoint("retire:decided")
    stage = change.origin if change.origin and is_stage(change.origin) else None
    entry = world.ledger.append(
        Draft(policy.model, Kind.RETIRED, version.number, actor, reason, (change,), stage)
    )
    failpoint("retire:committed")
    if change.origin == STANDBY:
        for live in _live_stages(policy):
            serve_holder(world, policy, live)  # without the version that was kept warm
    return entry


def _live_stages(policy: Policy) -> list[str]:
    return [stage for stage in policy.ladder.stages if policy.stage(stage).endpoint]
