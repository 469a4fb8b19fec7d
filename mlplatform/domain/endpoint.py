"""The server of a stage, as `policy.toml` says it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlplatform.domain.access import demands_tokens, exposure
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.use import Use


@dataclass(frozen=True)
class Tls:
    cert: str
    """PEM file with the server's certificate and its chain, relative to the policy."""
    key: str
    """PEM file with its private key, relative to the policy; nobody but its owner may read it (mode 0600)."""
    ca: str | None = None
    """PEM file with the authority by which `mlplatform predict` checks certificate and name; without it, it trusts
    exactly the certificate in `cert`, whatever name that bears."""


@dataclass(frozen=True)
class Endpoint:
    name: str
    """What `predict`, `label` and the server's folder are called by."""
    target: str | None = None
    """Where the server runs. Unset, and without `options`: where `mlplatform deploy --target` put it, `local` until
    then."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the target, for example `{ memory_mb = 4000 }` of `docker`."""
    port: int = 0
    """0 takes any free one, and keeps it."""
    workers: int = 1
    """Processes that share the port."""
    memory_mb: int = 0
    """Millions of bytes that the loaded models of one worker may take; those that were asked the longest ago make room
    and are loaded again at their next request. 0 is no limit. For endpoints that several models name."""
    max_waiting_per_model: int = 256
    """Requests of this model that may wait for a thread of a worker; the next gets 429. So one slow model does not take
    what the others of an endpoint need."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs tokens and `tls`, or `behind_proxy`."""
    auth: bool | None = None
    """Whether requests need a token with a scope for them. Unset: where other machines can reach the address."""
    tls: Tls | None = None
    """Speak https, TLS 1.2 or newer."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    """What each worker takes on; `mlplatform deploy` brings it into effect without a request that fails."""
    log: Literal["events", "access"] = "events"
    """What the server writes to `server.log`: what happens to it, or a line for each request too."""
    behind_proxy: bool = False
    """A proxy stands before it, and other machines reach only that: then a wide `host` needs no `tls`, and no tokens
    where `auth = false`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,62}", self.name):
            raise ValueError(f"endpoint {self.name!r}: write letters, digits, - and _; it names a folder")
        if not 0 <= self.port <= 65535 or self.workers < 1:
            raise ValueError("port must be between 0 and 65535, workers at least 1")
        if self.memory_mb < 0 or self.max_waiting_per_model < 1:
            raise ValueError("memory_mb must be at least 0 (no limit), max_waiting_per_model at least 1")
        if why := exposure(self.host, self.auth, self.tls is not None, self.behind_proxy):
            raise ValueError(f"{why}; or say behind_proxy = true where a proxy stands before it")

    @property
    def demands_tokens(self) -> bool:
        return demands_tokens(self.host, self.auth)

    @property
    def runs_on(self) -> Use:
        """The target with its options, as the policy has it."""
        return Use(self.target or "local", self.options)

    @property
    def leaves_target_open(self) -> bool:
        """Whether a command may choose it."""
        return self.target is None and not self.options
