"""Scopes are a short closed list, wide addresses need tokens and TLS, and an access list survives its own writing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from mlplatform.domain.access import AccessList, Grant, exposure, model_of, scope_mistake
from mlplatform.domain.endpoint import Endpoint, Tls
from mlplatform.domain.token import Token

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
GRANT = Grant("0123abcd", "5f" * 32, ("predict:churn", "labels:*", "metrics"), NOON)


@pytest.mark.parametrize("scope", ["predict:churn", "predict:*", "labels:a.b-c_d", "labels:*", "metrics"])
def test_every_kind_of_scope_is_taken(scope: str) -> None:
    assert scope_mistake(scope) == ""


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ("predct:churn", "Did you mean 'predict:churn'?"),
        ("label:churn", "Did you mean 'labels:churn'?"),
        ("metric", "Did you mean 'metrics'?"),
        ("metrics:churn", "Did you mean 'metrics'?"),
        ("admin", "Known: labels:<model>, metrics, predict:<model>."),
        ("", "Known: "),
        ("predict", "name a model, for example predict:churn"),
        ("predict:", "name a model"),
        ("predict:a b", "name a model"),
        ("predict:ch*", "name a model"),
        ("labels:churn\n", "name a model"),
        ("PREDICT:churn", "scope 'PREDICT:churn': "),
    ],
)
def test_any_other_is_told_with_the_nearest(scope: str, said: str) -> None:
    assert said in scope_mistake(scope)


def test_a_token_tells_all_its_mistaken_scopes_at_once() -> None:
    with pytest.raises(ValueError, match=r"predct.*predict:churn.*metric.*metrics"):
        Token("0123abcd", "shop", (), NOON, "boss", scopes=("predct:churn", "metrics", "metric"))


def test_the_model_of_a_scope() -> None:
    assert [model_of(s) for s in ("predict:churn", "labels:*", "metrics")] == ["churn", "", ""]


@pytest.mark.parametrize(
    ("host", "auth", "tls", "proxy", "lacks"),
    [
        ("127.0.0.1", None, False, False, ""),
        ("127.0.0.1", False, False, False, ""),
        ("::1", None, False, False, ""),
        ("localhost", None, False, False, ""),
        ("0.0.0.0", None, True, False, ""),
        ("0.0.0.0", True, True, False, ""),
        ("0.0.0.0", False, False, True, ""),
        ("10.0.0.5", None, False, True, ""),
        ("0.0.0.0", None, False, False, "lacks tls"),
        ("::", None, False, False, "lacks tls"),
        ("10.0.0.5", False, True, False, "lacks tokens"),
        ("10.0.0.5", False, False, False, "lacks tokens and tls"),
    ],
)
def test_an_address_of_other_machines_needs_both_or_a_proxy(
    host: str, auth: bool | None, tls: bool, proxy: bool, lacks: str
) -> None:
    said = exposure(host, auth, tls, proxy)
    assert said.endswith(lacks) if lacks else said == ""
    files = Tls("cert.pem", "key.pem") if tls else None
    if lacks:
        with pytest.raises(ValueError, match=lacks):
            Endpoint("churn", host=host, auth=auth, tls=files, behind_proxy=proxy)
    else:
        Endpoint("churn", host=host, auth=auth, tls=files, behind_proxy=proxy)


def test_a_proxy_alone_takes_no_token_away() -> None:
    assert Endpoint("churn", host="0.0.0.0", behind_proxy=True).demands_tokens
    assert not Endpoint("churn", host="0.0.0.0", behind_proxy=True, auth=False).demands_tokens
    assert not Endpoint("churn").demands_tokens
    assert Endpoint("churn", auth=True).demands_tokens


@pytest.mark.parametrize("host", ["nowhere", "", "999.0.0.1"])
def test_what_is_no_address_is_told(host: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        Endpoint("churn", host=host)


def test_a_list_is_read_back_as_it_was_written() -> None:
    known = AccessList("churn", 3, (GRANT, replace(GRANT, id="0123abce", expires_at=None)))
    assert AccessList.decode(known.encode()) == known
    assert known.same_as(reversed(known.grants))
    assert not known.same_as([GRANT])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b'{"endpoint": "churn", "generation": 1}',
        b'{"endpoint": "churn", "generation": 1, "grants": [{}]}',
        b'{"endpoint": "churn", "generation": "x", "grants": []}',
        AccessList("churn", 1, (GRANT,)).encode()[:-20],
        AccessList("churn", 1, (GRANT,)).encode().replace(b"predict:churn", b"everything"),
        AccessList("churn", 1, (GRANT,)).encode().replace(b"+00:00", b""),
        AccessList("churn", 1, (GRANT,)).encode().replace(b"5f5f", b"5g5f"),
        b'{"endpoint": "churn", "generation": Infinity, "grants": []}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_access_list_is_an_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match="not an access list"):
        AccessList.decode(raw)
