"""What people did in MLflow behind our back: models, versions and runs deleted, aliases moved, cards edited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mlplatform.domain.ladder import STANDBY, Standings, is_stage
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Policy
from mlplatform.errors import NotACandidate
from mlplatform.flows import aliases, tagged
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.lease import is_held
from mlplatform.flows.world import World
from mlplatform.ports.tracking import OutsideView

RECONCILE = Actor("reconcile", True)


def done_outside(world: World, policy: Policy, alone: bool = True) -> list[Difference]:
    """Where MLflow differs from the ledger, other than by what is still due to be written there.

    Without `alone` somebody may be at work on the model just now: then only what is gone is told.
    """
    busy = not alone and is_held(world.leases, f"change:{policy.model}", world.clock.now())
    view = world.registry.outside(policy.model)
    standings = world.ledger.standings(policy.model)
    if not standings.places:
        return []
    if not view.exists:
        return _model_gone(world, policy, standings, view)
    gone = sorted(set(standings.places) - view.versions)
    found = [*_deleted(world, policy, standings, gone), *_runs(world, policy, standings)]
    if busy:
        return found
    found += _left_over(world, policy, standings, view)
    found += aliases.differences(world, policy, standings, view.aliases, gone)
    return [*found, *_edited(world, policy, view), *tagged.differences(world, policy, view)]


def _note(
    world: World, policy: Policy, version: int, reason: str, data: dict[str, Any], key: str | None = None
) -> None:
    """An entry makes the model's projection due: what MLflow shows is written again."""
    world.ledger.append(
        Draft(policy.model, Kind.OUTSIDE_MOVE, version, RECONCILE, reason, data=data, key=key)
    )


def _is_noted(world: World, policy: Policy, key: str) -> bool:
    return bool(world.ledger.entries(policy.model, key=key))


# --- the registered model -------------------------------------------------------------------------------------------


def _model_gone(world: World, policy: Policy, standings: Standings, view: OutsideView) -> list[Difference]:
    """A deleted model gives its numbers again, so that the versions can be put back under theirs."""
    done = f"renamed to {view.renamed}" if view.renamed else "deleted"
    what = f"the registered model {policy.model} was {done} in MLflow"
    key = f"outside:model:{done}"
    newest = max(standings.places)
    if policy.reconcile.outside_moves == "record":
        if _is_noted(world, policy, key):
            return []
        mend = bound(_note, world, policy, newest, f"{what} by somebody; recorded", {"model": done}, key)
        return [Difference(policy.model, what, "recorded; MLflow shows nothing of it any more", mend)]
    repair = "renamed back" if view.renamed else "its versions are made again under their numbers"
    return [Difference(policy.model, what, repair, bound(_put_back, world, policy, view, what, repair))]


def _put_back(world: World, policy: Policy, view: OutsideView, what: str, repair: str) -> None:
    standings = world.ledger.standings(policy.model)
    if view.renamed:
        world.registry.rename(view.renamed, policy.model)
    else:
        _make_again(world, policy)
    _note(world, policy, max(standings.places), f"{what} by somebody; {repair}", {"model": view.renamed})


def _make_again(world: World, policy: Policy) -> None:
    """MLflow counts from one again: numbers that nobody has are used up, those of lost runs too."""
    keys = {
        e.draft.version: e.draft.key for e in world.ledger.entries(policy.model, kinds=(Kind.REGISTERED,))
    }
    for version in world.ledger.versions(policy.model):
        key, made = keys.get(version.number) or f"again:{version.ref}", 0
        while made < version.number:
            try:
                made = world.registry.create(policy.model, version.run_id, key)
            except NotACandidate as error:
                world.progress(f"{version.ref} cannot be made again: {error}")
                break
            if made < version.number:
                world.registry.discard(policy.model, key)


# --- versions and runs ----------------------------------------------------------------------------------------------


def _deleted(world: World, policy: Policy, standings: Standings, gone: Sequence[int]) -> Iterator[Difference]:
    """MLflow never gives a number twice: a deleted version cannot come back, only be remembered as deleted."""
    for number in gone:
        key = f"outside:deleted:{number}"
        if _is_noted(world, policy, key):
            continue
        what = f"version {number} ({standings.places[number]}) was deleted in MLflow"
        reason = f"version {number} was deleted in MLflow by somebody; its bundle is kept"
        yield Difference(
            policy.model,
            what,
            "recorded; its bundle is kept and goes on serving. Log and register a new run to see one in MLflow",
            bound(_note, world, policy, number, reason, {"deleted": number}, key),
        )


def _left_over(world: World, policy: Policy, standings: Standings, view: OutsideView) -> Iterator[Difference]:
    """A version whose registration was given up before MLflow's slow answer came."""
    at_work = {intent.key for intent in world.intents.left()}
    ours = (f"register:{policy.model}:", f"compress:{policy.model}@")
    for number, key in view.keys.items():
        known = number in standings.places or key in at_work or not key.startswith(ours)
        if known or _is_noted(world, policy, key):  # a copy that somebody made has its origin's key
            continue
        what = f"version {number} in MLflow was left by a registration that was given up"
        yield Difference(policy.model, what, "taken back", bound(world.registry.discard, policy.model, key))


def _runs(world: World, policy: Policy, standings: Standings) -> Iterator[Difference]:
    """Runs of versions that are in service or may return to it."""
    for version in world.ledger.versions(policy.model):
        place = standings.places.get(version.number, "")
        if not (is_stage(place) or place == STANDBY):
            continue
        state = world.runs.lifecycle(version.run_id)
        if state == "active":
            continue
        what = f"run {version.run_id[:8]} of version {version.number} ({place}) was deleted in MLflow"
        restores = state == "deleted" and policy.reconcile.outside_moves == "revert"
        key = None if restores else f"outside:run:{version.run_id}:{state}"
        if key and _is_noted(world, policy, key):
            continue
        repair = "restored" if restores else "recorded; its bundle is kept and goes on serving"
        mend = bound(
            _mend_run, world, policy, version.number, version.run_id, f"{what} by somebody; {repair}", key
        )
        yield Difference(policy.model, what, repair, mend)


def _mend_run(world: World, policy: Policy, number: int, run_id: str, reason: str, key: str | None) -> None:
    if key is None:
        world.runs.restore(run_id)
    _note(world, policy, number, reason, {"run": run_id}, key)


# --- cards ----------------------------------------------------------------------------------------------------------


def _edited(world: World, policy: Policy, view: OutsideView) -> Iterator[Difference]:
    if policy.model in dict(world.outbox.due()):
        return  # they are written again in any case
    for number in sorted(view.edited):
        what = f"the card or our tags of version {number} were edited in MLflow"
        reason = f"{what} by somebody; written again"
        mend = bound(_note, world, policy, number, reason, {"edited": number})
        yield Difference(policy.model, what, "written again", mend)
