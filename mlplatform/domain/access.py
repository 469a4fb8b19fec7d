"""Who may ask a model server what: scopes of tokens, and `access.json`, the tokens that an endpoint honours.

A projection of the tokens in the database, so that a server needs none: written by the control plane after every
`token add` and `token revoke`, as `routes.json` is (number, temporary name, fsync, rename). It holds no secret: the
SHA-256 of 192 random bits leads nobody back to them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any

from mlplatform.errors import nearest

PREDICT, LABELS, METRICS = "predict", "labels", "metrics"
SCOPES = (f"{PREDICT}:<model>", f"{LABELS}:<model>", METRICS)
"""All there are. `*` stands for every model, also for those to come."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}|\*")

_NO_LIST = (KeyError, TypeError, AttributeError, OverflowError, RecursionError, ValueError)


def scope_mistake(scope: str) -> str:
    """What is wrong with a scope; empty when nothing is.

    >>> scope_mistake("predct:churn")
    "scope 'predct:churn': Did you mean 'predict:churn'?"
    """
    kind, colon, model = scope.partition(":")
    if kind == METRICS and not colon:
        return ""
    if kind in (PREDICT, LABELS) and _MODEL.fullmatch(model):
        return ""
    if kind in (PREDICT, LABELS):
        return f"scope {scope!r}: name a model, for example {kind}:churn, or {kind}:* for all"
    model = model if _MODEL.fullmatch(model) else "<model>"
    hint = nearest(scope, (f"{PREDICT}:{model}", f"{LABELS}:{model}", METRICS))
    return f"scope {scope!r}: {hint}"


def model_of(scope: str) -> str:
    """The model that a scope names; empty for none and for `*`."""
    return scope.partition(":")[2].replace("*", "")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; ValueError for what is none."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        raise ValueError(f"{host!r} is not an address; write for example 127.0.0.1") from None


def demands_tokens(host: str, auth: bool | None) -> bool:
    """Whether requests need a token: as was said, else wherever other machines can send some."""
    return not is_loopback(host) if auth is None else auth


def exposure(host: str, auth: bool | None, tls: bool, behind_proxy: bool) -> str:
    """Why a server must not listen so; empty when it may. ValueError for what is no address.

    >>> exposure("0.0.0.0", auth=None, tls=False, behind_proxy=False)
    '0.0.0.0 is reachable from other machines and lacks tls'
    """
    if is_loopback(host) or behind_proxy:
        return ""
    needs = {"tokens": demands_tokens(host, auth), "tls": tls}
    lacks = [name for name, given in needs.items() if not given]
    return f"{host} is reachable from other machines and lacks {' and '.join(lacks)}" if lacks else ""


@dataclass(frozen=True)
class Grant:
    """A token as a server knows it."""

    id: str
    sha256: str
    """Of the token's whole text, in hexadecimal."""
    scopes: tuple[str, ...]
    expires_at: datetime | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{8}", self.id) or not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError("a grant without the id or the hash of a token")
        if wrong := "; ".join(filter(None, map(scope_mistake, self.scopes))):
            raise ValueError(wrong)
        if self.expires_at is not None and self.expires_at.tzinfo is None:
            raise ValueError(f"token {self.id} expires at a time without a zone")


@dataclass(frozen=True)
class AccessList:
    """Every token that an endpoint's server honours."""

    endpoint: str
    generation: int
    grants: tuple[Grant, ...]

    def same_as(self, grants: Iterable[Grant]) -> bool:
        """Whether it honours exactly these."""
        return set(self.grants) == set(grants)

    def encode(self) -> bytes:
        return json.dumps(asdict(self), indent=1, default=datetime.isoformat).encode()

    @classmethod
    def decode(cls, raw: bytes) -> AccessList:
        """Read a document; ValueError when it is not one."""
        try:
            d = json.loads(raw)
            return cls(str(d["endpoint"]), int(d["generation"]), tuple(_grant(g) for g in d["grants"]))
        except _NO_LIST as error:
            raise ValueError(f"not an access list: {error!r}") from error


def _grant(given: dict[str, Any]) -> Grant:
    ends = given["expires_at"]
    scopes = tuple(str(scope) for scope in given["scopes"])
    return Grant(given["id"], given["sha256"], scopes, datetime.fromisoformat(ends) if ends else None)
