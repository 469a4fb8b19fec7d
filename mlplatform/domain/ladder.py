"""The team's own stages, in order, and which moves are legal."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
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
        grown = Replay(self)
        grown.apply(changes)
        return grown.standings


class Replay:
    """Standings that grow entry by entry, at a cost that does not depend on how many versions there are."""

    def __init__(self, begin: Standings) -> None:
        self._model, self._places = begin.model, dict(begin.places)
        self._holding = Counter(place for place in self._places.values() if is_stage(place))
        self._entered = list[tuple[int, str | None, str]]()

    @property
    def standings(self) -> Standings:
        return Standings(self._model, MappingProxyType(self._places))

    def apply(self, changes: Iterable[Change]) -> None:
        """Make the changes of one entry, in their order; IllegalMove when they do not fit."""
        for change in changes:
            self.move(change.version, change.origin, change.target)
        self.settle()

    def move(self, version: int, origin: str | None, target: str) -> None:
        """One change of several; between them a stage may be held twice."""
        place = self._places.get(version)
        if place != origin:
            raise self._refuse(version, origin, target, f"it is in {place}")
        self._places[version] = target
        if place is not None and place in self._holding:
            self._holding[place] -= 1
        if target not in MARKS:
            self._holding[target] = self._holding.get(target, 0) + 1
            self._entered.append((version, origin, target))

    def settle(self) -> None:
        """The end of an entry: no stage is held twice."""
        for version, origin, target in self._entered:
            if self._holding[target] > 1:
                raise self._refuse(version, origin, target, "another version would hold the same stage")
        self._entered.clear()

    def _refuse(self, version: int, origin: str | None, target: str, why: str) -> IllegalMove:
        return IllegalMove(model=self._model, version=version, origin=origin, target=target, why=why)


def replay(model: str, entries: Iterable[Iterable[Change]]) -> Standings:
    """Standings from the changes of the ledger's entries, oldest first."""
    grown = Replay(Standings(model))
    for changes in entries:
        grown.apply(changes)
    return grown.standings


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
                    f"stage {stage!r}: write lower-case letters, digits, - and _, starting with a letter,"
                    " at most 63 of them: it is an alias in MLflow"
                )
            if stage == "latest" or re.fullmatch(r"v\d+", stage):
                raise ValueError(f"stage {stage!r}: MLflow reserves this alias; choose another name")
        for first, second in combinations(self.stages, 2):
            if re.sub(r"[-_]", "", first) == re.sub(r"[-_]", "", second):
                raise ValueError(
                    f"stages {first!r} and {second!r} are too alike for aliases in MLflow; rename one of them"
                )

    def rank(self, stage: str) -> int:
        if stage not in self.stages:
            raise UnknownName("stage", stage, self.stages)
        return self.stages.index(stage)

    def above(self, place: str) -> tuple[str, ...]:
        """Stages that a version has before it, lowest first; none once it was replaced or taken out."""
        return self.stages[self._position(place) + 1 :] if place == CANDIDATE or is_stage(place) else ()

    def promotion(
        self, standings: Standings, version: int, stage: str, keep_warm: bool = False
    ) -> list[Change]:
        """The changes that put a version into a stage; IllegalMove says why not and what would be legal.

        `keep_warm`: the incumbent goes to STANDBY instead of RETIRED.
        """
        rank, origin = self.rank(stage), standings.place(version)
        if why := self._obstacle(origin, rank):
            raise self._refusal(standings, version, stage, why)
        incumbent = standings.holder(stage)
        leaving = (
            [Change(incumbent, stage, STANDBY if keep_warm else RETIRED)] if incumbent is not None else []
        )
        return [*leaving, Change(version, origin, stage)]

    def demand_open(self, standings: Standings, version: int, stage: str) -> None:
        """Raises IllegalMove for a version that can never enter the stage, or has passed it already."""
        rank, origin = self.rank(stage), standings.place(version)
        if why := self._closed(origin, rank):
            raise self._refusal(standings, version, stage, why)

    def rejection(self, standings: Standings, version: int, live: Collection[str]) -> list[Change]:
        """The change that takes a version out before it went live; IllegalMove says why not.

        `live`: stages whose version answers requests.
        """
        origin = standings.place(version)
        if origin == STANDBY:
            why = "it is kept warm to be rolled back to"
            raise _illegal(standings, version, REJECTED, why, "Wait until probation ends.")
        take_out = f"Take it out of service first: mlplatform rollback {standings.model} --stage {origin} --reason ..."
        return self._out(standings, version, live, REJECTED, take_out)

    def retirement(self, standings: Standings, version: int, live: Collection[str]) -> list[Change]:
        """The change that takes a version out which nobody needs any more; IllegalMove says why not.

        `live`: stages whose version answers requests.
        """
        model, origin = standings.model, standings.place(version)
        if origin == STANDBY:
            return [Change(version, origin, RETIRED)]
        replace_it = (
            f"Put another version there with `mlplatform rollback {model} --stage {origin}` or"
            f" `promote`, or stop its server with `mlplatform undeploy {model} --stage {origin}`."
        )
        return self._out(standings, version, live, RETIRED, replace_it)

    def _out(
        self, standings: Standings, version: int, live: Collection[str], mark: str, if_live: str
    ) -> list[Change]:
        origin = standings.place(version)
        if origin in live:
            raise _illegal(standings, version, mark, "it is live", if_live)
        if origin == CANDIDATE or is_stage(origin):
            return [Change(version, origin, mark)]
        hint = f"Its history: mlplatform show {standings.model}@{version}"
        raise _illegal(standings, version, mark, "it is out already", hint)

    def _refusal(self, standings: Standings, version: int, stage: str, why: str) -> IllegalMove:
        """With the next step, as a command where there is one."""
        model, origin = standings.model, standings.place(version)
        position = self._position(origin)
        back = f"mlplatform rollback {model} --stage {stage} --to {version} --reason ..."
        if origin == REJECTED:
            hint = f"Train a new one: mlplatform train {model}"
        elif origin == ROLLED_BACK:
            hint = f"If it held {stage} and was taken back by mistake: {back}; otherwise mlplatform train {model}"
        elif origin in (RETIRED, STANDBY):
            hint = f"If it held {stage} before: {back}; otherwise register a new one."
        elif position == self.rank(stage):
            hint = f"Nothing is left to do; mlplatform show {model}@{version} tells who put it there."
        elif position > self.rank(stage):
            hint = f"Take it out of {origin}: mlplatform rollback {model} --stage {origin} --reason ..."
        else:
            step = f"mlplatform promote {model}@{version} {self.stages[position + 1]} --reason ..."
            hint = f"Stages are climbed one by one: {step}"
        return IllegalMove(hint, model=model, version=version, origin=origin, target=stage, why=why)

    def _obstacle(self, origin: str, rank: int) -> str:
        if why := self._closed(origin, rank):
            return why
        position = self._position(origin)
        return f"the next stage is {self.stages[position + 1]}" if position + 1 < rank else ""

    def _closed(self, origin: str, rank: int) -> str:
        if origin == REJECTED:
            return "a version that was rejected stays out; register a new one"
        if origin == ROLLED_BACK:
            return "a version that was rolled back stays out; it returns only by `mlplatform rollback --to`"
        if origin in (RETIRED, STANDBY):
            return "it was replaced; bring it back with `mlplatform rollback --to`"
        position = self._position(origin)
        if position == rank:
            return "it is there already"
        return f"it is above it, in {origin}" if position > rank else ""

    def _position(self, origin: str) -> int:
        """A stage that the policy no longer has counts as below the lowest."""
        return self.stages.index(origin) if origin in self.stages else -1


def _illegal(standings: Standings, version: int, target: str, why: str, hint: str) -> IllegalMove:
    origin = standings.place(version)
    return IllegalMove(hint, model=standings.model, version=version, origin=origin, target=target, why=why)


def last_good(standings: Standings, tenures: Sequence[int], set_aside: Collection[int] = ()) -> int | None:
    """The version to roll back to: the latest earlier holder that was not itself rolled back or rejected.

    `tenures`: versions in the order in which they took the stage, the present one last. `set_aside`: versions that
    somebody retired, who return only by name.
    """
    holder = tenures[-1] if tenures else None
    for version in reversed(tenures[:-1]):
        place = standings.places.get(version)
        if version != holder and place in (STANDBY, RETIRED) and version not in set_aside:
            return version
    return None
