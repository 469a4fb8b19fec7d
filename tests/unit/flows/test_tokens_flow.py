"""Who may make and end tokens, and what a command does with one that does not hold."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mlplatform.domain.ledger import Actor
from mlplatform.domain.token import Identity
from mlplatform.errors import MistypedToken, Refused, RefusedToken, UnknownName, UsageError
from mlplatform.flows.tokens import Issued, identify, issue, revoke
from mlplatform.testing.clock import START
from mlplatform.testing.fakes.tokens import FakeTokens

NOW = START
NOBODY = Identity(Actor("os:ada"))


@pytest.fixture
def tokens() -> FakeTokens:
    return FakeTokens()


@pytest.fixture
def admin(tokens: FakeTokens) -> Identity:
    return who(tokens, issue(tokens, NOW, NOBODY, "boss", ["admin"]))


def who(tokens: FakeTokens, issued: Issued) -> Identity:
    return identify(tokens, NOW, issued.text, "X")


def test_a_token_makes_its_owner_verified_with_the_roles_it_has(tokens: FakeTokens, admin: Identity) -> None:
    ada = who(tokens, issue(tokens, NOW, admin, "ada", ["risk", "risk", "dev"]))
    assert ada.actor == Actor("ada", verified=True)
    assert ada.roles == ("risk", "dev")
    assert [(t.owner, t.created_by) for t in tokens.all() if t.owner == "ada"] == [("ada", "boss")]


def test_the_first_token_needs_nobody_and_is_an_admins(tokens: FakeTokens) -> None:
    with pytest.raises(UsageError, match="must be an admin's"):
        issue(tokens, NOW, NOBODY, "ada", ["risk"])
    issue(tokens, NOW, NOBODY, "ada", ["admin"])
    assert tokens.all()[0].created_by == "os:ada (unverified)"


def test_after_the_first_only_admins_add_for_ever(tokens: FakeTokens) -> None:
    boss = issue(tokens, NOW, NOBODY, "boss", ["admin"], expires="1d")
    risk = who(tokens, issue(tokens, NOW, who(tokens, boss), "ada", ["risk"]))
    for somebody in (NOBODY, risk):
        with pytest.raises(Refused, match="may not add or revoke tokens"):
            issue(tokens, NOW, somebody, "mallory", ["admin"])
    with pytest.raises(Refused):  # no admin is left, and the door stays shut
        issue(tokens, NOW + timedelta(days=2), NOBODY, "mallory", ["admin"])


def test_a_revoked_or_expired_token_is_refused_with_its_id_and_never_its_text(
    tokens: FakeTokens, admin: Identity
) -> None:
    short, gone = (issue(tokens, NOW, admin, name, [], expires="1d") for name in ("short", "gone"))
    revoke(tokens, NOW, admin, gone.token.id)
    for issued, later, why in ((short, 1, "it expired"), (gone, 0, "it was revoked")):
        with pytest.raises(RefusedToken, match=why) as caught:
            identify(tokens, NOW + timedelta(days=later), issued.text, "MLPLATFORM_TOKEN")
        assert issued.token.id in str(caught.value)
        assert issued.text not in str(caught.value.to_dict())
    assert identify(tokens, NOW + timedelta(hours=23), short.text, "X").actor.name == "short"


def test_a_token_of_another_installation_and_a_guess_are_refused_alike(
    tokens: FakeTokens, admin: Identity
) -> None:
    foreign = issue(FakeTokens(), NOW, NOBODY, "boss", ["admin"])
    with pytest.raises(RefusedToken, match="it was not issued here"):
        identify(tokens, NOW, foreign.text, "X")
    own = issue(tokens, NOW, admin, "ada", [])
    from mlplatform.domain.token import compose

    with pytest.raises(RefusedToken, match="it was not issued here"):
        identify(tokens, NOW, compose(own.token.id, "0" * 48), "X")
    with pytest.raises(MistypedToken):
        identify(tokens, NOW, own.text[:-1], "X")


def test_who_leaked_a_token_may_end_it_and_no_other(tokens: FakeTokens, admin: Identity) -> None:
    ada, bob = (who(tokens, issue(tokens, NOW, admin, name, [])) for name in ("ada", "bob"))
    with pytest.raises(Refused, match="ada may not"):
        revoke(tokens, NOW, ada, bob.token)
    assert revoke(tokens, NOW, ada, ada.token).revoked_by == "ada"


def test_the_last_admin_stays(tokens: FakeTokens, admin: Identity) -> None:
    with pytest.raises(Refused, match="nobody could add or revoke tokens any more") as caught:
        revoke(tokens, NOW, admin, admin.token)
    assert "Add another first" in caught.value.next_step
    issue(tokens, NOW, admin, "deputy", ["admin"])
    revoke(tokens, NOW, admin, admin.token)
    assert len([t for t in tokens.all() if t.revoked_at]) == 1


def test_an_unknown_token_cannot_be_revoked(tokens: FakeTokens, admin: Identity) -> None:
    with pytest.raises(UnknownName):
        revoke(tokens, NOW, admin, "ffffffff")


@pytest.mark.parametrize(
    ("name", "roles", "expires"),
    [("os:ada", [], None), ("reconcile", [], None), ("ada", ["Risk"], None), ("ada", [], "soon")],
)
def test_nonsense_is_told_and_adds_nothing(
    tokens: FakeTokens, admin: Identity, name: str, roles: list[str], expires: str | None
) -> None:
    with pytest.raises(UsageError):
        issue(tokens, NOW, admin, name, roles, expires)
    assert len(tokens.all()) == 1


def test_a_dry_run_makes_no_token_and_a_new_one_hides_its_text(tokens: FakeTokens, admin: Identity) -> None:
    planned = issue(tokens, NOW, admin, "ada", [], dry_run=True)
    assert planned.text == ""
    assert len(tokens.all()) == 1
    made = issue(tokens, NOW, admin, "ada", [])
    assert made.text not in repr(made)
    assert revoke(tokens, NOW, admin, made.token.id, dry_run=True).revoked_at is None


def test_a_whole_token_where_an_id_belongs_is_not_repeated(tokens: FakeTokens, admin: Identity) -> None:
    issued = issue(tokens, NOW, admin, "ada", [])
    with pytest.raises(UsageError) as caught:
        revoke(tokens, NOW, admin, issued.text)
    assert issued.text[13:] not in str(caught.value.to_dict())
