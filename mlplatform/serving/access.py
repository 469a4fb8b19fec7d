"""Who may ask for what: the tokens of `access.json`, followed as the router follows `routes.json`.

Deny by default: every page needs a scope unless it is listed as open, and without a readable list nobody holds one. A
damaged list leaves the last good one in effect; one that is gone leaves nobody. A token's text is hashed and forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mlplatform.domain.access import LABELS, METRICS, PREDICT, AccessList, Grant
from mlplatform.serving import logs
from mlplatform.serving.files import Stat, stat_of
from mlplatform.serving.problems import Forbidden, Problem, Unauthorized

LOOK_SECONDS = 0.05
DETAILED = frozenset({"/health", "/v2/health/ready"})
"""Open pages that tell more to who holds a token."""
OPEN = frozenset({"/ping", "/v2/health/live", *DETAILED})
"""Pages that load balancers ask, without a token."""
_NEEDS_ALL = {"/invocations": PREDICT, "/labels": LABELS}
"""Paths that name no model: any of the endpoint's may be meant, so the scope must hold for all of them."""
_NOBODY = hashlib.sha256(b"").digest()
_ID = slice(4, 12)
"""Of `mlp_<id>_<secret>_<checksum>`."""


class Holder(NamedTuple):
    """A token's id, hash, scopes and end, in the form in which they are compared."""

    id: str
    digest: bytes
    scopes: frozenset[str]
    ends: float = math.inf

    def may(self, kind: str, model: str) -> bool:
        return f"{kind}:{model}" in self.scopes or f"{kind}:*" in self.scopes


class Access:
    """The access list of one worker. Not `demanded`, everybody may ask for everything."""

    def __init__(self, folder: Path, demanded: bool, now: Callable[[], float] = time.time) -> None:
        self.demanded = demanded
        self._path = folder / "access.json"
        self._now = now
        self._holders: dict[bytes, Holder] = {}
        self._generation = 0
        self._error = "access.json is missing: nobody's token holds"
        self._seen: Stat | None = None

    def check(
        self, headers: Iterable[tuple[bytes, bytes]], page: str, model: str, here: Collection[str]
    ) -> None:
        """Raises Unauthorized or Forbidden. `page` and `model` as in `paths.Place`; `here`: the models in service."""
        if not self.demanded or page in OPEN:
            return
        holder = self.holder(headers)
        if missing := _missing(holder, page, model, here):
            raise Forbidden(missing)

    def sees_details(self, headers: Iterable[tuple[bytes, bytes]], here: Collection[str]) -> bool:
        """Whether who asks may know what is served and what is wrong with it: by `metrics`, or by a scope for the
        predictions of one of the models in service. Any other token is as good as none: an open page refuses nobody."""
        if not self.demanded:
            return True
        try:
            holder = self.holder(headers)
        except Unauthorized:
            return False
        return METRICS in holder.scopes or not _missing(holder, "", "", here)

    def gate(self, path: str, headers: Iterable[tuple[bytes, bytes]]) -> Problem | None:
        """Why nobody should wait for the body of a request: it carries no token that holds."""
        try:
            if path not in OPEN:
                self.holder(headers)
        except Unauthorized as problem:
            return problem
        return None

    def holder(self, headers: Iterable[tuple[bytes, bytes]]) -> Holder:
        """Whose token a request carries; Unauthorized for none, two, or one that does not hold."""
        given: bytes | None = None
        for name, value in headers:
            if name == b"authorization":
                if given is not None:
                    raise Unauthorized("send one Authorization header")
                given = value
        if given is None:
            raise Unauthorized("send a token: Authorization: Bearer mlp_...")
        if given[:7].lower() != b"bearer ":
            raise Unauthorized("expected Authorization: Bearer, followed by a token")
        text = given[7:].strip()
        holder = self._holders.get(text[_ID])
        digest = hashlib.sha256(text).digest()
        if not hmac.compare_digest(holder.digest if holder else _NOBODY, digest) or holder is None:
            raise Unauthorized("this token does not hold here", error="invalid_token")
        if holder.ends <= self._now():
            raise Unauthorized(f"token {holder.id} has expired", error="invalid_token")
        return holder

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Look at the list for ever; `on_change` is called when it has changed."""
        while self.demanded:
            await asyncio.sleep(LOOK_SECONDS)
            if self.look():
                on_change()

    def look(self) -> bool:
        """Put the list into effect if it is a new one; whether it was."""
        if not self.demanded or (stat := stat_of(self._path)) == self._seen:
            return False
        self._seen = stat
        if stat is None:
            self._holders, self._generation = {}, 0
            self._error = "access.json is gone: nobody's token holds"
            logs.event("access-rejected", f"access: {self._error}", "error")
        else:
            self._read()
        return True

    def health(self) -> dict[str, Any]:
        """Which list is in effect, and why a newer one is not."""
        if not self.demanded:
            return {}
        return {"access": {"generation": self._generation, "error": self._error}}

    def _read(self) -> None:
        try:
            document = AccessList.decode(self._path.read_bytes())
            holders = {grant.id.encode(): _holder(grant) for grant in document.grants}
        except (OSError, ValueError, OverflowError) as error:
            self._error = f"access.json was not taken, the one before holds: {error}"[:600]
            logs.event("access-rejected", f"access: {self._error}", "error")
            return
        self._holders, self._generation, self._error = holders, document.generation, ""
        said = f"access: generation {document.generation} in effect: {len(self._holders)} tokens"
        logs.event("access-in-effect", said)


def _missing(holder: Holder, page: str, model: str, here: Collection[str]) -> str:
    """The scope that a holder lacks for a page; empty when none."""
    if page == "/metrics":
        return "" if METRICS in holder.scopes else METRICS
    kind = _NEEDS_ALL.get(page, PREDICT)
    wanted = [model] if model else list(here) or ["*"]
    lacking = [name for name in wanted if not holder.may(kind, name)]
    enough = not lacking if model or page in _NEEDS_ALL else len(lacking) < len(wanted)
    return "" if enough else f"{kind}:{min(lacking)[:100]}"


def _holder(grant: Grant) -> Holder:
    ends = math.inf if grant.expires_at is None else grant.expires_at.timestamp()
    return Holder(grant.id, bytes.fromhex(grant.sha256), frozenset(grant.scopes), ends)
