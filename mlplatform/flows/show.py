"""Looking: a version by its name, and a model's history."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from mlplatform.calendar import window_at
from mlplatform.domain.freeze import Frozen
from mlplatform.domain.ledger import Entry
from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version, VersionRef
from mlplatform.errors import MlplatformError, UnknownName, UsageError
from mlplatform.flows.world import World


def version(world: World, policies: Mapping[str, Policy], ref: str) -> Version:
    """`churn@7`, or the holder of `churn@production`; raises BadVersionRef, UnknownName, UsageError."""
    wanted = VersionRef.parse(ref)
    versions = demand_versions(world, policies, wanted.model)
    number = wanted.number
    if wanted.stage is not None:
        number = world.ledger.standings(wanted.model).holder(wanted.stage)
        if number is None:
            stages = policies[wanted.model].ladder.stages if wanted.model in policies else ()
            if wanted.stage not in stages:
                raise UnknownName("stage", wanted.stage, stages)
            hint = f"Put one there: mlplatform promote {wanted.model}@N {wanted.stage} --reason ..."
            raise UsageError(hint, what=f"no version of {wanted.model} is in {wanted.stage}")
    for item in versions:
        if item.number == number:
            return item
    raise UnknownName(f"version of {wanted.model}", str(number), (str(v.number) for v in versions))


def demand_versions(world: World, policies: Mapping[str, Policy], model: str) -> list[Version]:
    """A model's versions; UnknownName or UsageError when there are none."""
    versions = world.ledger.versions(model)
    if not versions:
        raise _no_version(world, policies, model)
    return versions


def frozen(world: World, policy: Policy) -> dict[str, Frozen]:
    """Stages with a freeze window that is open now."""
    windows = {s: window_at(policy.stage(s).freeze, world.clock.now()) for s in policy.ladder.stages}
    return {stage: window for stage, window in windows.items() if window}


def history(
    world: World,
    policies: Mapping[str, Policy],
    model: str,
    until: datetime | None = None,
    stage: str | None = None,
) -> list[Entry]:
    """Entries of the ledger up to a moment, oldest first, of one stage or all; raises UnknownName."""
    if model not in world.ledger.models():
        raise _no_version(world, policies, model)
    entries = world.ledger.entries(model, until, stage=stage)
    if stage is not None and not entries:
        _demand_stage(world, policies, model, stage)
    return entries


def _demand_stage(world: World, policies: Mapping[str, Policy], model: str, stage: str) -> None:
    """A stage of the policy, or one that an earlier policy had."""
    known = set(policies[model].ladder.stages) if model in policies else set[str]()
    known |= {entry.draft.stage for entry in world.ledger.entries(model) if entry.draft.stage}
    if stage not in known:
        raise UnknownName("stage", stage, known)


def _no_version(world: World, policies: Mapping[str, Policy], model: str) -> MlplatformError:
    if model in policies:
        return UsageError(f"Make its first one: mlplatform train {model}", what=f"{model} has no version yet")
    return UnknownName("model", model, {*world.ledger.models(), *policies})
