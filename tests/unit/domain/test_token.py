"""A token's text: what is a typo, what is kept, and what is never shown."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.token import Token, compose, hashed, id_of
from mlplatform.errors import MistypedToken
from mlplatform.testing.clock import START

TEXT = compose("0123abcd", "5" * 48)


def test_a_token_looks_as_documented_and_names_its_id():
    assert TEXT.startswith("mlp_0123abcd_" + "5" * 48 + "_")
    assert id_of(TEXT, "X") == "0123abcd"
    assert hashed(TEXT) == hashlib.sha256(TEXT.encode()).hexdigest()


@given(st.integers(0, len(TEXT) - 1), st.sampled_from("0123456789abcdefXY_ "))
def test_one_changed_character_is_a_typo(place, sign):
    changed = TEXT[:place] + sign + TEXT[place + 1 :]
    if changed != TEXT:
        with pytest.raises(MistypedToken):
            id_of(changed, "X")


@given(st.integers(0, len(TEXT) - 1))
def test_a_lost_character_is_a_typo_that_is_not_repeated(place):
    with pytest.raises(MistypedToken) as caught:
        id_of(TEXT[:place] + TEXT[place + 1 :], "MLPLATFORM_TOKEN")
    assert "5" * 40 not in str(caught.value.to_dict())
    assert "MLPLATFORM_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    ("owner", "roles"),
    [
        ("", ()),
        ("os:ada", ()),
        ("mlflow", ()),
        ("Monitor", ()),
        ("ada b", ()),
        ("ada", ("Risk",)),
        ("ada", ("",)),
    ],
)
def test_names_that_could_be_taken_for_another_are_refused(owner, roles):
    with pytest.raises(ValueError, match=r"owner|role"):
        Token("0123abcd", owner, roles, START, "x")


def test_it_holds_until_it_expires_or_is_revoked():
    token = Token("0123abcd", "ada", (), START, "x", START + timedelta(days=1))
    assert token.why_not(START) == ""
    assert token.why_not(START + timedelta(days=1)) == "it expired on 2026-01-06 12:00"
    gone = Token("0123abcd", "ada", (), START, "x", revoked_at=START)
    assert gone.why_not(START - timedelta(days=9)) == "it was revoked on 2026-01-05 12:00"
