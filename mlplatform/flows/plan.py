"""What register, compress, deploy, monitor and retrain would do: the same first steps, and nothing is recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from mlplatform.domain.governor import Permit, may_retrain
from mlplatform.domain.placement import wanted
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Next, Phase, Rollout, Step, next_step
from mlplatform.domain.server_settings import SettingChange
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Decision, Window
from mlplatform.errors import UsageError
from mlplatform.flows import live, placing, probation
from mlplatform.flows.columns import demand_dropped
from mlplatform.flows.deploy import is_running, joins, setting_changes
from mlplatform.flows.monitor import Watched, monitor
from mlplatform.flows.probation import version_of
from mlplatform.flows.register import carry_out, inspected
from mlplatform.flows.retrain import as_of, extra_rows, is_unanswered, past
from mlplatform.flows.run_named import run_named
from mlplatform.flows.sound import demand_bytes
from mlplatform.flows.world import World


@dataclass(frozen=True)
class PlannedVersion:
    """The version that register or compress would make."""

    model: str
    runtime: str
    size_bytes: int
    source: str
    """The run, or the techniques and the parent."""
    exists_as: int | None = None
    """Its number, when it is registered already."""
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedDeployment:
    endpoint: str
    version: str
    running: bool
    target: str
    """Where the server would run."""
    moves_from: str = ""
    """The target that it runs on now, where that is another."""
    changes: tuple[SettingChange, ...] = ()
    """Of the settings of the server that runs."""


@dataclass(frozen=True)
class PlannedRetraining:
    permit: Permit
    rows: int
    """Captured and labelled rows that the training would be given."""
    climbs: tuple[str, ...]
    """Stages that a challenger which passes would enter by itself."""


_THEN = {
    Step.WAIT: "{} would stay as it is",
    Step.PAUSE: "{} would stay as it is",
    Step.ADVANCE: "{} would get more requests",
    Step.COMPLETE: "{} would get all requests",
    Step.CLOSE: "probation of {} would end",
    Step.TAKE_BACK: "{} would be taken back",
}


@dataclass(frozen=True)
class PlannedWatch:
    watched: Watched
    then: tuple[str, ...]
    """What would be done about it, a sentence each."""


def registration(world: World, policy: Policy, run_id: str) -> PlannedVersion:
    """Download and inspect what a run logged. Raises what `register` raises."""
    model = policy.model
    run_id = run_named(world, model, run_id)
    with world.bundles.stage() as staged:
        candidate = inspected(world, run_id, staged / "download", policy.trust)
        size = sum(path.stat().st_size for path in candidate.model_folder.rglob("*") if path.is_file())
    known = (v.number for v in world.ledger.versions(model) if v.run_id == run_id and v.parent is None)
    return PlannedVersion(model, candidate.runtime, size, f"run {run_id[:8]}", next(known, None))


def compression(world: World, parent: Version, steps: Sequence[Use]) -> PlannedVersion:
    """Apply the techniques in a folder that is thrown away. Raises what `compress` raises."""
    demand_bytes(world, parent)
    technique = "+".join(step.use for step in steps)
    with world.bundles.stage() as staged:
        folder, manifest, notes = carry_out(world, parent.digest, steps, staged)
        model = folder / manifest.model_path
        files = [model] if model.is_file() else [path for path in model.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    versions = world.ledger.versions(parent.model)
    known = (v.number for v in versions if (v.parent, v.technique) == (parent.number, technique))
    source = f"{technique} of {parent.ref}"
    return PlannedVersion(parent.model, manifest.runtime, size, source, next(known, None), notes)


def deployment(
    world: World, policy: Policy, stage: str | None, target: Use | None = None
) -> PlannedDeployment:
    """The version that the stage's server would serve, and where; raises UsageError when there is none, and what
    `deploy` raises for a target."""
    chosen = stage or policy.live_stage
    endpoint = policy.stage(chosen).endpoint if chosen else None
    holder = world.ledger.standings(policy.model).holder(chosen) if chosen else None
    version = version_of(world, policy.model, holder)
    if endpoint is None or version is None:
        missing = "version" if endpoint else "endpoint"
        raise UsageError(what=f"{chosen or 'no stage'} of {policy.model} has no {missing}")
    demand_bytes(world, version)
    demand_dropped(world, policy, version)
    if target is not None:
        placing.demand_open(world, policy, endpoint, target)
    to = target or wanted(endpoint, world.placements.placement(endpoint.name)).target
    now, running = placing.where(world, endpoint), is_running(world, endpoint)
    moves_from = now.use if running and now.use != to.use else ""
    changes = () if moves_from else setting_changes(world, policy, endpoint)
    if joined := joins(world, policy, chosen or ""):
        world.progress(joined)
    return PlannedDeployment(endpoint.name, version.ref, running, to.use, moves_from, changes)


def retraining(world: World, policy: Policy, forced: bool) -> PlannedRetraining:
    """What the governor would say, and what the training would be given."""
    history = past(world.retrainings.history(policy.model))
    with _aside(world, policy) as seen:
        observed, moment = extra_rows(seen, policy), as_of(seen, policy)
    climbs = []
    for stage in policy.ladder.stages:
        if not policy.stage(stage).auto:
            break
        climbs.append(stage)
    permit = may_retrain(history, policy.retrain.governor, moment, forced)
    return PlannedRetraining(permit, observed.rows if observed else 0, tuple(climbs))


def watching(world: World, policy: Policy, endpoint: str, until: datetime | None) -> PlannedWatch:
    """What `monitor` would see and do about it, on a copy of what was captured."""
    with _aside(world, policy) as seen:
        watched = monitor(seen, policy, endpoint, until, keep=False)
        steps = {
            f"{r.model}@{r.version}": step
            for r in world.deployments.active(policy.model)
            if (step := _next_step(seen, policy, r))
        }
        then = [_THEN[step.step].format(ref) + f": {step.because}" for ref, step in steps.items()]
        if all(step.step is not Step.TAKE_BACK for step in steps.values()) and _wants(world, policy, watched):
            permit = retraining(seen, policy, forced=False).permit
            word = "would be trained" if permit.allowed else "would not be trained"
            then.append(f"a challenger {word}: {permit.because}")
    return PlannedWatch(watched, tuple(then))


def _next_step(world: World, policy: Policy, rollout: Rollout) -> Next | None:
    if rollout.phase is Phase.PROBATION:
        return probation.next_step(world, policy, rollout)
    at = live.baking(world, policy, rollout)
    return next_step(at, live.findings(world, policy, rollout, at), world.clock.now()) if at else None


@contextmanager
def _aside(world: World, policy: Policy) -> Iterator[World]:
    """The world with a copy of what the live stage's server captured: it may be read in without a trace."""
    endpoint = policy.stage(policy.live_stage).endpoint if policy.live_stage else None
    if endpoint is None:
        yield world
        return
    with world.bundles.stage() as folder:
        yield replace(world, observations=world.observations.copied(endpoint.name, folder))


def _wants(world: World, policy: Policy, watched: Watched) -> bool:
    """Whether the newest window, stored or just read, asks for a retraining that nobody answered."""
    newest = max([*watched.windows, *world.windows.recent(policy.model, 1)], key=_start, default=None)
    return newest is not None and is_unanswered(world, policy.model, newest[1])


def _start(seen: tuple[Window, Decision]) -> datetime:
    return seen[0].start
