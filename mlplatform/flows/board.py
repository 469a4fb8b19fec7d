"""board: every model's stages with who holds them, and what is going on or waited for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from mlplatform.domain.ladder import CANDIDATE, is_stage
from mlplatform.domain.ledger import MOVES, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase
from mlplatform.domain.verdict import Measurement
from mlplatform.domain.version import Version
from mlplatform.flows.live import baking
from mlplatform.flows.show import frozen
from mlplatform.flows.world import World

NEWEST = 50
"""Entries of a stage that are looked at."""


@dataclass(frozen=True)
class Cell:
    """Who holds a stage."""

    version: int
    since: datetime
    value: Measurement | None = None
    """The first metric of its newest evaluation."""
    technique: str | None = None


@dataclass(frozen=True)
class Row:
    """One model."""

    model: str
    versions: int
    stages: Mapping[str, Cell | None]
    """In the order of its ladder; a stage that the policy lost stands at the end while it is held."""
    places: Mapping[int, str]
    candidates: tuple[int, ...]
    going_on: tuple[str, ...]
    """Rollouts, probations, freeze windows, and what waits for people."""


def board(world: World, policies: Mapping[str, Policy]) -> list[Row]:
    """Models by name, also those without a policy or without a version."""
    return [_row(world, policies.get(model), model) for model in sorted({*world.ledger.models(), *policies})]


def _row(world: World, policy: Policy | None, model: str) -> Row:
    standings = world.ledger.standings(model)
    versions = {v.number: v for v in world.ledger.versions(model)}
    ladder = policy.ladder.stages if policy else ()
    held = [place for place in standings.places.values() if is_stage(place) and place not in ladder]
    holders = {stage: standings.holder(stage) for stage in (*ladder, *held)}
    stages = {
        stage: _cell(world, versions[number], stage) if number in versions else None
        for stage, number in holders.items()
    }
    candidates = tuple(sorted(v for v, place in standings.places.items() if place == CANDIDATE))
    going_on = tuple(_going_on(world, policy, model)) if policy else ("no policy speaks of it",)
    return Row(model, len(versions), stages, standings.places, candidates, going_on)


def _cell(world: World, version: Version, stage: str) -> Cell:
    entries = world.ledger.entries(
        version.model, version=version.number, stage=stage, kinds=MOVES, newest=NEWEST
    )
    entered = [
        e for e in entries for c in e.draft.changes if (c.version, c.target) == (version.number, stage)
    ]
    evaluation = world.evaluations.latest(version.digest)
    value = evaluation.measurements[0] if evaluation and evaluation.measurements else None
    return Cell(version.number, entered[-1].at if entered else version.created_at, value, version.technique)


def _going_on(world: World, policy: Policy, model: str) -> Iterator[str]:
    for rollout in world.deployments.active(model):
        if rollout.phase is Phase.PROBATION:
            since = f" since {rollout.probation_since:%Y-%m-%d %H:%M}" if rollout.probation_since else ""
            yield f"{rollout.version} in {rollout.stage}: probation{since}"
        elif at := baking(world, policy, rollout):
            yield f"{rollout.version} to {rollout.stage}: rolling out, {at}: {rollout.because}"
        else:
            yield f"{rollout.version} to {rollout.stage}: rollout {rollout.phase.value}"
    yield from _waiting(world, policy, model)
    for stage, window in frozen(world, policy).items():
        yield f"{stage}: {window}"


def _waiting(world: World, policy: Policy, model: str) -> Iterator[str]:
    """Versions whose newest wish for a stage waits for people or for rows."""
    places = world.ledger.standings(model).places
    for stage in policy.ladder.stages:
        wishes = (Kind.REFUSED, Kind.PROMOTED, Kind.ROLLOUT_OPENED)
        newest = {
            e.draft.version: e for e in world.ledger.entries(model, stage=stage, kinds=wishes, newest=NEWEST)
        }
        for number, entry in sorted(newest.items()):
            place = places.get(number, "")
            is_below = place == CANDIDATE or (place in policy.ladder.stages and place != stage)
            if entry.draft.data.get("status") == "waiting" and is_below:
                yield f"{number} to {stage}: waits, {entry.draft.reason}"
