"""Tokens in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from mlplatform.domain.token import Token
from mlplatform.errors import Conflict, UnknownName
from mlplatform.testing.fakes.ledger import in_utc


class FakeTokens:
    """Implements Tokens."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Token, str]] = {}

    def add(self, token: Token, secret_hash: str, first: bool = False) -> None:
        if first and set(self._kept) - {token.id}:
            raise Conflict(what="somebody added the first token meanwhile")
        if self._kept.setdefault(token.id, (token, secret_hash))[1] != secret_hash:
            raise Conflict(what=f"there is a token {token.id} already", hint="Try again.")

    def find(self, id: str) -> tuple[Token, str] | None:
        return self._kept.get(id)

    def all(self) -> list[Token]:
        return [token for token, _ in self.hashed()]

    def hashed(self) -> list[tuple[Token, str]]:
        return sorted(self._kept.values(), key=lambda kept: (kept[0].created_at, kept[0].id))

    def revoke(self, id: str, at: datetime, by: str) -> Token:
        if id not in self._kept:
            raise UnknownName("token", id, self._kept)
        token, secret_hash = self._kept[id]
        if token.revoked_at is None:
            token = replace(token, revoked_at=in_utc(at), revoked_by=by)
            self._kept[id] = (token, secret_hash)
        return token
