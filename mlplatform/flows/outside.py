"""What people did in MLflow behind our back: aliases that were moved, versions that were deleted."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.domain.ladder import RETIRED, Change, Standings
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Policy
from mlplatform.errors import IllegalMove
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.world import World


def done_outside(world: World, policy: Policy) -> list[Difference]:
    """Where MLflow differs from the ledger though nothing of ours is due to be written there."""
    standings = world.ledger.standings(policy.model)
    if not standings.places:
        return []
    view = world.registry.outside(policy.model)
    gone = sorted(set(standings.places) - view.versions)
    found = _deleted(world, policy, standings, gone) if gone else []
    if policy.model in dict(world.outbox.due()):
        return found
    for stage in policy.ladder.stages:
        ours, theirs = standings.holder(stage), view.aliases.get(stage)
        if ours != theirs and ours not in gone:
            found.append(_moved(world, policy, standings, stage, ours, theirs))
    return found


# --- versions -------------------------------------------------------------------------------------------------------


def _deleted(world: World, policy: Policy, standings: Standings, gone: Sequence[int]) -> list[Difference]:
    """MLflow never gives a number twice: a deleted version cannot come back, only be remembered as deleted."""
    known = {e.draft.key for e in world.ledger.entries(policy.model)}
    return [
        Difference(
            policy.model,
            f"version {number} ({standings.places[number]}) was deleted in MLflow",
            "recorded; its bundle is kept and goes on serving. Register its run again to see it in MLflow",
            bound(_remember_deleted, world, policy, number),
        )
        for number in gone
        if _deleted_key(number) not in known
    ]


def _remember_deleted(world: World, policy: Policy, number: int) -> None:
    reason = f"version {number} was deleted in MLflow by somebody; its bundle is kept"
    actor, data = Actor("reconcile", True), {"deleted": number}
    key = _deleted_key(number)
    world.ledger.append(Draft(policy.model, Kind.OUTSIDE_MOVE, number, actor, reason, data=data, key=key))


def _deleted_key(number: int) -> str:
    return f"outside:deleted:{number}"


# --- aliases --------------------------------------------------------------------------------------------------------


def _moved(
    world: World, policy: Policy, standings: Standings, stage: str, ours: int | None, theirs: int | None
) -> Difference:
    what = f"MLflow's alias {stage} names {_name(theirs)}, the ledger says {_name(ours)}"
    changes, why_not = list[Change](), ""
    if policy.reconcile.outside_moves == "record":
        changes, why_not = _as_move(policy, standings, stage, ours, theirs)
    done = "recorded" if changes else "set back" + (f", because {why_not}" if why_not else "")
    mend = bound(_note, world, policy, stage, ours, theirs, changes, done)
    return Difference(policy.model, what, done, mend)


def _as_move(
    policy: Policy, standings: Standings, stage: str, ours: int | None, theirs: int | None
) -> tuple[list[Change], str]:
    """The changes that would make the ledger say what MLflow says, or why there are none."""
    if policy.stage(stage).endpoint:
        return [], "a version goes live there only by `mlplatform promote` or `rollback`"
    if theirs is None:
        return ([Change(ours, stage, RETIRED)] if ours is not None else []), ""
    if theirs not in standings.places:
        return [], f"version {theirs} is not registered here"
    try:
        return policy.ladder.promotion(standings, theirs, stage), ""
    except IllegalMove as error:
        return [], str(error.facts["why"])


def _note(
    world: World,
    policy: Policy,
    stage: str,
    ours: int | None,
    theirs: int | None,
    changes: Sequence[Change],
    done: str,
) -> None:
    """The entry makes the model's projection due, so that `project` sets the alias to what the ledger says then."""
    reason = f"alias {stage} was moved to {_name(theirs)} in MLflow by somebody; {done}"
    data = {"alias": stage, "found": theirs, "expected": ours}
    version = (theirs if changes else ours) or ours or theirs or 0
    actor = Actor("mlflow") if changes else Actor("reconcile", True)
    world.ledger.append(
        Draft(policy.model, Kind.OUTSIDE_MOVE, version, actor, reason, tuple(changes), stage, data)
    )


def _name(version: int | None) -> str:
    return f"version {version}" if version is not None else "nothing"
