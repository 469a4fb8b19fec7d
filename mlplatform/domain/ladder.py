"""The team's own stages, in order, and which moves are legal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from mlplatform.errors import IllegalMove, UnknownName

CANDIDATE, STANDBY, RETIRED, REJECTED, ROLLED_BACK = (
    "CANDIDATE",
    "STANDBY",
    "RETIRED",
    "REJECTED",
    "ROLLED_BACK",
)
MARKS = (CANDIDATE, STANDBY, RETIRED, REJECTED, ROLLED_BACK)
"""Places that any number of versions may hold. STANDBY: replaced, kept warm until probation ends."""


def is_stage(place: str) -> bool:
    return place not in MARKS


@dataclass(frozen=True)
class Change:
    """A version leaves one place for another. `origin` is None for a version that is new."""

    version: int
    origin: str | None
    target: str


def vacating_first(changes: Iterable[Change]) -> list[Change]:
    """The same changes in an order in which no stage is held by two versions in between.

    >>> changes = [Change(2, "staging", "production"), Change(1, "production", RETIRED)]
    >>> [change.version for change in vacating_first(changes)]
    [1, 2]
    """
    pending, ordered = list(changes), list[Change]()
    while pending:
        free = next((c for c in pending if not _waits(c, pending)), pending[0])
        pending.remove(free)
        ordered.append(free)
    return ordered


def _waits(change: Change, pending: Sequence[Change]) -> bool:
    """Whether another version must leave first, or the same version has an earlier change to make."""
    before = pending[: pending.index(change)]
    if any(other.version == change.version for other in before):
        return True
    return is_stage(change.target) and any(
        other.origin == change.target and other.version != change.version for other in pending
    )


@dataclass(frozen=True)
class Standings:
    """Where every version of one model stands. At most one version holds a stage."""

    model: str
    places: Mapping[int, str] = field(default_factory=dict)

    def holder(self, stage: str) -> int | None:
        return next((v for v, place in self.places.items() if place == stage), None)

    def place(self, version: int) -> str:
        if version not in self.places:
            raise UnknownName(f"version of {self.model}", str(version), map(str, self.places))
        return self.places[version]

    def after(self, changes: Iterable[Change]) -> Standings:
        """The standings once the changes are made; IllegalMove when they do not fit."""
        places, changes = dict(self.places), list(changes)
        for change in changes:
            if places.get(change.version) != change.origin:
                raise self._refuse(change, f"it is in {places.get(change.version)}")
            places[change.version] = change.target
        for change in changes:
            if is_stage(change.target) and list(places.values()).count(change.target) > 1:
                raise self._refuse(change, "another version would hold the same stage")
        return Standings(self.model, MappingProxyType(places))

    def _refuse(self, change: Change, why: str) -> IllegalMove:
        return IllegalMove(
            model=self.model, version=change.version, origin=change.origin, target=change.target, why=why
        )


def replay(model: str, entries: Iterable[Sequence[Change]]) -> Standings:
    """Standings from the changes of the ledger's entries, oldest first."""
    standings = Standings(model)
    for changes in entries:
        standings = standings.after(list(changes))
    return standings


@dataclass(frozen=True)
class Ladder:
    """Stages from lowest to highest; a version climbs one rung at a time."""

    stages: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a ladder needs at least one stage")
        for stage in self.stages:
            if not re.fullmatch(r"[a-z][a-z0-9_\-]{0,62}", stage):
                raise ValueError(
                    f"stage {stage!r}: write lower-case letters, digits, - and _, starting with a letter"
                )
            if stage == "latest" or re.fullmatch(r"v\d+", stage):
                raise ValueError(f"stage {stage!r}: MLflow reserves this alias")
        slugs = [re.sub(r"[-_]", "", s) for s in self.stages]
        if len(set(slugs)) < len(slugs):
            raise ValueError(f"stages {', '.join(self.stages)}: two of them are too alike")

    def rank(self, stage: str) -> int:
        if stage not in self.stages:
            raise UnknownName("stage", stage, self.stages)
        return self.stages.index(stage)

    def promotion(
        self, standings: Standings, version: int, stage: str, keep_warm: bool = False
    ) -> list[Change]:
        """The changes that put a version into a stage; IllegalMove says why not and what would be legal.

        `keep_warm`: the incumbent goes to STANDBY instead of RETIRED.
        """
        rank, origin = self.rank(stage), standings.place(version)
        if why := self._obstacle(origin, rank):
            raise IllegalMove(model=standings.model, version=version, origin=origin, target=stage, why=why)
        incumbent = standings.holder(stage)
        leaving = (
            [Change(incumbent, stage, STANDBY if keep_warm else RETIRED)] if incumbent is not None else []
        )
        return [*leaving, Change(version, origin, stage)]

    def rollback(
        self, standings: Standings, stage: str, to: int, tenures: Sequence[int] | None = None
    ) -> list[Change]:
        """The changes that take a stage's holder out and put an earlier version back.

        `tenures`: versions that held the stage, from the ledger; with it a version that held only another
        stage is refused.
        """
        self.rank(stage)
        holder, origin = standings.holder(stage), standings.place(to)
        never_held = tenures is not None and to not in tenures
        if holder == to or origin not in (RETIRED, STANDBY) or never_held:
            why = (
                "it is live already" if holder == to else f"only a version that once held {stage} can return"
            )
            raise IllegalMove(model=standings.model, version=to, origin=origin, target=stage, why=why)
        leaving = [Change(holder, stage, ROLLED_BACK)] if holder is not None else []
        return [*leaving, Change(to, origin, stage)]

    def _obstacle(self, origin: str, rank: int) -> str:
        if origin in (REJECTED, ROLLED_BACK):
            return f"a version that was {origin.lower().replace('_', ' ')} stays out; register a new one"
        if origin in (RETIRED, STANDBY):
            return "it was replaced; bring it back with `mlplatform rollback --to`"
        # A stage that the policy no longer has counts as below the lowest.
        position = self.stages.index(origin) if origin in self.stages else -1
        if position == rank:
            return "it is there already"
        if position > rank:
            return f"it is above it, in {origin}"
        if position + 1 < rank:
            return f"the next stage is {self.stages[position + 1]}"
        return ""


def last_good(standings: Standings, tenures: Sequence[int]) -> int | None:
    """The version to roll back to: the latest earlier holder that was not itself rolled back or rejected.

    `tenures`: versions in the order in which they took the stage, the present one last.
    """
    holder = tenures[-1] if tenures else None
    for version in reversed(tenures[:-1]):
        place = standings.places.get(version)
        if version != holder and place in (STANDBY, RETIRED):
            return version
    return None
