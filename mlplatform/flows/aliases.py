"""Aliases that somebody moved in MLflow: told by doctor, settled by reconcile, and by whatever writes there next."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from mlplatform.calendar import window_at
from mlplatform.domain.ladder import RETIRED, Change, Standings
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.errors import IllegalMove, StageConflict
from mlplatform.flows.difference import Difference, bound
from mlplatform.flows.world import World


@dataclass(frozen=True)
class Moved:
    """An alias that names what nobody of us wrote."""

    stage: str
    ours: int | None
    theirs: int | None
    settled_here: bool
    """Whether the ledger, too, moved the stage since MLflow was last told: that is newer than what they did."""

    def __str__(self) -> str:
        return f"MLflow's alias {self.stage} names {_name(self.theirs)}, the ledger says {_name(self.ours)}"


def differences(
    world: World,
    policy: Policy,
    standings: Standings,
    aliases: Mapping[str, int],
    gone: Collection[int],
) -> list[Difference]:
    """`gone`: versions that were deleted in MLflow, and their aliases with them."""
    found = []
    for moved in _moved(world, policy, standings, aliases):
        if moved.ours in gone and moved.theirs is None:
            continue
        changes, done = _settlement(world, policy, standings, moved)
        mend = bound(_note, world, policy, moved, changes, done)
        found.append(Difference(policy.model, str(moved), done, mend))
    return found


def note_moves(world: World, policy: Policy) -> bool:
    """Before aliases are written: what somebody moved since we wrote them last is kept in the ledger, not just
    overwritten. One read of MLflow. Whether there was anything."""
    aliases = world.registry.aliases_of(policy.model)
    if aliases is None:
        return False
    standings, gone = world.ledger.standings(policy.model), frozenset[int]()
    moved = _moved(world, policy, standings, aliases)
    if any(m.theirs is None for m in moved):
        gone = frozenset(standings.places) - world.registry.outside(policy.model).versions
    found = differences(world, policy, standings, aliases, gone) if moved else []
    for difference in found:
        world.progress(f"{difference.what}: {difference.repair}")
        assert difference.mend
        difference.mend()
    return bool(found)


def _moved(world: World, policy: Policy, standings: Standings, aliases: Mapping[str, int]) -> list[Moved]:
    """An alias may lag behind the ledger, so it may name whatever held the stage since MLflow was last told."""
    newer = _not_told(world, policy.model)
    found = []
    for stage in policy.ladder.stages:
        ours, theirs = standings.holder(stage), aliases.get(stage)
        held = _holders(newer, stage, ours)
        noted = {e.draft.data.get("found") for e in newer if e.draft.data.get("alias") == stage}
        if theirs not in {*held, *noted}:
            found.append(Moved(stage, ours, theirs, len(held) > 1))
    return found


def _not_told(world: World, model: str) -> list[Entry]:
    """Entries since MLflow was last written to, oldest first."""
    head = dict(world.outbox.due()).get(model)
    if head is None:
        return []
    return world.ledger.entries(model, newest=head - world.outbox.told(model))


def _holders(newer: Sequence[Entry], stage: str, now: int | None) -> list[int | None]:
    """Who held the stage before these entries, in between and after them; newest first."""
    held = [now]
    for entry in reversed(newer):
        holder = held[-1]
        for change in reversed(entry.draft.changes):
            if change.target == stage:
                holder = None
        for change in entry.draft.changes:
            if change.origin == stage:
                holder = change.version
        if holder != held[-1]:
            held.append(holder)
    return held


def _settlement(world: World, policy: Policy, standings: Standings, moved: Moved) -> tuple[list[Change], str]:
    """The changes that the ledger makes of it, and what is done in words."""
    changes, why_not = list[Change](), ""
    if policy.reconcile.outside_moves == "record":
        changes, why_not = _as_move(world, policy, standings, moved)
    return changes, "recorded" if changes else "set back" + (f", because {why_not}" if why_not else "")


def _as_move(world: World, policy: Policy, standings: Standings, moved: Moved) -> tuple[list[Change], str]:
    """The changes that would make the ledger say what MLflow says, or why there are none."""
    if moved.settled_here:
        return [], f"{moved.stage} was changed here meanwhile"
    if policy.stage(moved.stage).endpoint:
        return [], "a version goes live there only by `mlplatform promote` or `rollback`"
    if moved.theirs is not None and (why_not := _guarded(world, policy, moved.stage)):
        return [], why_not
    if moved.theirs is None:
        return ([Change(moved.ours, moved.stage, RETIRED)] if moved.ours is not None else []), ""
    if moved.theirs not in standings.places:
        return [], f"version {moved.theirs} is not registered here"
    try:
        return policy.ladder.promotion(standings, moved.theirs, moved.stage), ""
    except IllegalMove as error:
        return [], str(error.facts["why"])


def _guarded(world: World, policy: Policy, stage: str) -> str:
    """Why nobody enters the stage by an alias: approvals and freeze windows are no use with a way around them."""
    demands = policy.stage(stage)
    if demands.approvals.count:
        return f"{stage} wants approvals: a version enters it only by `mlplatform promote`"
    frozen = window_at(demands.freeze, world.clock.now())
    return f"{stage} is {frozen}" if frozen else ""


def _note(world: World, policy: Policy, moved: Moved, changes: Sequence[Change], done: str) -> None:
    """The entry makes the model's projection due, so that `project` sets the alias to what the ledger says then."""
    reason = f"alias {moved.stage} was moved to {_name(moved.theirs)} in MLflow by somebody; {done}"
    data = {"alias": moved.stage, "found": moved.theirs, "expected": moved.ours}
    version = (moved.theirs if changes else moved.ours) or moved.ours or moved.theirs or 0
    actor = Actor("mlflow") if changes else Actor("reconcile", True)
    draft = Draft(policy.model, Kind.OUTSIDE_MOVE, version, actor, reason, tuple(changes), moved.stage, data)
    try:
        world.ledger.append(draft)
    except StageConflict:  # of two aliases that were moved at once, the other one's record came first
        _note(world, policy, moved, (), f"set back, because {moved.stage} was changed here meanwhile")


def _name(version: int | None) -> str:
    return f"version {version}" if version is not None else "nothing"
