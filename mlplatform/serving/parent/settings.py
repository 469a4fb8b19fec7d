"""What a server runs with: its command line, and later the document by which a running one is told something else.

`<endpoint>/settings.json`, mode 0600 as a variable may hold a secret, has an id, the words of a command line, and the
variables about traces; then comes SIGUSR1. The answer stands in `server.json`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlplatform.domain.access import demands_tokens, exposure
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.server_settings import TRACES, ServerSettings, digests
from mlplatform.errors import UsageError
from mlplatform.serving.guards import Guards, add_guards
from mlplatform.serving.limits import add_limits, limits_of
from mlplatform.serving.parent.joining import add_port
from mlplatform.serving.telling import Telling, add_telling

FILE = "settings.json"


@dataclass(frozen=True)
class Settings:
    host: str
    port: int
    workers: int
    limits: RequestLimits
    guards: Guards
    telling: Telling
    behind_proxy: bool = False
    traces: Mapping[str, str] = field(default_factory=dict)
    """Variables of the workers' environment that say where traces go."""

    @classmethod
    def of(cls, given: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
        """Raises UsageError for what a server may not be."""
        traces = {name: value for name, value in environment.items() if name.startswith(TRACES)}
        guards, telling = check_guards(given), Telling.of(given)
        limits, proxy = _limits(given), bool(given.behind_proxy)
        return cls(given.host, given.port, given.workers, limits, guards, telling, proxy, traces)

    def words(self) -> list[str]:
        """What each worker is told."""
        return [*self.limits.words(), *self.guards.words(), *self.telling.words()]

    def environment(self, ours: Mapping[str, str]) -> dict[str, str]:
        """Of a worker, made of the parent's."""
        return {**{n: v for n, v in ours.items() if not n.startswith(TRACES)}, **self.traces}

    def needs_others_than(self, before: Settings) -> bool:
        """Whether workers of those settings are none of these."""
        return (self.words(), dict(self.traces)) != (before.words(), dict(before.traces))

    def announced(self, port: int) -> ServerSettings:
        cert, key = self.guards.certificate, self.guards.key
        return ServerSettings(
            self.host,
            port,
            self.workers,
            self.limits,
            "access" if self.telling.access else "events",
            self.guards.auth,
            str(cert or ""),
            str(key or ""),
            self.behind_proxy,
            digests(self.traces),
        )


@dataclass(frozen=True)
class Wish:
    """Settings that a running server is told, by an id that its answer names."""

    id: str
    words: Sequence[str]
    environment: Mapping[str, str] | None
    """None: as it was."""

    @classmethod
    def read(cls, folder: Path) -> Wish | None:
        """None where nothing is wished, or nothing that can be read. Once read it is gone: it may hold a secret."""
        try:
            found: dict[str, Any] = json.loads((folder / FILE).read_bytes())
            (folder / FILE).unlink(missing_ok=True)
            environment = found["environment"]
            known = None if environment is None else {str(k): str(v) for k, v in environment.items()}
            return cls(str(found["id"]), [str(word) for word in found["words"]], known)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def settings(self, now: Settings) -> Settings:
        """Raises UsageError for what a server may not be."""
        try:
            given = parser().parse_args(list(self.words))
        except SystemExit:
            raise UsageError(what=f"{FILE} says what this server does not know; restart it") from None
        return Settings.of(given, now.traces if self.environment is None else self.environment)


def parser() -> argparse.ArgumentParser:
    """Of a server's command line."""
    made = argparse.ArgumentParser(prog="python -m mlplatform.serving.main")
    made.add_argument("--folder", type=Path, required=True, help="the endpoint's folder, with routes.json")
    made.add_argument("--host", default="127.0.0.1")
    made.add_argument("--port", type=int, default=0, help="0 for any free one")
    made.add_argument("--workers", type=_positive, default=1)
    made.add_argument("--adopt", action="store_true", help="take over the port that is kept in the folder")
    made.add_argument("--behind-proxy", action="store_true", help="allow a wide address without TLS")
    add_port(made)
    add_limits(made)
    add_guards(made)
    add_telling(made)
    return made


def check_guards(given: argparse.Namespace) -> Guards:
    """What the server demands, once it is clear that it may listen so. Raises UsageError."""
    if (given.tls_cert is None) != (given.tls_key is None):
        raise UsageError(what="--tls-cert and --tls-key belong together")
    try:
        why = exposure(given.host, given.auth, given.tls_cert is not None, given.behind_proxy)
        auth = demands_tokens(given.host, given.auth)
    except ValueError as error:
        raise UsageError(what=str(error)) from None
    if why:
        hint = "Give --tls-cert and --tls-key, or --behind-proxy where only a proxy can reach it."
        raise UsageError(hint, what=why)
    guards = Guards(auth, given.tls_cert, given.tls_key)
    guards.load_certificate()
    return guards


def _limits(given: argparse.Namespace) -> RequestLimits:
    try:
        return limits_of(given)
    except ValueError as error:
        raise UsageError(what=str(error)) from None


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
