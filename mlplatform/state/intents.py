"""Intents in SQL. Implements `Intents`."""

from __future__ import annotations

from sqlalchemy import delete, select

from mlplatform.ports.state import Intent
from mlplatform.state.engine import Database
from mlplatform.state.rows import upsert
from mlplatform.state.tables import intents


class SqlIntents:
    """Opening a key again replaces what was intended under it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, intent: Intent) -> None:
        self._database.write(lambda c: upsert(c, intents, vars(intent), ("key",)))

    def close(self, key: str) -> None:
        self._database.write(lambda c: c.execute(delete(intents).where(intents.c.key == key)))

    def left(self) -> list[Intent]:
        query = select(intents).order_by(intents.c.at, intents.c.nr)
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [Intent(**{k: v for k, v in row.items() if k != "nr"}) for row in rows]
