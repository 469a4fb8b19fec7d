"""deploy: one step of a rollout per call, stored after it was taken, so that a crash costs one step.

Traffic moves first and is recorded as an entry; stage and alias change in the commit that completes the rollout;
then the version before stays warm until probation ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mlplatform.domain.ladder import RETIRED, STANDBY, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Endpoint, Policy, Use
from mlplatform.domain.rollout import Phase, Rollout, Step
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, MlplatformError, StageConflict, UnknownName, UsageError
from mlplatform.flows.probation import next_step, version_of
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.extensions import ServerSpec, ServerState, Target

IN_EFFECT_SECONDS = 30.0
SETTLED = (Phase.PROBATION, Phase.DONE, Phase.FAILED)
"""Phases that end a command: the rest takes days, or is over."""


def advance(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """Take one step: load beside the incumbent, move the traffic, commit the stage, or look at probation."""
    match rollout.phase:
        case Phase.OPENED:
            return _shift(world, policy, rollout)
        case Phase.SHIFTED:
            return _commit(world, policy, rollout)
        case Phase.PROBATION:
            return _close_probation(world, policy, rollout)
        case _:
            return rollout


def follow(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """Step by step until it is on probation, done or failed."""
    while rollout.phase not in SETTLED:
        rollout = advance(world, policy, rollout)
    return rollout


def unfinished(world: World, policy: Policy) -> list[Rollout]:
    """Rollouts between two steps: when nobody works on the model, their process died."""
    active = world.deployments.active(policy.model)
    return [r for r in active if r.phase is not Phase.PROBATION or _recorded(world, r, passed_key(r.id))]


def resume(world: World, policy: Policy) -> None:
    """Go on with rollouts whose process died between two steps. One without its entry in the ledger never began."""
    for rollout in unfinished(world, policy):
        if rollout.phase is Phase.PROBATION:
            _end_probation(world, policy, rollout, "it had passed")
        elif not _is_opened(world, rollout):
            world.deployments.save(rollout.now_in(Phase.FAILED, "its process died before it was recorded"))
        else:
            follow(world, policy, rollout)


def opened_key(rollout: str) -> str:
    """Idempotency key of the entry that records a rollout with its evidence."""
    return f"rollout:{rollout}:opened"


def passed_key(rollout: str) -> str:
    return f"rollout:{rollout}:passed"


def _recorded(world: World, rollout: Rollout, key: str) -> bool:
    return bool(world.ledger.entries(rollout.model, key=key))


def _is_opened(world: World, rollout: Rollout) -> bool:
    """Whether the ledger let this version into this stage, with the evidence: the rollout's own row is no proof."""
    opened = world.ledger.entries(rollout.model, key=opened_key(rollout.id))
    return any((e.draft.version, e.draft.stage) == (rollout.version, rollout.stage) for e in opened)


def start_server(world: World, policy: Policy, stage: str) -> ServerState:
    """The endpoint's server, started if it does not run."""
    endpoint = _endpoint(policy, stage)
    target: Target = world.build("target", _use(endpoint))
    folder = world.documents.folder(endpoint.name)
    return target.apply(ServerSpec(endpoint.name, folder, port=endpoint.port, workers=endpoint.workers))


def publish(
    world: World,
    policy: Policy,
    stage: str,
    live: Version | None,
    standby: Sequence[Version] = (),
    start: bool = True,
) -> None:
    """Tell the endpoint's server what to serve and wait until every worker does; raises ServerDidNotFollow.

    `start`: start a server that does not run. Without it a stopped server finds the document when it starts.
    """
    endpoint = _endpoint(policy, stage)
    for version in (*([live] if live else []), *standby):
        demand_bytes(world, version)
    document = Routes(
        endpoint=endpoint.name,
        generation=0,
        routes=tuple(_route(world, v, "live") for v in ([live] if live else [])),
        standby=tuple(_route(world, v, "standby") for v in standby),
        capture=capture_rule(policy),
    )
    if start:
        start_server(world, policy, stage)
    published = world.documents.publish(document)
    if start or is_running(world, endpoint):
        world.documents.wait_in_effect(endpoint.name, published.generation, IN_EFFECT_SECONDS)


def serve_holder(world: World, policy: Policy, stage: str, start: bool = False) -> None:
    """Tell the endpoint's server to serve the stage's holder, with the version before it kept warm."""
    standings = world.ledger.standings(policy.model)
    versions = {v.number: v for v in world.ledger.versions(policy.model)}
    holder = standings.holder(stage)
    warm = [versions[n] for n, place in standings.places.items() if place == STANDBY]
    standby = [v for v in warm if is_sound(world, v)]
    publish(world, policy, stage, versions[holder] if holder is not None else None, standby, start)


def is_sound(world: World, version: Version) -> bool:
    """Whether its bytes are those that were registered."""
    try:
        world.bundles.verify(version.digest)
    except (ChangedBytes, UnknownName):
        return False
    return True


def is_running(world: World, endpoint: Endpoint) -> bool:
    target: Target = world.build("target", _use(endpoint))
    return target.status(world.documents.folder(endpoint.name)).running


def has_died(world: World, endpoint: Endpoint) -> bool:
    """Whether the server was killed: one that was stopped takes its announcement away."""
    announced = world.documents.folder(endpoint.name) / "server.json"
    return announced.exists() and not is_running(world, endpoint)


def capture_rule(policy: Policy) -> CaptureRule:
    time = [policy.data.time] if policy.data.time else []
    return CaptureRule(
        sample=policy.capture.sample,
        drop_columns=policy.capture.drop_columns,
        context=tuple(dict.fromkeys([*time, *policy.data.context])),
        max_bytes=policy.capture.max_bytes,
    )


# --- steps ----------------------------------------------------------------------------------------------------------


def _shift(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    version = version_of(world, rollout.model, rollout.version)
    before = version_of(world, rollout.model, rollout.previous) if rollout.previous else None
    assert version is not None
    damaged = before is not None and not is_sound(world, before)
    before = None if damaged else before  # its successor must not wait for it
    try:
        if not damaged and not _is_told(world, rollout.endpoint, version):
            publish(world, policy, rollout.stage, before, [version])
        failpoint("deploy:warm")
        publish(world, policy, rollout.stage, version, [before] if before else [])
    except MlplatformError as error:
        return _give_up(world, policy, rollout, before, str(error))
    failpoint("deploy:shifted")
    _note(world, rollout, Kind.TRAFFIC_SHIFTED, f"100 % of {rollout.endpoint}", {"share": 1.0}, "shifted")
    return world.deployments.save(rollout.now_in(Phase.SHIFTED))


def _commit(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    standings = world.ledger.standings(rollout.model)
    waiting = [Change(v, STANDBY, RETIRED) for v, place in standings.places.items() if place == STANDBY]
    key = f"rollout:{rollout.id}:committed"
    if standings.places.get(rollout.version) != rollout.stage:
        changes = policy.ladder.promotion(standings, rollout.version, rollout.stage, keep_warm=True)
        draft = Draft(
            rollout.model,
            Kind.PROMOTED,
            rollout.version,
            _actor(world, rollout),
            rollout.reason,
            changes=(*waiting, *changes),
            stage=rollout.stage,
            data={"rollout": rollout.id},
            key=key,
        )
        try:
            world.ledger.append(draft)
        except StageConflict as error:
            before = version_of(world, rollout.model, standings.holder(rollout.stage))
            return _give_up(world, policy, rollout, before, str(error))
    failpoint("deploy:committed")
    for older in world.deployments.active(rollout.model):
        if older.endpoint == rollout.endpoint and older.id != rollout.id:
            world.deployments.save(older.now_in(Phase.DONE, f"replaced by {rollout.model}@{rollout.version}"))
    on_probation = replace(rollout, phase=Phase.PROBATION, probation_since=world.clock.now())
    if rollout.previous is None:
        on_probation = rollout.now_in(Phase.DONE, "the first version of the endpoint: nothing to go back to")
    return world.deployments.save(on_probation)


def _close_probation(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """End probation when it is over. A breach is not answered here: taking back is the rollback flow's work."""
    step = next_step(world, policy, rollout)
    if step.step is not Step.CLOSE:
        return rollout
    standings = world.ledger.standings(rollout.model)
    previous = rollout.previous
    changes: tuple[Change, ...] = ()
    if previous and standings.places.get(previous) == STANDBY:
        changes = (Change(previous, STANDBY, RETIRED),)
    _note(world, rollout, Kind.PROBATION_PASSED, step.because, {}, "passed", changes)
    failpoint("deploy:passed")
    return _end_probation(world, policy, rollout, step.because)


def _end_probation(world: World, policy: Policy, rollout: Rollout, because: str) -> Rollout:
    """Nothing is kept warm any more."""
    publish(world, policy, rollout.stage, version_of(world, rollout.model, rollout.version), start=False)
    return world.deployments.save(rollout.now_in(Phase.DONE, because))


def _give_up(world: World, policy: Policy, rollout: Rollout, before: Version | None, why: str) -> Rollout:
    """Put the traffic back where it was and say why. The server kept its last good document in any case.

    The rollout fails last: if this process dies before, the next one finds it unfinished and the traffic with it.
    """
    if before:
        try:
            publish(world, policy, rollout.stage, before)
        except MlplatformError as error:
            why = f"{why}; {before.ref} could not be put back: {error}"
    failpoint("deploy:taken_back")
    _note(world, rollout, Kind.ROLLOUT_FAILED, why, {}, "failed")
    return world.deployments.save(rollout.now_in(Phase.FAILED, why))


def _note(
    world: World,
    rollout: Rollout,
    kind: Kind,
    reason: str,
    data: dict[str, object],
    step: str,
    changes: tuple[Change, ...] = (),
) -> None:
    world.ledger.append(
        Draft(
            rollout.model,
            kind,
            rollout.version,
            _actor(world, rollout),
            reason,
            changes=changes,
            stage=rollout.stage,
            data={"rollout": rollout.id, **data},
            key=f"rollout:{rollout.id}:{step}",
        )
    )


# --- small ----------------------------------------------------------------------------------------------------------


def _endpoint(policy: Policy, stage: str) -> Endpoint:
    endpoint = policy.stage(stage).endpoint
    if endpoint is None:
        raise UsageError(
            what=f"stage {stage} of {policy.model} has no endpoint",
            hint=f'Add `endpoint = {{ name = "{policy.model}" }}` to [stages.{stage}] in its policy.',
        )
    return endpoint


def _is_told(world: World, endpoint: str, version: Version) -> bool:
    """Whether all traffic goes to the version already: a process that died had got that far."""
    try:
        routes = world.documents.routes(endpoint)
    except ValueError:  # damaged: the next document replaces it
        return False
    return routes is not None and [r.digest for r in routes.routes] == [version.digest]


def _use(endpoint: Endpoint) -> Use:
    return Use(endpoint.target)


def _route(world: World, version: Version, arm: str) -> Route:
    path = str(world.bundles.path(version.digest))
    return Route(version.model, version.number, version.digest, path, 1.0 if arm == "live" else 0.0, arm)


def _actor(world: World, rollout: Rollout) -> Actor:
    """Who wished for it, verified or not: the entry that opened it knows."""
    opened = world.ledger.entries(rollout.model, key=opened_key(rollout.id))
    return opened[0].draft.actor if opened else Actor(rollout.actor)
