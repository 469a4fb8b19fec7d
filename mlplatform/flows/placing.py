"""On which target an endpoint's server runs, and how it comes to run on another: behind the same port where both can.

The policy is the reviewed statement of what is demanded. So a command may choose a target exactly where the policy
leaves it open; then nothing that reads the policy ever moves the server back. The choice is noted before the server is
moved and taken back when it cannot be: whoever comes after a crash goes on with it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.placement import Placement, left_behind, wanted
from mlplatform.domain.policy import Policy
from mlplatform.domain.use import Use
from mlplatform.errors import MlplatformError, Refused
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.extensions import ServerSpec, ServerState, Target


def demand_open(world: World, policy: Policy, endpoint: Endpoint, target: Use) -> None:
    """Raises Refused where the policy names another target or its options; UnknownName, UsageError for what is none."""
    world.build("target", target)
    named = endpoint.runs_on
    if endpoint.leaves_target_open or target in (named, Use(named.use)):
        return
    raise Refused(
        f"Say it there and deploy again, or leave `target` and `options` of endpoint {endpoint.name} out of the policy:"
        " then this command chooses.",
        what=f"the policy of {policy.model} says that endpoint {endpoint.name} runs on {told(named)}",
    )


def told(use: Use) -> str:
    """`docker`, or `docker (memory_mb = 1500)`."""
    options = ", ".join(f"{name} = {value}" for name, value in use.options.items())
    return f"{use.use} ({options})" if options else use.use


def start(
    world: World, policy: Policy, stage: str, desired: ServerSpec, choice: Placement | None = None
) -> ServerState:
    """The server on the target that is wanted, moved there where it runs on another. Raises ServerDidNotStart and the
    like; then it runs where it ran before, and that is what is noted."""
    endpoint = policy.stage(stage).endpoint
    assert endpoint is not None
    known = world.placements.placement(endpoint.name)
    to = choice or wanted(endpoint, known)
    if to == known:
        return _built(world, to.target).apply(desired)
    left = left_behind(known, to.target)
    world.placements.place(endpoint.name, replace(to, settled=False, before=left[-1] if left else None))
    failpoint("deploy:placed")
    try:
        state = _take_over(world, left, to.target, desired)
    except MlplatformError:
        world.placements.place(endpoint.name, known)
        raise
    failpoint("deploy:moved")
    _record(world, policy, stage, endpoint, to)
    failpoint("deploy:chosen")
    world.placements.place(endpoint.name, to)
    return state


def state(world: World, endpoint: Endpoint) -> ServerState:
    """What runs, on whichever target."""
    folder = world.documents.folder(endpoint.name)
    states = [target.status(folder) for target in _targets(world, endpoint)]
    return next((state for state in states if state.running), states[0])


def stop(world: World, endpoint: Endpoint) -> None:
    """End the server, on whichever target it runs."""
    for target in _targets(world, endpoint):
        target.stop(world.documents.folder(endpoint.name))
    known = world.placements.placement(endpoint.name)
    if known is not None and not known.settled:
        world.placements.place(endpoint.name, None)  # what was not carried out is not kept


def where(world: World, endpoint: Endpoint) -> Use:
    """The target that the server runs on, or is started on next."""
    known = world.placements.placement(endpoint.name)
    to = wanted(endpoint, known).target
    left = left_behind(known, to)
    folder = world.documents.folder(endpoint.name)
    return next((use for use in left if _built(world, use).status(folder).running), to)


def target(world: World, endpoint: Endpoint) -> Target:
    """The one that the server runs on, or is started on next."""
    return _built(world, where(world, endpoint))


# --- small ----------------------------------------------------------------------------------------------------------


def _built(world: World, use: Use) -> Target:
    target: Target = world.build("target", use)
    return target


def _targets(world: World, endpoint: Endpoint) -> list[Target]:
    known = world.placements.placement(endpoint.name)
    to = wanted(endpoint, known).target
    return [_built(world, use) for use in (to, *left_behind(known, to))]


def _take_over(world: World, left: list[Use], to: Use, desired: ServerSpec) -> ServerState:
    """One target's server takes the place of others', which go on until it is ready where it can bring that about."""
    target = _built(world, to)
    ended = [use for use in left if use.use not in target.takes_over_from]
    ran = [use for use in ended if _stopped(_built(world, use), desired.folder)]
    try:
        return target.apply(desired)
    except MlplatformError:
        for use in ran[:1]:
            target.stop(desired.folder, keep_port=True)
            _built(world, use).apply(desired)
        raise


def _stopped(target: Target, folder: Path) -> bool:
    """Whether something ran, which does not any more; connections wait for the next where they can."""
    ran = target.status(folder).running
    target.stop(folder, keep_port=True)
    return ran


def _record(world: World, policy: Policy, stage: str, endpoint: Endpoint, placement: Placement) -> None:
    """Who chose, once, whoever brings it to its end."""
    choice, holder = placement.choice, world.ledger.standings(policy.model).holder(stage)
    if choice is None or holder is None:
        return
    why = f"endpoint {endpoint.name} runs on {told(placement.target)}"
    data = {
        "endpoint": endpoint.name,
        "target": placement.target.use,
        "options": dict(placement.target.options),
    }
    key = f"target:{endpoint.name}:{choice.at.isoformat()}"
    world.ledger.append(
        Draft(policy.model, Kind.TARGET_CHOSEN, holder, choice.by, why, stage=stage, data=data, key=key)
    )
