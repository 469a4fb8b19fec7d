"""What register, compress, deploy and retrain would do: the same first steps, and nothing is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlplatform.domain.governor import Permit, may_retrain
from mlplatform.domain.policy import Policy, Use
from mlplatform.domain.version import Version
from mlplatform.errors import UsageError
from mlplatform.flows.deploy import is_running
from mlplatform.flows.probation import version_of
from mlplatform.flows.register import carry_out
from mlplatform.flows.retrain import as_of, extra_rows, past
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


@dataclass(frozen=True)
class PlannedRetraining:
    permit: Permit
    rows: int
    """Captured and labelled rows that the training would be given."""
    climbs: tuple[str, ...]
    """Stages that a challenger which passes would enter by itself."""


def registration(world: World, model: str, run_id: str) -> PlannedVersion:
    """Download and inspect what a run logged. Raises what `register` raises."""
    with world.bundles.stage() as staged:
        candidate = world.runs.candidate(run_id, staged / "download")
        world.trust.inspect(candidate.model_folder, (candidate.runtime,))
        size = sum(path.stat().st_size for path in candidate.model_folder.rglob("*") if path.is_file())
    known = (v.number for v in world.ledger.versions(model) if v.run_id == run_id and v.parent is None)
    return PlannedVersion(model, candidate.runtime, size, f"run {run_id[:8]}", next(known, None))


def compression(world: World, parent: Version, steps: Sequence[Use]) -> PlannedVersion:
    """Apply the techniques in a folder that is thrown away. Raises what `compress` raises."""
    world.bundles.verify(parent.digest)
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


def deployment(world: World, policy: Policy, stage: str | None) -> PlannedDeployment:
    """The version that the stage's server would serve; raises UsageError when there is none."""
    chosen = stage or policy.live_stage
    endpoint = policy.stage(chosen).endpoint if chosen else None
    holder = world.ledger.standings(policy.model).holder(chosen) if chosen else None
    version = version_of(world, policy.model, holder)
    if endpoint is None or version is None:
        missing = "version" if endpoint else "endpoint"
        raise UsageError(what=f"{chosen or 'no stage'} of {policy.model} has no {missing}")
    world.bundles.verify(version.digest)
    return PlannedDeployment(endpoint.name, version.ref, is_running(world, endpoint))


def retraining(world: World, policy: Policy, forced: bool) -> PlannedRetraining:
    """What the governor would say, and what the training would be given."""
    history = past(world.retrainings.history(policy.model))
    observed = extra_rows(world, policy)
    climbs = []
    for stage in policy.ladder.stages:
        if not policy.stage(stage).auto:
            break
        climbs.append(stage)
    permit = may_retrain(history, policy.retrain.governor, as_of(world, policy), forced)
    return PlannedRetraining(permit, observed.rows if observed else 0, tuple(climbs))
