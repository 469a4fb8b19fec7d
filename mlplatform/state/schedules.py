"""Schedules and their firings in SQL. Implements `Schedules`."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, delete, select, update

from mlplatform.errors import UnknownName
from mlplatform.ports.clock import Clock
from mlplatform.ports.state import Firing, Schedule
from mlplatform.state.engine import Database
from mlplatform.state.rows import insert_or_ignore, upsert
from mlplatform.state.tables import firings, schedules, utc


class SqlSchedules:
    """A firing's key is (schedule, due time): the database lets one runner in."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def save(self, schedule: Schedule) -> None:
        self._database.write(lambda c: upsert(c, schedules, vars(schedule), ("name",)))

    def all(self) -> list[Schedule]:
        """By name."""
        rows = self._database.read(lambda c: c.execute(select(schedules)).mappings().all())
        return sorted((Schedule(**row) for row in rows), key=lambda schedule: schedule.name)

    def remove(self, name: str) -> None:
        """Raises UnknownName. Its firings stay."""
        tried: list[str] = []

        def unit(connection: Connection) -> None:
            gone = connection.execute(delete(schedules).where(schedules.c.name == name)).rowcount
            if not gone and not tried:
                known = connection.execute(select(schedules.c.name)).scalars().all()
                raise UnknownName("schedule", name, known)
            tried.append(name)

        self._database.write(unit)

    def claim(self, schedule: str, due_at: datetime, owner: str) -> bool:
        firing = Firing(schedule, utc(due_at), owner, utc(self._clock.now()))
        tried: list[Firing] = []

        def unit(connection: Connection) -> bool:
            if insert_or_ignore(connection, firings, vars(firing)):
                tried.append(firing)
                return True
            # After a try of ours the row may be our own: only the reply to our COMMIT was lost.
            return bool(tried) and _firing(connection, firing) == firing

        return self._database.write(unit)

    def finish(self, schedule: str, due_at: datetime, outcome: str) -> None:
        """The first outcome stays."""
        open_one = (firings.c.schedule == schedule) & (firings.c.due_at == due_at)
        ended = update(firings).where(open_one, firings.c.finished_at.is_(None))
        ended = ended.values(finished_at=utc(self._clock.now()), outcome=outcome)
        self._database.write(lambda c: c.execute(ended))

    def firings(self, schedule: str | None = None, unfinished: bool = False) -> list[Firing]:
        """By due time."""
        query = select(firings).order_by(firings.c.due_at, firings.c.schedule)
        if schedule is not None:
            query = query.where(firings.c.schedule == schedule)
        if unfinished:
            query = query.where(firings.c.finished_at.is_(None))
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [Firing(**row) for row in rows]


def _firing(connection: Connection, wanted: Firing) -> Firing | None:
    same = (firings.c.schedule == wanted.schedule) & (firings.c.due_at == wanted.due_at)
    row = connection.execute(select(firings).where(same)).mappings().first()
    return Firing(**row) if row else None
