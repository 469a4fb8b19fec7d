"""The columns that a policy names beside those that versions have: a misspelt one would be in effect nowhere."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, UnknownColumns, UnknownName, nearest
from mlplatform.flows.difference import Difference
from mlplatform.flows.probation import version_of
from mlplatform.flows.world import World
from mlplatform.stats.batch import Array, Columns


def demand_columns(world: World, policy: Policy, stage: str, version: Version) -> None:
    """Before a version enters a stage with an endpoint; raises UnknownColumns, naming all of them."""
    if policy.stage(stage).endpoint is not None:
        _demand(version, [*_keys(world, policy, stage, version), *_dropped(world, policy, version)])


def demand_dropped(world: World, policy: Policy, version: Version) -> None:
    """Before a server keeps what a version is asked: columns that must never reach the disk. Raises UnknownColumns."""
    _demand(version, list(_dropped(world, policy, version)))


def misspelt(world: World, policy: Policy) -> list[Difference]:
    """What the policy names, and no version in a stage with an endpoint has."""
    found = []
    standings = world.ledger.standings(policy.model)
    for stage in policy.ladder.stages:
        version = version_of(world, policy.model, standings.holder(stage))
        if version is None or not _inputs(world, version):
            continue
        try:
            demand_columns(world, policy, stage, version)
        except UnknownColumns as error:
            found.append(Difference(policy.model, str(error), error.next_step))
    return found


def asked_of(world: World, policy: Policy, columns: Columns, refs: Collection[str]) -> dict[str, Array]:
    """A table as people have it, without what no model takes: the truth, and the index that pandas wrote. What is left
    out is told. `refs`: the versions that are asked; what one of them takes is left in."""
    known = _known(world, policy, *[v for v in world.ledger.versions(policy.model) if v.ref in refs])
    extra = [name for name in columns if name not in known and _is_extra(name, policy.data.target)]
    if extra:
        listed = ", ".join(repr(name) for name in extra)
        world.progress(f"left out, as no feature but the target or an index of pandas: {listed}")
    return {name: values for name, values in columns.items() if name not in extra}


def _is_extra(name: str, target: str) -> bool:
    """pandas names an index without a name so in Parquet, in CSV, and in CSV that it read and wrote again."""
    return name in ("", target) or re.fullmatch(r"__index_level_\d+__|Unnamed: \d+", name) is not None


def _demand(version: Version, unknown: list[str]) -> None:
    if unknown:
        raise UnknownColumns(version=version.ref, listing="; ".join(unknown), count=len(unknown))


def _keys(world: World, policy: Policy, stage: str, version: Version) -> Iterator[str]:
    """Requests are shared between the version and the one before: the key may be a column of either."""
    key = policy.stage(stage).rollout.key_column
    if not key:
        return
    before = version_of(world, policy.model, world.ledger.standings(policy.model).holder(stage))
    known = _known(world, policy, version, *([before] if before else []))
    if key not in known:
        yield _told(f"stages.{stage}.rollout.key", key, known)


def _dropped(world: World, policy: Policy, version: Version) -> Iterator[str]:
    """A column that only another version has is no mistake: that one may answer again."""
    named = policy.capture.drop_columns
    known = _known(world, policy, version) if named else set()
    if set(named) <= known:
        return
    every = _known(world, policy, *world.ledger.versions(policy.model))
    for name in named:
        if name not in every:
            yield _told("capture.drop_columns", name, known)


def _known(world: World, policy: Policy, *versions: Version) -> set[str]:
    """Their inputs, and what a request may carry beside."""
    beside = {*policy.data.context, *([policy.data.time] if policy.data.time else [])}
    return beside.union(*(_inputs(world, version) for version in versions))


def _inputs(world: World, version: Version) -> set[str]:
    """None of a version whose bytes are gone or damaged: others tell of that."""
    try:
        return {column.name for column in world.bundles.manifest(version.digest).inputs}
    except (ChangedBytes, UnknownName):
        return set()


def _told(where: str, name: str, known: set[str]) -> str:
    hint = nearest(name, known).rstrip(".")
    return f"{where} {name!r} ({hint[:1].lower()}{hint[1:]})"
