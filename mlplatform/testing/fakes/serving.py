"""In-memory fakes of the ports between control plane and servers.

`tests/contracts/test_documents.py`, `test_placements.py` and `test_target.py` run on these and on the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.counts import Counted
from mlplatform.domain.placement import Placement
from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.domain.server_settings import SettingChange
from mlplatform.errors import ServerDidNotFollow, ServerDidNotStart, SettingsRefused, UsageError
from mlplatform.ports.extensions import ServerSpec, ServerState

FAKE_PID = 4242


@dataclass
class FakeDocuments:
    """Port Documents. With `follows`, a worker puts every document into effect as it is published."""

    root: Path = Path("/endpoints")
    follows: bool = True
    refuses: str = ""
    """Why the worker rejects the next document; it takes none until this is empty again."""
    counters: dict[str, Counted] = field(default_factory=dict)
    """What workers would have counted, by endpoint."""
    published: list[Routes] = field(default_factory=list)
    _routes: dict[str, Routes] = field(default_factory=dict)
    _access: dict[str, AccessList] = field(default_factory=dict)
    _workers: dict[str, dict[int, WorkerStatus]] = field(default_factory=dict)

    def folder(self, endpoint: str) -> Path:
        if not endpoint or "/" in endpoint or endpoint.startswith("."):
            raise UsageError(what=f"{endpoint!r} cannot be the name of an endpoint")
        return self.root / endpoint

    def endpoints(self) -> list[str]:
        return sorted({*self._routes, *self._access})

    def routes(self, endpoint: str) -> Routes | None:
        return self._routes.get(endpoint)

    def publish(self, routes: Routes, model: str = "") -> Routes:
        self.folder(routes.endpoint)
        current = self._routes.get(routes.endpoint, Routes(routes.endpoint, 0, ()))
        models = [*routes.models, *([model] if model else [])]
        published = current.with_parts(replace(routes, generation=current.generation + 1), models)
        self._routes[routes.endpoint] = published
        self.published.append(published)
        if self.follows:
            self.report(routes.endpoint, self._followed(published))
        return published

    def access(self, endpoint: str) -> AccessList | None:
        return self._access.get(endpoint)

    def grant(self, endpoint: str, read: Callable[[], tuple[Grant, ...]]) -> AccessList:
        self.folder(endpoint)
        known, grants = self._access.get(endpoint), read()
        if known is None or not known.same_as(grants):
            known = AccessList(endpoint, known.generation + 1 if known else 1, grants)
            self._access[endpoint] = known
        return known

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        return list(self._workers.get(endpoint, {}).values())

    def counted(self, endpoint: str) -> Counted:
        return self.counters.get(endpoint, Counted())

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float, model: str = "") -> None:
        workers = self.workers(endpoint)
        rejected = [why for w in workers if (why := w.refuses(generation, model))]
        behind = [w for w in workers if w.serves(model) < generation]
        if rejected or behind or not workers:
            cause = (
                rejected[0] if rejected else "no worker has started" if not workers else "a worker is behind"
            )
            log = self.folder(endpoint) / "server.log"
            raise ServerDidNotFollow(
                endpoint=endpoint, generation=generation, seconds=seconds, cause=cause, log=log
            )

    def report(self, endpoint: str, status: WorkerStatus) -> None:
        """What a worker would write into its status file."""
        self._workers.setdefault(endpoint, {})[status.pid] = status

    def _followed(self, routes: Routes) -> WorkerStatus:
        before = self._workers.get(routes.endpoint, {}).get(FAKE_PID, WorkerStatus(FAKE_PID, 0))
        if self.refuses:
            return replace(before, rejected=routes.generation, error=self.refuses)
        return replace(before, generation=routes.generation, rejected=None, error="")


@dataclass
class FakePlacements:
    """Port Placements."""

    _placed: dict[str, Placement] = field(default_factory=dict)

    def placement(self, endpoint: str) -> Placement | None:
        return self._placed.get(endpoint)

    def place(self, endpoint: str, placement: Placement | None) -> None:
        self._placed.pop(endpoint, None)
        if placement is not None:
            self._placed[endpoint] = placement


@dataclass
class FakeTarget:
    """Port Target: remembers what should run."""

    takes_over_from: ClassVar[frozenset[str]] = frozenset()

    fails: str = ""
    """Why the next server does not start, or the one that runs refuses other settings."""
    started: list[ServerSpec] = field(default_factory=list)
    _states: dict[Path, ServerState] = field(default_factory=dict)
    _ports: dict[Path, int] = field(default_factory=dict)

    def apply(self, desired: ServerSpec) -> ServerState:
        state = self._states.get(desired.folder)
        if state is not None and not self.changes(desired):
            return state
        if self.fails:
            error = SettingsRefused if state else ServerDidNotStart
            raise error(endpoint=desired.endpoint, cause=self.fails, log=desired.folder / "server.log")
        self.started.append(desired)
        desired = desired.settled(state.settings if state else None)
        port = desired.port or self._ports.setdefault(desired.folder, 40_000 + len(self.started))
        guards = desired.auth, desired.tls is not None
        state = ServerState(
            desired.endpoint,
            True,
            desired.host,
            port,
            FAKE_PID,
            *guards,
            replace(desired.settings, port=port),
        )
        self._states[desired.folder] = state
        return state

    def changes(self, desired: ServerSpec) -> tuple[SettingChange, ...]:
        running = self.status(desired.folder).settings
        return running.changes(desired.settings) if running else ()

    def status(self, folder: Path) -> ServerState:
        return self._states.get(folder, ServerState(folder.name, running=False))

    def stop(self, folder: Path, keep_port: bool = False) -> None:
        self._states.pop(folder, None)
