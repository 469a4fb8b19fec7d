"""What stands of a promotion that somebody interrupted, and how it goes on or is taken back."""

from __future__ import annotations

from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase
from mlplatform.domain.version import Version
from mlplatform.flows import live
from mlplatform.flows.rollout_record import is_opened
from mlplatform.flows.world import World


def standing(world: World, policy: Policy, version: Version, stage: str) -> str:
    """One line; nothing is changed."""
    model, place = version.model, world.ledger.standings(version.model).place(version.number)
    back = f"`mlplatform rollback {model} --stage {stage} --reason ...` takes it back"
    own = [r for r in world.deployments.active(model) if (r.version, r.stage) == (version.number, stage)]
    for rollout in own:
        if rollout.phase is Phase.PROBATION:
            return f"{version.ref} is in {stage}, on probation: {back}"
        if is_opened(world, rollout):
            at = live.baking(world, policy, rollout)
            where = f"at {at}" if at else "its server has not been told of a share yet"
            return (
                f"the rollout of {version.ref} into {stage} is open ({where}):"
                f" `mlplatform reconcile {model}` goes on with it, {back}"
            )
    if place == stage:
        return f"{version.ref} is in {stage}: {back}"
    return f"nothing was changed: {version.ref} is {place}; the same command begins again"
