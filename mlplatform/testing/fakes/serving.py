"""In-memory fakes of the ports between control plane and servers.

`tests/contracts/test_documents.py` and `test_target.py` run on these and on the real ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.errors import ServerDidNotFollow, ServerDidNotStart, UsageError
from mlplatform.ports.extensions import ServerSpec, ServerState

FAKE_PID = 4242


@dataclass
class FakeDocuments:
    """Port Documents. With `follows`, a worker puts every document into effect as it is published."""

    root: Path = Path("/endpoints")
    follows: bool = True
    refuses: str = ""
    """Why the worker rejects the next document; it takes none until this is empty again."""
    published: list[Routes] = field(default_factory=list)
    _routes: dict[str, Routes] = field(default_factory=dict)
    _workers: dict[str, dict[int, WorkerStatus]] = field(default_factory=dict)

    def folder(self, endpoint: str) -> Path:
        if not endpoint or "/" in endpoint or endpoint.startswith("."):
            raise UsageError(what=f"{endpoint!r} cannot be the name of an endpoint")
        return self.root / endpoint

    def endpoints(self) -> list[str]:
        return sorted(self._routes)

    def routes(self, endpoint: str) -> Routes | None:
        return self._routes.get(endpoint)

    def publish(self, routes: Routes) -> Routes:
        self.folder(routes.endpoint)
        current = self._routes.get(routes.endpoint)
        published = replace(routes, generation=current.generation + 1 if current else 1)
        self._routes[routes.endpoint] = published
        self.published.append(published)
        if self.follows:
            self.report(routes.endpoint, self._followed(published))
        return published

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        return list(self._workers.get(endpoint, {}).values())

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float) -> None:
        workers = self.workers(endpoint)
        rejected = [w.error for w in workers if w.generation < generation and w.rejected == generation]
        behind = [w for w in workers if w.generation < generation]
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
class FakeTarget:
    """Port Target: remembers what should run."""

    fails: str = ""
    """Why the next server does not start."""
    started: list[ServerSpec] = field(default_factory=list)
    _states: dict[Path, ServerState] = field(default_factory=dict)
    _ports: dict[Path, int] = field(default_factory=dict)

    def apply(self, desired: ServerSpec) -> ServerState:
        if (state := self._states.get(desired.folder)) is not None:
            return state
        if self.fails:
            log = desired.folder / "server.log"
            raise ServerDidNotStart(endpoint=desired.endpoint, cause=self.fails, log=log)
        self.started.append(desired)
        port = desired.port or self._ports.setdefault(desired.folder, 40_000 + len(self.started))
        state = ServerState(desired.endpoint, True, desired.host, port, FAKE_PID)
        self._states[desired.folder] = state
        return state

    def status(self, folder: Path) -> ServerState:
        return self._states.get(folder, ServerState(folder.name, running=False))

    def stop(self, folder: Path) -> None:
        self._states.pop(folder, None)
