"""Settings of a model server: what its policy wants, what runs, and what differs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from mlplatform.domain.limits import RequestLimits

TRACES = "OTEL_"
"""Variables of the environment that say where traces go, by how their names begin."""
DECIDES_TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED")


@dataclass(frozen=True)
class SettingChange:
    """A setting by the name that it has in a policy, or of a variable."""

    name: str
    old: Any
    new: Any

    def __str__(self) -> str:
        if not self.name.startswith(TRACES):
            return f"{self.name} {_written(self.old)} -> {_written(self.new)}"
        # Only digests are known: a header may be a secret.
        return f"{self.name} {'added' if self.old is None else 'removed' if self.new is None else 'changed'}"


@dataclass(frozen=True)
class ServerSettings:
    """What a server runs with."""

    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 1
    limits: RequestLimits = field(default_factory=RequestLimits)
    log: Literal["events", "access"] = "events"
    auth: bool = False
    tls_cert: str = ""
    """Absolute path; empty without TLS."""
    tls_key: str = ""
    behind_proxy: bool = False
    traces: Mapping[str, str] = field(default_factory=dict)
    """By variable a digest of its value; none: nothing is said of traces."""

    def settled(self, wanted: ServerSettings) -> ServerSettings:
        """`wanted`, but for what a running server keeps: its port where any will do, tokens and TLS where it demands
        more than is wanted (a server is opened by ending it first), traces where nothing is said of them."""
        port, auth = wanted.port or self.port, wanted.auth or self.auth
        wanted = replace(wanted, port=port, auth=auth, traces=wanted.traces or self.traces)
        if not wanted.tls_cert:
            wanted = replace(wanted, tls_cert=self.tls_cert, tls_key=self.tls_key)
        return wanted

    def changes(self, wanted: ServerSettings) -> tuple[SettingChange, ...]:
        """What would become of a server that runs with these settings."""
        ours, theirs = self.flat(), self.settled(wanted).flat()
        names = dict.fromkeys([*ours, *theirs])
        found = [SettingChange(name, ours.get(name), theirs.get(name)) for name in names]
        return tuple(change for change in found if change.old != change.new)

    def flat(self) -> dict[str, Any]:
        """By the names that a policy gives them."""
        return {
            "host": self.host,
            "port": self.port,
            "workers": self.workers,
            **{f"limits.{name}": value for name, value in asdict(self.limits).items()},
            "log": self.log,
            "auth": self.auth,
            "tls.cert": self.tls_cert,
            "tls.key": self.tls_key,
            "behind_proxy": self.behind_proxy,
            **self.traces,
        }

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, found: Any) -> ServerSettings | None:
        """What `to_dict` wrote; None for anything else, as from another release."""
        try:
            return cls(**{**found, "limits": RequestLimits(**found["limits"])})
        except (KeyError, TypeError, ValueError):
            return None


def traces_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables about traces, where they decide something."""
    if not any(environment.get(name) for name in DECIDES_TRACES):
        return {}
    return {name: value for name, value in sorted(environment.items()) if name.startswith(TRACES)}


def digests(traces: Mapping[str, str]) -> dict[str, str]:
    """To be compared and shown: a value may hold a secret."""
    return {name: hashlib.sha256(value.encode()).hexdigest()[:12] for name, value in sorted(traces.items())}


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value in ("", None) else str(value)
