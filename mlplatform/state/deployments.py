"""Rollouts in SQL, every step guarded by its fence. Implements `Deployments`."""

from __future__ import annotations

from dataclasses import asdict, replace

from sqlalchemy import ColumnElement, Connection, RowMapping, select, update
from sqlalchemy.exc import IntegrityError

from mlplatform.domain.rollout import ACTIVE, Phase, Rollout
from mlplatform.errors import Conflict
from mlplatform.state.engine import Database
from mlplatform.state.rows import insert_or_ignore
from mlplatform.state.tables import rollouts


class SqlDeployments:
    """At most one rollout of an endpoint is moving traffic: the database itself sees to it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, rollout: Rollout) -> Rollout:
        """Store a new rollout; opening the same id again returns what is there."""
        opened = replace(rollout, fence=1)

        def unit(connection: Connection) -> Rollout:
            if insert_or_ignore(connection, rollouts, asdict(opened)):
                return opened
            if known := _one(connection, rollouts.c.id == rollout.id):
                return known
            raise _busy(connection, rollout.endpoint)

        return self._database.write(unit)

    def save(self, rollout: Rollout) -> Rollout:
        following = replace(rollout, fence=rollout.fence + 1)
        tried: list[Rollout] = []

        def unit(connection: Connection) -> Rollout:
            stored = _one(connection, rollouts.c.id == rollout.id, lock=True)
            if stored in tried:
                # Only the reply to our COMMIT was lost.
                return following
            if stored is None or stored.fence != rollout.fence:
                raise _overtaken(rollout, stored)
            tried.append(following)
            connection.execute(
                update(rollouts).where(rollouts.c.id == rollout.id).values(**asdict(following))
            )
            return following

        try:
            return self._database.write(unit)
        except IntegrityError:
            raise self._database.read(lambda c: _busy(c, rollout.endpoint)) from None

    def active(self, model: str | None = None) -> list[Rollout]:
        """Oldest first."""
        wanted = rollouts.c.phase.in_([phase.value for phase in ACTIVE])
        return self._all(wanted if model is None else wanted & (rollouts.c.model == model))

    def history(self, model: str) -> list[Rollout]:
        """Oldest first."""
        return self._all(rollouts.c.model == model)

    def _all(self, wanted: ColumnElement[bool]) -> list[Rollout]:
        query = select(rollouts).where(wanted).order_by(rollouts.c.opened_at, rollouts.c.nr)
        return [_rollout(row) for row in self._database.read(lambda c: c.execute(query).mappings().all())]


# --- helpers ------------------------------------------------------------------------------------------------


def _one(connection: Connection, wanted: ColumnElement[bool], lock: bool = False) -> Rollout | None:
    query = select(rollouts).where(wanted)
    row = connection.execute(query.with_for_update() if lock else query).mappings().first()
    return _rollout(row) if row else None


def _rollout(row: RowMapping) -> Rollout:
    values = {k: v for k, v in row.items() if k != "nr"}
    return Rollout(**{**values, "phase": Phase(row["phase"])})


def _moving(endpoint: str) -> ColumnElement[bool]:
    moving = rollouts.c.phase.in_([Phase.OPENED.value, Phase.SHIFTED.value])
    return moving & (rollouts.c.endpoint == endpoint)


def _busy(connection: Connection, endpoint: str) -> Conflict:
    other = _one(connection, _moving(endpoint))
    what = f"{other.model}@{other.version} ({other.phase})" if other else "another version"
    return Conflict(
        what=f"endpoint {endpoint} is busy with the rollout of {what}",
        hint="Wait until it is live, or roll it back.",
    )


def _overtaken(rollout: Rollout, stored: Rollout | None) -> Conflict:
    now = f"it is {stored.phase} now, step {stored.fence}" if stored else "it is gone"
    return Conflict(
        what=f"the rollout of {rollout.model}@{rollout.version} was moved on by another worker: {now}",
        hint="Look at `mlplatform history` and try again.",
    )
