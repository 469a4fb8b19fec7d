"""The folder that control plane and servers share, one a endpoint; see `mlplatform.domain.routes`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.errors import ServerDidNotFollow, UsageError

POLL_SECONDS = 0.01
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


class FolderDocuments:
    """Documents in folders below `root`: port `Documents`."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, endpoint: str) -> Path:
        """Its place, whether or not it is there; UsageError for a name that is no file name."""
        if not _NAME.fullmatch(endpoint):
            hint = "Use letters, digits, '_', '-' and '.', at most 100."
            raise UsageError(hint, what=f"{endpoint!r} cannot be the name of an endpoint")
        return self._root / endpoint

    def endpoints(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob("*/routes.json"))

    def routes(self, endpoint: str) -> Routes | None:
        """The document that was published last; ValueError when what is there is none."""
        try:
            return Routes.decode((self.folder(endpoint) / "routes.json").read_bytes())
        except FileNotFoundError:
            return None

    def publish(self, routes: Routes) -> Routes:
        """Write the document with the next generation number, atomically and durably."""
        folder = self.folder(routes.endpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "routes.lock"):
            for left in folder.glob(".routes.json.*.tmp"):  # by a process that was killed: we hold the lock
                left.unlink(missing_ok=True)
            published = replace(routes, generation=self._newest_generation(routes.endpoint) + 1)
            replace_durably(folder / "routes.json", published.encode())
        return published

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        """Workers whose process is alive."""
        found = [_status(path) for path in sorted((self.folder(endpoint) / "workers").glob("*.json"))]
        return [status for status in found if status is not None and _alive(status.pid)]

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float) -> None:
        """Return once every worker serves the generation or a newer one; raises ServerDidNotFollow, at once
        when a worker has rejected it."""
        deadline = time.monotonic() + seconds
        expected = self._expected_workers(endpoint)
        while cause := _why_not(self.workers(endpoint), generation, expected):
            rejected = cause.startswith("worker")
            if rejected or time.monotonic() >= deadline:
                log = self.folder(endpoint) / "server.log"
                raise ServerDidNotFollow(
                    endpoint=endpoint, generation=generation, seconds=seconds, cause=cause, log=log
                )
            time.sleep(POLL_SECONDS)

    def _newest_generation(self, endpoint: str) -> int:
        """A document that was lost or damaged must not let the numbers start again while servers run."""
        seen = [status.generation for status in self.workers(endpoint)]
        try:
            if (current := self.routes(endpoint)) is not None:
                seen.append(current.generation)
        except ValueError:
            seen += [status.rejected or 0 for status in self.workers(endpoint)]
        return max(seen, default=0)

    def _expected_workers(self, endpoint: str) -> int:
        try:
            return int(json.loads((self.folder(endpoint) / "server.json").read_bytes()).get("workers", 1))
        except (OSError, ValueError, AttributeError, TypeError):
            return 1


def _why_not(workers: list[WorkerStatus], generation: int, expected: int) -> str:
    """Why a generation is not in effect; "" when it is. Begins with "worker" when waiting longer will not
    help."""
    for status in workers:
        if status.generation < generation and status.rejected == generation:
            return f"worker {status.pid} rejected it: {status.error}"
    behind = [status for status in workers if status.generation < generation]
    if len(workers) < expected:
        return f"{len(workers)} of {expected} workers have started" if workers else "no worker has started"
    return f"{len(behind)} of {len(workers)} workers still serve an older one" if behind else ""


def _status(path: Path) -> WorkerStatus | None:
    try:
        return WorkerStatus.decode(path.read_bytes())
    except (OSError, ValueError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def replace_durably(path: Path, content: bytes) -> None:
    """The old file or the new one, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
