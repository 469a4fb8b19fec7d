"""A model server that something else starts and stops: docker compose, a cluster, systemd."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from mlplatform.domain.server_settings import SettingChange
from mlplatform.errors import ServerDidNotStart, UsageError
from mlplatform.plugins.targets.folder import announced, lock_held
from mlplatform.plugins.targets.local import answers
from mlplatform.ports.extensions import ServerSpec, ServerState

POLL_SECONDS = 0.1


@dataclass(frozen=True)
class ExternalTarget:
    """A server that something else starts and stops, for example docker compose; it shares the endpoint's folder with
    us. Models are put into it as into any other.

    url: where it answers, as seen from here.
    start_seconds: how long to wait for one that is just starting.
    """

    takes_over_from: ClassVar[frozenset[str]] = frozenset()

    url: str
    start_seconds: float = 60.0

    def __post_init__(self) -> None:
        if urlsplit(self.url).scheme not in ("http", "https") or not urlsplit(self.url).port:
            raise ValueError(f"url {self.url!r}: write for example http://server:8080")

    def apply(self, desired: ServerSpec) -> ServerState:
        """Wait until it answers. Raises ServerDidNotStart."""
        desired.folder.mkdir(parents=True, exist_ok=True)
        (desired.folder / "external").touch()
        deadline = time.monotonic() + self.start_seconds
        while not ((state := self.status(desired.folder)).running and answers(state, desired.tls)):
            if time.monotonic() > deadline:
                cause = (
                    f"nothing that serves {desired.folder} answers at {self.url}; start it where it is run"
                )
                log = desired.folder / "server.log"
                raise ServerDidNotStart(endpoint=desired.endpoint, cause=cause, log=log)
            time.sleep(POLL_SECONDS)
        return state

    def status(self, folder: Path) -> ServerState:
        """Running while somebody holds the folder's lock."""
        found = announced(folder)
        if not found or not lock_held(folder):
            return ServerState(folder.name, running=False)
        at = urlsplit(self.url)
        guards = found.get("auth") is True, at.scheme == "https"
        return ServerState(folder.name, True, at.hostname or "", at.port or 0, 0, *guards)

    def changes(self, desired: ServerSpec) -> tuple[SettingChange, ...]:
        """None: its settings stand where it is started."""
        return ()

    def stop(self, folder: Path, keep_port: bool = False) -> None:
        """Raises UsageError while it runs: that is not ours to do."""
        if self.status(folder).running:
            raise UsageError(
                "Stop it where it was started.", what=f"the server of {folder.name} is run by something else"
            )
        (folder / "external").unlink(missing_ok=True)
