"""Port Tokens: kept by id with their hash, ended once, never forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from mlplatform.domain.token import Token, compose, hashed
from mlplatform.errors import Conflict, UnknownName
from mlplatform.state.tables import tokens
from mlplatform.state.tokens import SqlTokens
from mlplatform.testing.clock import START

LATER = START + timedelta(days=1)
ADA = Token("00000001", "ada", ("risk", "admin"), START, "os:root (unverified)", LATER)
SHOP = Token("00000002", "shop", (), LATER, "ada", scopes=("predict:churn", "metrics"))
BOB = Token("00000000", "bob", (), LATER, "ada")


def test_a_token_is_found_by_its_id_with_its_hash(state):
    state.tokens.add(ADA, "hash of ada")
    assert state.tokens.find("00000001") == (ADA, "hash of ada")
    assert state.tokens.find("00000002") is None


def test_tokens_are_told_oldest_first(state):
    for token in (SHOP, BOB, ADA):
        state.tokens.add(token, token.owner)
    assert state.tokens.all() == [ADA, BOB, SHOP]
    assert state.tokens.hashed() == [(ADA, "ada"), (BOB, "bob"), (SHOP, "shop")]


def test_an_id_is_taken_once_and_adding_the_same_again_changes_nothing(state):
    state.tokens.add(ADA, "hash")
    state.tokens.add(ADA, "hash")
    with pytest.raises(Conflict, match="there is a token 00000001 already"):
        state.tokens.add(replace(BOB, id=ADA.id), "another")
    assert state.tokens.all() == [ADA]


def test_only_one_can_be_the_first(state):
    state.tokens.add(ADA, "hash", first=True)
    with pytest.raises(Conflict, match="first token"):
        state.tokens.add(BOB, "other", first=True)
    state.tokens.revoke(ADA.id, LATER, "ada")
    with pytest.raises(Conflict, match="first token"):
        state.tokens.add(BOB, "other", first=True)


def test_the_first_revocation_stays(state):
    state.tokens.add(ADA, "hash")
    gone = state.tokens.revoke(ADA.id, LATER, "eve")
    assert gone == replace(ADA, revoked_at=LATER, revoked_by="eve")
    assert state.tokens.revoke(ADA.id, LATER + timedelta(days=1), "bob") == gone
    assert state.tokens.find(ADA.id) == (gone, "hash")


def test_what_does_not_exist_cannot_be_revoked(state):
    state.tokens.add(ADA, "hash")
    with pytest.raises(UnknownName, match="no token named"):
        state.tokens.revoke("00000009", LATER, "eve")


def test_no_row_holds_the_text_of_a_token(database):
    text = compose(ADA.id, "7" * 48)
    SqlTokens(database).add(ADA, hashed(text))
    row = database.read(lambda c: c.execute(select(tokens)).mappings().one())
    assert "7" * 20 not in str(dict(row))
    assert row["secret_hash"] == hashed(text)
