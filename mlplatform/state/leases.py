"""Leases with a fencing number, in SQL. Implements `Leases`."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import ColumnElement, Connection, select, update

from mlplatform.errors import LeaseHeld, LeaseLost
from mlplatform.ports.clock import Clock
from mlplatform.ports.state import Lease
from mlplatform.state.engine import Database
from mlplatform.state.rows import insert_or_ignore
from mlplatform.state.tables import leases, utc


class SqlLeases:
    """A row per name, kept for ever, so that its fence only grows. No owner means free."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    def acquire(self, name: str, owner: str, seconds: float) -> Lease:
        """Take a lease that is free or expired; its holder cannot take it twice either. Raises LeaseHeld."""
        tried: list[Lease] = []

        def unit(connection: Connection) -> Lease:
            now = utc(self._clock.now())
            until = now + timedelta(seconds=seconds)
            first = Lease(name, owner, 1, until)
            if insert_or_ignore(connection, leases, vars(first)):
                tried.append(first)
                return first
            row = connection.execute(select(leases).where(leases.c.name == name).with_for_update()).one()
            for ours in tried:
                # Only the reply to our COMMIT was lost.
                if (ours.owner, ours.fence) == (row.owner, row.fence):
                    return ours
            if row.owner is not None and row.until > now:
                raise LeaseHeld(name=name, owner=row.owner, until=row.until.isoformat())
            taken = Lease(name, owner, row.fence + 1, until)
            tried.append(taken)
            connection.execute(update(leases).where(leases.c.name == name).values(**vars(taken)))
            return taken

        return self._database.write(unit)

    def seize(self, name: str, owner: str, holder: str, seconds: float) -> Lease:
        """Take a lease from a dead holder before it expires. Raises LeaseHeld when it changed hands."""
        tried: list[Lease] = []

        def unit(connection: Connection) -> Lease:
            query = select(leases).where(leases.c.name == name, leases.c.owner.is_not(None))
            row = connection.execute(query.with_for_update()).first()
            if row and tried and (tried[-1].owner, tried[-1].fence) == (row.owner, row.fence):
                return tried[-1]  # only the reply to our COMMIT was lost
            if row is None or row.owner != holder:
                until = row.until.isoformat() if row else "just now"
                raise LeaseHeld(name=name, owner=row.owner if row else holder, until=until)
            taken = Lease(name, owner, row.fence + 1, utc(self._clock.now()) + timedelta(seconds=seconds))
            tried.append(taken)
            connection.execute(update(leases).where(leases.c.name == name).values(**vars(taken)))
            return taken

        return self._database.write(unit)

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Hold it from now on, also when it expired and nobody took it. Raises LeaseLost."""
        until = utc(self._clock.now()) + timedelta(seconds=seconds)

        def unit(connection: Connection) -> Lease:
            if connection.execute(update(leases).where(_held(lease)).values(until=until)).rowcount != 1:
                raise LeaseLost(name=lease.name)
            return Lease(lease.name, lease.owner, lease.fence, until)

        return self._database.write(unit)

    def release(self, lease: Lease) -> None:
        self._database.write(lambda c: c.execute(update(leases).where(_held(lease)).values(owner=None)))

    def holder(self, name: str) -> Lease | None:
        query = select(leases).where(leases.c.name == name, leases.c.owner.is_not(None))
        row = self._database.read(lambda c: c.execute(query).first())
        return Lease(row.name, row.owner, row.fence, row.until) if row else None


def demand_lease(connection: Connection, lease: Lease) -> None:
    """Refuse to go on in this transaction unless the lease is still ours. Raises LeaseLost.

    Nobody can take it over before the transaction ends: a worker that slept cannot write after its successor.
    """
    query = select(leases.c.fence).where(_held(lease)).with_for_update(read=True)
    if connection.execute(query).first() is None:
        raise LeaseLost(name=lease.name)


def _held(lease: Lease) -> ColumnElement[bool]:
    return (leases.c.name == lease.name) & (leases.c.fence == lease.fence) & (leases.c.owner == lease.owner)
