"""What servers are told of tokens: after every change, by every deployment, and by reconcile where a process died."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mlplatform.domain.endpoint import Tls
from mlplatform.domain.ledger import Actor
from mlplatform.domain.policy import Policy
from mlplatform.domain.token import Identity
from mlplatform.errors import RefusedToken, UnknownName, UsageError, WorldError
from mlplatform.flows import access, tokens
from mlplatform.flows.reconcile import differences, reconcile
from mlplatform.store.documents import FolderDocuments
from tests.unit.flows.worlds import MODEL, Fakes, policy


def guarded(**more: object) -> Policy:
    """The policy whose endpoint demands tokens."""
    given = policy()
    stage = given.stage("production")
    assert stage.endpoint
    endpoint = replace(stage.endpoint, auth=True, **more)
    return replace(given, stages={**given.stages, "production": replace(stage, endpoint=endpoint)})


def add(fakes: Fakes, owner: str, *scopes: str, expires: str | None = None) -> str:
    """A token's id; servers are not told."""
    boss = Identity(Actor("boss", verified=True), ("admin",))
    if not fakes.tokens.all():
        tokens.issue(fakes.tokens, fakes.clock.now(), Identity(Actor("os:ada")), "boss", ["admin"])
    made = tokens.issue(fakes.tokens, fakes.clock.now(), boss, owner, [], expires, scopes=scopes)
    return made.token.id


def honoured(fakes: Fakes) -> list[str]:
    known = fakes.documents.access(MODEL)
    return [grant.id for grant in known.grants] if known else []


def told(fakes: Fakes, given: Policy) -> list[str]:
    return [d.what for d in differences(fakes.world, given)]


def test_a_deployment_tells_which_tokens_hold_and_only_of_those_with_scopes(fakes: Fakes) -> None:
    shop = add(fakes, "shop", "predict:churn")
    gone, short = add(fakes, "gone", "metrics"), add(fakes, "short", "metrics", expires="1d")
    add(fakes, "ada")
    fakes.tokens.revoke(gone, fakes.clock.now(), "boss")
    fakes.live(guarded(), "run1")
    known = fakes.documents.access(MODEL)
    assert known
    ends = {grant.id: grant.expires_at for grant in known.grants}
    assert ends == {shop: None, short: fakes.clock.now() + timedelta(days=1)}
    assert fakes.target.status(fakes.documents.folder(MODEL)).auth


def test_every_endpoint_that_was_told_something_is_told_of_a_change(fakes: Fakes) -> None:
    fakes.live(guarded(), "run1")
    fakes.documents.grant("other", tuple)
    shop = add(fakes, "shop", "predict:churn")
    access.tell_all(fakes.world)
    for endpoint in (MODEL, "other"):
        known = fakes.documents.access(endpoint)
        assert known
        assert [grant.id for grant in known.grants] == [shop]


def test_what_a_dead_process_did_not_tell_is_told_by_reconcile(fakes: Fakes) -> None:
    fakes.live(guarded(), "run1")
    shop = add(fakes, "shop", "predict:churn")
    for change in (lambda: None, lambda: fakes.tokens.revoke(shop, fakes.clock.now(), "boss")):
        change()
        assert f"endpoint {MODEL} was not told which tokens hold" in told(fakes, guarded())
        reconcile(fakes.world, guarded())
        assert told(fakes, guarded()) == []
    assert honoured(fakes) == []


def test_a_token_that_has_expired_meanwhile_is_no_difference(fakes: Fakes) -> None:
    add(fakes, "short", "metrics", expires="1d")
    fakes.live(guarded(), "run1")
    fakes.clock.advance(2 * 24 * 3600)
    assert not access.is_stale(fakes.world, MODEL)


def test_an_endpoint_that_demands_no_tokens_is_not_told_of(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    reconcile(fakes.world, policy())
    add(fakes, "shop", "predict:churn")
    assert told(fakes, policy()) == []


def test_a_server_that_demands_less_than_the_policy_by_now_is_closed(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    stricter = guarded(tls=Tls("cert.pem", "key.pem"))
    assert any("runs without tokens or TLS" in what for what in told(fakes, stricter))
    reconcile(fakes.world, stricter)
    state = fakes.target.status(fakes.documents.folder(MODEL))
    assert (state.auth, state.tls) == (True, True)
    assert told(fakes, stricter) == []
    told_of = differences(fakes.world, policy())
    more = f"the server of endpoint {MODEL} demands more than its policy (tokens and tls) and goes on so"
    assert [(d.what, d.mend) for d in told_of] == [(more, None)], "to open it is a person's decision"
    assert "mlplatform undeploy churn --stage production" in told_of[0].repair
    spec = fakes.target.started[-1]
    assert spec.tls
    assert (spec.tls.cert, spec.tls.key) == (Path("cert.pem"), Path("key.pem"))


def test_an_endpoint_that_cannot_be_told_does_not_keep_the_others_from_it(
    fakes: Fakes, tmp_path: Path
) -> None:
    documents = FolderDocuments(tmp_path / "servers")
    for endpoint in ("first", "second"):
        documents.grant(endpoint, tuple)
    (tmp_path / "servers" / "first" / "access.lock").unlink()
    (tmp_path / "servers" / "first" / "access.lock").mkdir()
    shop = add(fakes, "shop", "predict:*")
    with pytest.raises(WorldError, match=r"the server of first could not be told .*: Is a directory"):
        access.tell_all(replace(fakes.world, documents=documents))
    second = documents.access("second")
    assert second
    assert [grant.id for grant in second.grants] == [shop]


def test_a_token_for_servers_only_is_nobody_at_the_command_line(fakes: Fakes) -> None:
    add(fakes, "boss2")
    boss = Identity(Actor("boss", verified=True), ("admin",))
    now = fakes.clock.now()
    shop = tokens.issue(fakes.tokens, now, boss, "shop", [], scopes=["predict:churn"])
    both = tokens.issue(fakes.tokens, now, boss, "ops", ["deployer"], scopes=["metrics"])
    with pytest.raises(RefusedToken, match=r"it is for model servers \(predict:churn\)"):
        tokens.identify(fakes.tokens, now, shop.text, "X")
    assert tokens.identify(fakes.tokens, now, both.text, "X").roles == ("deployer",)


def test_scopes_are_checked_before_a_token_is_made(fakes: Fakes) -> None:
    add(fakes, "ada")
    before = fakes.tokens.all()
    boss = Identity(Actor("boss", verified=True), ("admin",))
    with pytest.raises(UsageError, match="Did you mean 'predict:churn'"):
        tokens.issue(fakes.tokens, fakes.clock.now(), boss, "shop", [], scopes=["predct:churn"])
    with pytest.raises(UnknownName) as caught:
        tokens.demand_models(["metrics", "labels:*", "predict:chrun"], ["churn", "fraud"])
    assert "Did you mean 'churn'?" in caught.value.next_step
    assert fakes.tokens.all() == before
