"""rollout: one step per call, stored after it was taken, so that a crash costs one step.

Traffic moves first and is recorded as an entry; while a step bakes, judges look at what is seen (`live`); stage and
alias change in the commit that completes the rollout; then the version before stays warm until probation ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mlplatform.domain.counts import SHADOW
from mlplatform.domain.ladder import RETIRED, STANDBY, Change
from mlplatform.domain.ledger import Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Baking, Phase, Rollout, Step, next_step
from mlplatform.domain.steps import Bake
from mlplatform.domain.verdict import Finding
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError, RolloutRunning, StageConflict
from mlplatform.flows import live, probation
from mlplatform.flows.counted import counted_before
from mlplatform.flows.deploy import is_sound, publish, serve_holder
from mlplatform.flows.probation import version_of
from mlplatform.flows.rollout_record import (
    is_opened,
    note,
    part_told,
    passed_key,
    plain_findings,
    recorded,
)
from mlplatform.flows.world import World, failpoint

SETTLED = (Phase.PROBATION, Phase.DONE, Phase.FAILED)
"""Phases that end a command: the rest takes days, or is over."""
ALL = Bake(1.0)


def advance(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """Take the step that is due, if one is: load beside the incumbent, move traffic, judge, commit the stage, look at
    probation."""
    return _step(world, policy, rollout)[0]


def follow(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """Step by step until it is on probation, done or failed, or has to wait."""
    moved = True
    while moved and rollout.phase not in SETTLED:
        rollout, moved = _step(world, policy, rollout)
    return rollout


def _step(world: World, policy: Policy, rollout: Rollout) -> tuple[Rollout, bool]:
    """The rollout after its next step, and whether there was one to take."""
    match rollout.phase:
        case Phase.OPENED:
            return _open(world, policy, rollout), True
        case Phase.SHIFTED:
            at = live.baking(world, policy, rollout)
            return _bake(world, policy, rollout, at) if at else (_commit(world, policy, rollout), True)
        case Phase.PROBATION:
            return _close_probation(world, policy, rollout), False
        case _:
            return rollout, False


def demand_idle(world: World, policy: Policy, stage: str, version: Version) -> None:
    """Raises RolloutRunning while another version is on its way into the stage, or the stage's holder into the next."""
    holder = world.ledger.standings(policy.model).holder(stage)
    for rollout in world.deployments.active(policy.model):
        at = live.baking(world, policy, rollout)
        if at and (rollout.stage == stage or rollout.version == holder):
            other = f"{rollout.model}@{rollout.version}"
            raise RolloutRunning(
                version=version.ref, stage=stage, other=other, into=rollout.stage, at=at, model=policy.model
            )


def unfinished(world: World, policy: Policy) -> list[Rollout]:
    """Rollouts between two steps: when nobody works on the model, their process died."""
    return [r for r in world.deployments.active(policy.model) if not _is_at_rest(world, policy, r)]


def _is_at_rest(world: World, policy: Policy, rollout: Rollout) -> bool:
    """Whether it waits for time, requests or labels, and the server was told what the ledger says."""
    if rollout.phase is Phase.PROBATION:
        return not recorded(world, rollout, passed_key(rollout.id))
    at = live.baking(world, policy, rollout)
    if at is None:
        return False
    told = part_told(world, rollout)
    if told is None:
        return True  # nothing was told: `deploy` and `reconcile` tell it
    if at.step.is_shadow:
        return (rollout.version, SHADOW) in [(r.version, r.arm) for r in told.standby]
    return {r.version: r.share for r in told.routes}.get(rollout.version) == at.step.share


def resume(world: World, policy: Policy) -> None:
    """Go on with rollouts whose process died between two steps. One without its entry in the ledger never began."""
    for rollout in unfinished(world, policy):
        if rollout.phase is Phase.PROBATION:
            _end_probation(world, policy, rollout, "it had passed")
        elif not is_opened(world, rollout):
            world.deployments.save(rollout.now_in(Phase.FAILED, "its process died before it was recorded"))
        elif live.baking(world, policy, rollout):
            _set_right(world, policy, rollout)
        else:
            follow(world, policy, rollout)


def _set_right(world: World, policy: Policy, rollout: Rollout) -> None:
    """The server was told something that no entry says. What was being taken back goes on being taken back."""
    told = part_told(world, rollout)
    known = [r.version for r in (*told.routes, *told.standby)] if told else [rollout.version]
    if rollout.version in known:
        serve_holder(world, policy, rollout.stage)
    else:
        before = version_of(world, rollout.model, rollout.previous)
        _give_up(world, policy, rollout, before, "its process died while taking it back")


# --- steps ----------------------------------------------------------------------------------------------------------


def _open(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    """Load the version beside the incumbent, then take the first step; all at once where there is nobody beside."""
    version = version_of(world, rollout.model, rollout.version)
    before = version_of(world, rollout.model, rollout.previous) if rollout.previous else None
    assert version is not None
    damaged = before is not None and not is_sound(world, before)
    before = None if damaged else before  # its successor must not wait for it
    try:
        if not damaged and not _has_all(world, rollout, version):
            publish(world, policy, rollout.stage, before, [version])
        failpoint("deploy:warm")
    except MlplatformError as error:
        return _give_up(world, policy, rollout, before, str(error))
    first = policy.stage(rollout.stage).rollout.bakes[0] if before else ALL
    return _shift(world, policy, rollout, first, before, {})


def _shift(
    world: World,
    policy: Policy,
    rollout: Rollout,
    step: Bake,
    before: Version | None,
    evidence: Mapping[str, Any],
) -> Rollout:
    version = version_of(world, rollout.model, rollout.version)
    assert version is not None
    counted = counted_before(world, rollout)
    try:
        if step.is_all:
            publish(world, policy, rollout.stage, version, [before] if before else [])
        else:
            publish(world, policy, rollout.stage, before, beside=(version, step))
    except MlplatformError as error:
        return _give_up(world, policy, rollout, before, str(error))
    failpoint("deploy:shifted")
    key = "shifted" if step.is_all else f"shifted:{step.share:g}"
    data = {"share": step.share, "endpoint": rollout.endpoint, "counted": counted, **evidence}
    note(world, rollout, Kind.TRAFFIC_SHIFTED, f"{step} of {rollout.endpoint}", data, key)
    failpoint("deploy:noted")
    return world.deployments.save(rollout.now_in(Phase.SHIFTED, f"{step} of {rollout.endpoint}"))


def _bake(world: World, policy: Policy, rollout: Rollout, at: Baking) -> tuple[Rollout, bool]:
    """Ask the judges, and do what follows: wait, pause, go on, or take the version back."""
    standings = world.ledger.standings(rollout.model)
    before = version_of(world, rollout.model, standings.holder(rollout.stage))
    try:
        if standings.holder(rollout.stage) != rollout.previous:
            raise StageConflict(
                model=rollout.model,
                stage=rollout.stage,
                holder=standings.holder(rollout.stage) or "none",
                expected=rollout.previous or "none",
            )
        policy.ladder.promotion(standings, rollout.version, rollout.stage, keep_warm=True)
    except MlplatformError as error:
        return _give_up(world, policy, rollout, before, str(error)), True
    found = live.findings(world, policy, rollout, at)
    following = next_step(at, found, world.clock.now())
    match following.step:
        case Step.TAKE_BACK:
            why = f"taken back at {at.step}: {following.because}"
            return _give_up(world, policy, rollout, before, why, found), True
        case Step.WAIT | Step.PAUSE:
            return _waiting(world, rollout, following.because), False
        case _:
            return _shift(world, policy, rollout, at.ahead, before, {"findings": plain_findings(found)}), True


def _waiting(world: World, rollout: Rollout, because: str) -> Rollout:
    """Kept with the rollout, so that whoever looks need not ask the judges."""
    return (
        rollout if rollout.because == because else world.deployments.save(replace(rollout, because=because))
    )


def _commit(world: World, policy: Policy, rollout: Rollout) -> Rollout:
    standings = world.ledger.standings(rollout.model)
    waiting = [Change(v, STANDBY, RETIRED) for v, place in standings.places.items() if place == STANDBY]
    if standings.places.get(rollout.version) != rollout.stage:
        changes = policy.ladder.promotion(standings, rollout.version, rollout.stage, keep_warm=True)
        try:
            note(world, rollout, Kind.PROMOTED, rollout.reason, {}, "committed", (*waiting, *changes))
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
    step = probation.next_step(world, policy, rollout)
    if step.step is not Step.CLOSE:
        return rollout
    standings = world.ledger.standings(rollout.model)
    previous = rollout.previous
    changes: tuple[Change, ...] = ()
    if previous and standings.places.get(previous) == STANDBY:
        changes = (Change(previous, STANDBY, RETIRED),)
    note(world, rollout, Kind.PROBATION_PASSED, step.because, {}, "passed", changes)
    failpoint("deploy:passed")
    return _end_probation(world, policy, rollout, step.because)


def _end_probation(world: World, policy: Policy, rollout: Rollout, because: str) -> Rollout:
    """Nothing is kept warm any more."""
    serve_holder(world, policy, rollout.stage)
    return world.deployments.save(rollout.now_in(Phase.DONE, because))


def _give_up(
    world: World,
    policy: Policy,
    rollout: Rollout,
    before: Version | None,
    why: str,
    found: Sequence[Finding] = (),
) -> Rollout:
    """Put the traffic back where it was and say why. The server kept its last good document in any case.

    The rollout fails last: if this process dies before, the next one finds it unfinished and the traffic with it.
    """
    if before:
        try:
            serve_holder(world, policy, rollout.stage, start=True, alone=True)
        except MlplatformError as error:
            why = f"{why}; {before.ref} could not be put back: {error}"
    failpoint("deploy:taken_back")
    note(
        world,
        rollout,
        Kind.ROLLOUT_FAILED,
        why,
        {"findings": plain_findings(found)} if found else {},
        "failed",
    )
    return world.deployments.save(rollout.now_in(Phase.FAILED, why))


# --- small ----------------------------------------------------------------------------------------------------------


def _has_all(world: World, rollout: Rollout, version: Version) -> bool:
    """Whether all traffic goes to the version already: a process that died had got that far."""
    told = part_told(world, rollout)
    return told is not None and [r.digest for r in told.routes] == [version.digest]
