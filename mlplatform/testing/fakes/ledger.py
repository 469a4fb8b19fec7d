"""The ledger in memory."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from threading import RLock

from mlplatform.domain.canonical import canonical
from mlplatform.domain.chain import (
    GENESIS,
    Beside,
    Head,
    Verification,
    facts,
    row_of,
    seal,
    sealing,
    verify_chain,
)
from mlplatform.domain.ladder import Change, Standings, is_stage, replay, vacating_first
from mlplatform.domain.ledger import Draft, Entry, Kind, concerns, touches
from mlplatform.domain.version import Version
from mlplatform.errors import Conflict, StageConflict, VersionMoved
from mlplatform.ports.clock import Clock


@dataclass
class _Chain:
    entries: list[Entry] = field(default_factory=list)
    versions: dict[int, Version] = field(default_factory=dict)
    places: dict[int, str] = field(default_factory=dict)
    projected_seq: int = 0


class FakeLedger:
    """Implements Ledger and Outbox."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._chains, self._lock = clock, dict[str, _Chain](), RLock()

    def models(self) -> list[str]:
        return sorted(self._chains)

    def versions(self, model: str) -> list[Version]:
        return [version for _, version in sorted(self._chain(model).versions.items())]

    def standings(self, model: str, at: datetime | None = None) -> Standings:
        if at is not None:
            return replay(model, (entry.draft.changes for entry in self._past(model, at)))
        return Standings(model, dict(sorted(self._chain(model).places.items())))

    def register(self, version: Version, draft: Draft) -> Entry:
        _demand_first_place(version, draft)
        with self._lock:
            chain = self._chain(draft.model)
            if known := _known(chain, draft):
                return known
            if version.number in chain.versions:
                raise Conflict(what=f"{version.ref} is registered already")
            entry = self._write(sealing(version, draft), version.number)
            self._chains[draft.model].versions[version.number] = version
            return entry

    def append(self, draft: Draft) -> Entry:
        with self._lock:
            if known := _known(self._chain(draft.model), draft):
                return known
            return self._write(draft)

    def entries(
        self,
        model: str,
        until: datetime | None = None,
        *,
        key: str | None = None,
        kinds: Collection[Kind] = (),
        version: int | None = None,
        stage: str | None = None,
        newest: int | None = None,
    ) -> list[Entry]:
        wanted = [
            entry
            for entry in self._past(model, until)
            if (key is None or entry.draft.key == key)
            and (not kinds or entry.draft.kind in kinds)
            and (version is None or touches(entry.draft, version))
            and (stage is None or concerns(entry.draft, stage))
        ]
        return wanted if newest is None else wanted[max(len(wanted) - newest, 0) :]

    def verify(self, model: str | None = None, recorded: Iterable[Head] = ()) -> Verification:
        heads = {head.model: head for head in recorded if model in (None, head.model)}
        names = [model] if model is not None else dict.fromkeys((*self.models(), *heads))
        found = [self._verify(name, heads.get(name)) for name in names]
        return Verification(
            sum(one.entries for one in found),
            tuple(head for one in found for head in one.heads),
            tuple(broken for one in found for broken in one.breaks),
        )

    def due(self) -> list[tuple[str, int]]:
        seqs = ((model, len(c.entries), c.projected_seq) for model, c in self._chains.items())
        return sorted((model, seq) for model, seq, projected in seqs if seq > projected)

    def told(self, model: str) -> int:
        return self._chain(model).projected_seq

    def done(self, model: str, seq: int) -> None:
        if model in self._chains:
            self._chains[model].projected_seq = max(self._chains[model].projected_seq, seq)

    def _past(self, model: str, until: datetime | None) -> list[Entry]:
        entries = self._chain(model).entries
        if until is None:
            return list(entries)
        return entries[: max((entry.seq for entry in entries if entry.at <= until), default=0)]

    def _verify(self, model: str, recorded: Head | None) -> Verification:
        chain = self._chain(model)
        last = chain.entries[-1] if chain.entries else None
        end = (last.seq, last.hash) if last else (0, GENESIS)
        versions = {number: facts(version) for number, version in chain.versions.items()}
        beside = Beside(end, versions, chain.places)
        return verify_chain(model, map(row_of, chain.entries), beside, recorded)

    def _chain(self, model: str) -> _Chain:
        return self._chains.get(model, _Chain())

    def _write(self, draft: Draft, new: int | None = None) -> Entry:
        draft = replace(draft, changes=tuple(draft.changes), data=json.loads(canonical(draft.data)))
        chain = self._chain(draft.model)
        places = _moved(draft, chain.places, new)
        last = chain.entries[-1] if chain.entries else None
        entry = seal(draft, len(chain.entries) + 1, in_utc(self._clock.now()), last.hash if last else GENESIS)
        chain = self._chains.setdefault(draft.model, chain)
        chain.places = places
        chain.entries.append(entry)
        return entry


# --- helpers ------------------------------------------------------------------------------------------------


def _known(chain: _Chain, draft: Draft) -> Entry | None:
    if draft.key is None:
        return None
    return next((entry for entry in chain.entries if entry.draft.key == draft.key), None)


def _demand_first_place(version: Version, draft: Draft) -> None:
    first = any((c.version, c.origin) == (version.number, None) for c in draft.changes)
    if (draft.kind, draft.version) != (Kind.REGISTERED, version.number) or not first:
        raise ValueError(f"the first entry of {version.ref} must say where it stands")


def _moved(draft: Draft, before: dict[int, str], new: int | None) -> dict[int, str]:
    """The places after the draft's changes, each guarded as a database would guard it."""
    standings = Standings(draft.model, dict(before))
    for change in vacating_first(draft.changes):
        holder = standings.holder(change.target) if is_stage(change.target) else None
        if holder is not None:
            raise StageConflict(
                model=draft.model, stage=change.target, holder=holder, expected=_leaving(draft, change.target)
            )
        place = standings.places.get(change.version)
        if place != change.origin or (place is None and change.version != new):
            raise _moved_meanwhile(standings, change)
        standings = standings.after([change])
    return dict(standings.places)


def _leaving(draft: Draft, stage: str) -> int | str:
    return next((c.version for c in draft.changes if c.origin == stage), "none")


def _moved_meanwhile(standings: Standings, change: Change) -> StageConflict:
    if change.origin is not None and is_stage(change.origin):
        holder = standings.holder(change.origin)
        return StageConflict(
            model=standings.model,
            stage=change.origin,
            holder="none" if holder is None else holder,
            expected=change.version,
        )
    place = standings.places.get(change.version, "no place")
    return VersionMoved(model=standings.model, version=change.version, place=place, expected=change.origin)


def in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; times are kept in UTC")
    return moment.astimezone(UTC)
