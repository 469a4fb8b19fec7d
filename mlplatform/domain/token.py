"""A token makes an actor verified: `mlp_<id>_<secret>_<checksum>`. Only its SHA-256 is kept.

The id names the token in lists and entries and is no secret. The checksum tells a mistyped token from a wrong one, as
GitHub's do, without asking any database.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from zlib import crc32

from mlplatform.domain.access import scope_mistake
from mlplatform.domain.ledger import Actor
from mlplatform.errors import MistypedToken

ADMIN = "admin"
"""The role that may add and revoke tokens. It approves nothing by itself."""
ROLE = r"[a-z][a-z0-9_\-]{0,30}"
OWNER = r"[A-Za-z0-9][A-Za-z0-9_.@\-]{0,62}"
RESERVED = ("mlflow", "monitor", "reconcile")
"""Actors of the platform itself."""
ID_BYTES, SECRET_BYTES = 4, 24
_WHOLE = re.compile(r"mlp_([0-9a-f]{8})_([0-9a-f]{48})_([0-9a-f]{8})")


@dataclass(frozen=True)
class Token:
    """All that may be shown of a token."""

    id: str
    owner: str
    roles: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoked_by: str | None = None
    scopes: tuple[str, ...] = ()
    """What it may ask model servers for."""

    def __post_init__(self) -> None:
        if not re.fullmatch(OWNER, self.owner) or self.owner.lower() in RESERVED:
            raise ValueError(
                f"owner {self.owner!r}: write letters, digits, ., @, - and _; {', '.join(RESERVED)} are taken"
            )
        for role in self.roles:
            if not re.fullmatch(ROLE, role):
                raise ValueError(f"role {role!r}: write lower-case letters, digits, - and _")
        if wrong := "; ".join(filter(None, map(scope_mistake, self.scopes))):
            raise ValueError(wrong)

    @property
    def is_machine(self) -> bool:
        """Whether it only speaks to model servers: who holds it is nobody at the command line."""
        return bool(self.scopes) and not self.roles

    def why_not(self, now: datetime) -> str:
        """Why it does not hold at a moment; empty when it does."""
        if self.revoked_at is not None:
            return f"it was revoked on {self.revoked_at:%Y-%m-%d %H:%M}"
        if self.expires_at is not None and self.expires_at <= now:
            return f"it expired on {self.expires_at:%Y-%m-%d %H:%M}"
        return ""


@dataclass(frozen=True)
class Identity:
    """Who acts, and what they may do. Without a token: nobody's roles, unverified."""

    actor: Actor
    roles: tuple[str, ...] = ()
    token: str = ""
    """Id of the token."""


def compose(id: str, secret: str) -> str:
    """The token's text."""
    return f"mlp_{id}_{secret}_{_checksum(id, secret)}"


def id_of(text: str, source: str) -> str:
    """The id in a token's text; raises MistypedToken, which does not repeat the text."""
    match = _WHOLE.fullmatch(text)
    if not match:
        raise MistypedToken(source=source, why="a token looks like mlp_<id>_<secret>_<checksum>")
    if match[3] != _checksum(match[1], match[2]):
        raise MistypedToken(
            source=source, why="its checksum does not fit, so a character was lost or changed"
        )
    return match[1]


def hashed(text: str) -> str:
    """What is kept of a token: 192 random bits need no salt and no slow hash."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(id: str, secret: str) -> str:
    return f"{crc32(f'mlp_{id}_{secret}'.encode()):08x}"
