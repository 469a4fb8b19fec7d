"""Versions, standings and the hash-chained ledger in SQL. Implements `Ledger` and `Outbox`."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Text,
    func,
    or_,
    select,
    type_coerce,
    update,
)

from mlplatform.domain.canonical import canonical
from mlplatform.domain.chain import GENESIS, Head, Verification, seal, sealing
from mlplatform.domain.ladder import Change, Replay, Standings, is_stage, vacating_first
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.version import Version
from mlplatform.errors import Conflict, StageConflict, VersionMoved
from mlplatform.ports.clock import Clock
from mlplatform.state.engine import Database
from mlplatform.state.rows import contains, insert_or_ignore
from mlplatform.state.tables import chains, ledger, utc, versions
from mlplatform.state.verify import verify

Enter = Callable[[Connection], None]


class SqlLedger:
    """The ledger and its outbox.

    Writers of one model queue up at its row in `chains`; on PostgreSQL no model waits for another.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def models(self) -> list[str]:
        return sorted(self._database.read(lambda c: c.execute(select(chains.c.model)).scalars().all()))

    def versions(self, model: str) -> list[Version]:
        """By number."""
        query = select(versions).where(versions.c.model == model).order_by(versions.c.number)
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [Version(**{k: v for k, v in row.items() if k != "place"}) for row in rows]

    def standings(self, model: str, at: datetime | None = None) -> Standings:
        read = _standings if at is None else partial(_standings_at, at=at)
        return self._database.read(lambda c: read(c, model))

    def register(self, version: Version, draft: Draft) -> Entry:
        """A new version and its first entry, in one transaction; Conflict when its number is taken."""
        first = _first_place(version, draft)
        moves = tuple(c for c in draft.changes if c.version != version.number)

        def enter(connection: Connection) -> None:
            row = {**asdict(version), "place": first}
            if not insert_or_ignore(connection, versions, row):
                raise Conflict(what=f"{version.ref} is registered already")
            _move(connection, draft.model, moves)

        return self._write(sealing(version, draft), enter)

    def append(self, draft: Draft) -> Entry:
        return self._write(draft, lambda connection: _move(connection, draft.model, draft.changes))

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
        which = _which(self._database.dialect, model, until, key, kinds, version, stage)
        query = select(ledger).where(*which).order_by(ledger.c.seq.desc()).limit(newest)
        rows = self._database.read(lambda c: c.execute(query).all())
        return [_entry(row) for row in reversed(rows)]

    def verify(self, model: str | None = None, recorded: Iterable[Head] = ()) -> Verification:
        kept = list(recorded)
        return self._database.read(lambda c: verify(c, model, kept))

    def due(self) -> list[tuple[str, int]]:
        query = select(chains.c.model, chains.c.head_seq).where(chains.c.head_seq > chains.c.projected_seq)
        rows = self._database.read(lambda c: c.execute(query).all())
        return sorted((model, seq) for model, seq in rows)

    def told(self, model: str) -> int:
        query = select(chains.c.projected_seq).where(chains.c.model == model)
        return self._database.read(lambda c: c.execute(query).scalar()) or 0

    def done(self, model: str, seq: int) -> None:
        behind = (chains.c.model == model) & (chains.c.projected_seq < seq)
        self._database.write(lambda c: c.execute(update(chains).where(behind).values(projected_seq=seq)))

    def _write(self, draft: Draft, enter: Enter) -> Entry:
        # As it will be read again, so that hash and entry are the same then.
        draft = replace(draft, changes=tuple(draft.changes), data=json.loads(canonical(draft.data)))
        tried: list[Entry] = []

        def unit(connection: Connection) -> Entry:
            seq, head = _lock_chain(connection, draft.model)
            if known := _known(connection, draft, tried):
                return known
            enter(connection)
            entry = seal(draft, seq + 1, utc(self._clock.now()), head)
            tried.append(entry)
            _store(connection, entry)
            return entry

        return self._database.write(unit)


# --- the paragraphs of a write ------------------------------------------------------------------------------


def _lock_chain(connection: Connection, model: str) -> tuple[int, str]:
    """The end of the model's chain; nobody else can move it until this transaction ends."""
    query = select(chains.c.head_seq, chains.c.head_hash).where(chains.c.model == model).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        new = {"model": model, "head_seq": 0, "head_hash": GENESIS, "projected_seq": 0}
        insert_or_ignore(connection, chains, new)
        row = connection.execute(query).one()
    return row.head_seq, row.head_hash


def _known(connection: Connection, draft: Draft, tried: Sequence[Entry]) -> Entry | None:
    """The entry that is there already: by its key, or by its hash when only the reply to COMMIT was lost."""
    signs: list[ColumnElement[bool]] = [
        (ledger.c.seq == entry.seq) & (ledger.c.hash == entry.hash) for entry in tried
    ]
    if draft.key is not None:
        signs.append(ledger.c.key == draft.key)
    for sign in signs:
        query = select(ledger).where(ledger.c.model == draft.model, sign)
        if row := connection.execute(query).one_or_none():
            return _entry(row)
    return None


def _move(connection: Connection, model: str, changes: Sequence[Change]) -> None:
    for change in vacating_first(changes):
        if is_stage(change.target):
            _demand_free(connection, model, change, changes)
        here = (versions.c.model == model) & (versions.c.number == change.version)
        there = update(versions).where(here, versions.c.place == change.origin).values(place=change.target)
        if connection.execute(there).rowcount != 1:
            raise _moved_meanwhile(connection, model, change)


def _demand_free(connection: Connection, model: str, change: Change, changes: Sequence[Change]) -> None:
    holder = _holder(connection, model, change.target)
    if holder is not None:
        expected = next((c.version for c in changes if c.origin == change.target), None)
        raise StageConflict(model=model, stage=change.target, holder=holder, expected=expected or "none")


def _moved_meanwhile(connection: Connection, model: str, change: Change) -> StageConflict:
    """Why a guarded update found no row, with the real holder."""
    if change.origin is not None and is_stage(change.origin):
        holder = _holder(connection, model, change.origin)
        return StageConflict(
            model=model, stage=change.origin, holder=holder or "none", expected=change.version
        )
    here = (versions.c.model == model) & (versions.c.number == change.version)
    place = connection.execute(select(versions.c.place).where(here)).scalar()
    return VersionMoved(
        model=model, version=change.version, place=place or "no place", expected=change.origin
    )


def _store(connection: Connection, entry: Entry) -> None:
    draft = entry.draft
    connection.execute(
        ledger.insert().values(
            model=draft.model,
            seq=entry.seq,
            at=entry.at,
            kind=draft.kind.value,
            version=draft.version,
            actor=draft.actor.name,
            verified=draft.actor.verified,
            reason=draft.reason,
            stage=draft.stage,
            changes=draft.changes,
            data=draft.data,
            key=draft.key,
            prev_hash=entry.prev_hash,
            hash=entry.hash,
        )
    )
    end = (chains.c.model == draft.model) & (chains.c.head_seq == entry.seq - 1)
    moved = update(chains).where(end).values(head_seq=entry.seq, head_hash=entry.hash)
    if connection.execute(moved).rowcount != 1:
        raise Conflict(what=f"the ledger of {draft.model} grew meanwhile", hint="Try again.")


def _first_place(version: Version, draft: Draft) -> str:
    if (draft.kind, draft.version) == (Kind.REGISTERED, version.number):
        for change in draft.changes:
            if (change.version, change.origin) == (version.number, None):
                return change.target
    raise ValueError(
        f"the first entry of {version.ref} must say where it stands: Change({version.number}, None, ...)"
    )


# --- reading ------------------------------------------------------------------------------------------------


def _standings(connection: Connection, model: str) -> Standings:
    query = select(versions.c.number, versions.c.place).where(versions.c.model == model)
    rows = connection.execute(query.order_by(versions.c.number)).all()
    return Standings(model, {row.number: row.place for row in rows})


def _holder(connection: Connection, model: str, stage: str) -> int | None:
    query = select(versions.c.number).where(versions.c.model == model, versions.c.place == stage)
    number: int | None = connection.execute(query).scalar()
    return number


def _standings_at(connection: Connection, model: str, at: datetime) -> Standings:
    """From the changes alone; all of them are decoded at once."""
    query = select(type_coerce(ledger.c.changes, Text)).where(
        ledger.c.model == model, _until(model, at), ledger.c.changes != ()
    )
    texts = connection.execute(query.order_by(ledger.c.seq)).scalars()
    told = Replay(Standings(model))
    for changes in json.loads(f"[{','.join(texts)}]"):
        for change in changes:
            told.move(**change)
        told.settle()
    return told.standings


def _which(
    dialect: str,
    model: str,
    until: datetime | None,
    key: str | None,
    kinds: Collection[Kind],
    version: int | None,
    stage: str | None,
) -> list[ColumnElement[bool]]:
    """The conditions of a question. Whom an entry moves stands in its changes, which are searched as text."""
    which = [ledger.c.model == model]
    if until is not None:
        which.append(_until(model, until))
    if key is not None:
        which.append(ledger.c.key == key)
    if kinds:
        which.append(ledger.c.kind.in_([kind.value for kind in kinds]))
    if version is not None:
        moved = contains(dialect, ledger.c.changes, f'"version":{version}}}')
        which += [ledger.c.seq >= _first(model, version), or_(ledger.c.version == version, moved)]
    if stage is not None:
        name = json.dumps(stage, ensure_ascii=False)
        ends = [contains(dialect, ledger.c.changes, f'"{end}":{name}') for end in ("origin", "target")]
        which.append(or_(ledger.c.stage == stage, *ends))
    return which


def _until(model: str, moment: datetime) -> ColumnElement[bool]:
    # By number, not by time: with a clock that was put back the entries stay a beginning of the chain.
    last = select(func.max(ledger.c.seq)).where(ledger.c.model == model, ledger.c.at <= moment)
    return ledger.c.seq <= last.scalar_subquery()


def _first(model: str, version: int) -> ScalarSelect[int]:
    """A version's registration: nothing before it can be about it."""
    new = (ledger.c.model == model) & (ledger.c.kind == Kind.REGISTERED.value) & (ledger.c.version == version)
    return select(func.min(ledger.c.seq)).where(new).scalar_subquery()


def _entry(row: Row[Any]) -> Entry:
    model, seq, at, kind, version, actor, verified, reason, stage, changes, data, key, prev_hash, hash = (
        tuple(row)
    )
    moves = tuple(Change(**change) for change in changes)
    draft = Draft(model, Kind(kind), version, Actor(actor, verified), reason, moves, stage, data, key)
    return Entry(seq, at, draft, prev_hash, hash)
