"""Tokens in SQL, as the SHA-256 of each. Implements `Tokens`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select, update

from mlplatform.domain.token import Token
from mlplatform.errors import Conflict, UnknownName
from mlplatform.state.engine import Database
from mlplatform.state.rows import insert_or_ignore
from mlplatform.state.tables import tokens, utc


class SqlTokens:
    """Adding the first one is guarded by the caller's lease besides: PostgreSQL lets two see an empty table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, token: Token, secret_hash: str, first: bool = False) -> None:
        row = {**asdict(token), "secret_hash": secret_hash}

        def unit(connection: Connection) -> None:
            others = select(func.count()).select_from(tokens).where(tokens.c.id != token.id)
            if first and connection.execute(others).scalar_one():
                raise Conflict(what="somebody added the first token meanwhile")
            if insert_or_ignore(connection, tokens, row):
                return
            known = connection.execute(select(tokens.c.secret_hash).where(tokens.c.id == token.id)).scalar()
            if known != secret_hash:  # when it is the same, only the reply to our COMMIT was lost
                raise Conflict(what=f"there is a token {token.id} already", hint="Try again.")

        self._database.write(unit)

    def find(self, id: str) -> tuple[Token, str] | None:
        query = select(tokens).where(tokens.c.id == id)
        row = self._database.read(lambda c: c.execute(query).mappings().first())
        return (_token(row), row["secret_hash"]) if row else None

    def all(self) -> list[Token]:
        return [token for token, _ in self.hashed()]

    def hashed(self) -> list[tuple[Token, str]]:
        query = select(tokens).order_by(tokens.c.created_at, tokens.c.id)
        rows = self._database.read(lambda c: c.execute(query).mappings().all())
        return [(_token(row), row["secret_hash"]) for row in rows]

    def revoke(self, id: str, at: datetime, by: str) -> Token:
        open_one = (tokens.c.id == id) & tokens.c.revoked_at.is_(None)

        def unit(connection: Connection) -> Token:
            connection.execute(update(tokens).where(open_one).values(revoked_at=utc(at), revoked_by=by))
            row = connection.execute(select(tokens).where(tokens.c.id == id)).mappings().first()
            if row is None:
                raise UnknownName("token", id, connection.execute(select(tokens.c.id)).scalars().all())
            return _token(row)

        return self._database.write(unit)


def _token(row: RowMapping | Mapping[str, Any]) -> Token:
    facts = {name: value for name, value in row.items() if name != "secret_hash"}
    return Token(**{**facts, "roles": tuple(row["roles"]), "scopes": tuple(row["scopes"])})
