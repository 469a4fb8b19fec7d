"""The folder that control plane and servers share, one a endpoint; see `mlplatform.domain.routes`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlplatform.domain.access import AccessList, Grant
from mlplatform.domain.counts import Counted
from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.errors import ServerDidNotFollow, UsageError

POLL_SECONDS = 0.01
STOPPED_SECONDS = 1.0
"""A server that is nowhere to be seen for so long was stopped; one that moves to another target shows up again."""
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
        """Endpoints that were told something."""
        told = (path for name in ("routes.json", "access.json") for path in self._root.glob(f"*/{name}"))
        return sorted({path.parent.name for path in told})

    def routes(self, endpoint: str) -> Routes | None:
        """The document that was published last; ValueError when what is there is none."""
        try:
            return Routes.decode((self.folder(endpoint) / "routes.json").read_bytes())
        except FileNotFoundError:
            return None

    def publish(self, routes: Routes, model: str = "") -> Routes:
        """Put the models that `routes` names, and `model`, into the endpoint's document, atomically and durably; the
        other models of the endpoint keep what they have."""
        folder = self.folder(routes.endpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "routes.lock"):
            _sweep(folder, "routes.json")
            published = self._current(routes.endpoint).with_parts(
                replace(routes, generation=self._newest_generation(routes.endpoint) + 1),
                dict.fromkeys([*routes.models, *([model] if model else [])]),
            )
            replace_durably(folder / "routes.json", published.encode())
        return published

    def access(self, endpoint: str) -> AccessList | None:
        """The access list that was written last; ValueError when what is there is none."""
        try:
            return AccessList.decode((self.folder(endpoint) / "access.json").read_bytes())
        except FileNotFoundError:
            return None

    def grant(self, endpoint: str, read: Callable[[], tuple[Grant, ...]]) -> AccessList:
        """Write who may ask its server, with the next number, atomically; nothing when it says so already.

        `read` is called while nobody else can write: who writes last has read last.
        """
        folder = self.folder(endpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "access.lock"):
            _sweep(folder, "access.json")
            try:
                known = self.access(endpoint)
            except ValueError:  # damaged: written anew
                known = None
            grants = read()
            if known is not None and known.same_as(grants):
                return known
            written = AccessList(endpoint, known.generation + 1 if known else 1, grants)
            replace_durably(folder / "access.json", written.encode())
        return written

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        """Workers whose process is alive. A container's process ids are not ours: its server removes the file of a
        worker that has ended."""
        folder = self.folder(endpoint)
        contained = any((folder / name).exists() for name in ("active", "external"))
        found = [_status(path) for path in sorted((folder / "workers").glob("*.json"))]
        return [status for status in found if status is not None and (contained or _alive(status.pid))]

    def counted(self, endpoint: str) -> Counted:
        """What its workers have counted, up to about a second ago; a file that is just being replaced is left out."""
        found = []
        # The parent's last: a worker's file goes only once the parent's has what was in it.
        for path in sorted(
            (self.folder(endpoint) / "workers").glob("*.metrics"), key=lambda p: p.name == "parent.metrics"
        ):
            try:
                Counted.read([document := json.loads(path.read_bytes())])
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            found.append(document)
        return Counted.read(found)

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float, model: str = "") -> None:
        """Return once every worker serves the generation or a newer one, of the model if one is named; raises
        ServerDidNotFollow, at once when a worker has rejected it, and soon when the server is stopped."""
        deadline, seen = time.monotonic() + seconds, time.monotonic()
        expected = self._expected_workers(endpoint)
        while cause := _why_not(workers := self.workers(endpoint), generation, model, expected):
            seen = time.monotonic() if workers or self._is_announced(endpoint) else seen
            stopped = time.monotonic() >= seen + STOPPED_SECONDS
            cause = "it was stopped meanwhile" if stopped else cause
            if stopped or cause.startswith("worker") or time.monotonic() >= deadline:
                log = self.folder(endpoint) / "server.log"
                raise ServerDidNotFollow(
                    endpoint=endpoint, generation=generation, seconds=seconds, cause=cause, log=log
                )
            time.sleep(POLL_SECONDS)

    def _current(self, endpoint: str) -> Routes:
        try:
            return self.routes(endpoint) or Routes(endpoint, 0, ())
        except ValueError:  # damaged: each model's part comes back with its next publish
            return Routes(endpoint, 0, ())

    def _newest_generation(self, endpoint: str) -> int:
        """A document that was lost or damaged must not let the numbers start again while servers run."""
        seen = [status.generation for status in self.workers(endpoint)]
        try:
            if (current := self.routes(endpoint)) is not None:
                seen.append(current.generation)
        except ValueError:
            seen += [max(status.rejected or 0, status.taken) for status in self.workers(endpoint)]
        return max(seen, default=0)

    def _is_announced(self, endpoint: str) -> bool:
        """Whether a server runs, or was killed: one that is stopped takes its announcement away."""
        return (self.folder(endpoint) / "server.json").exists()

    def _expected_workers(self, endpoint: str) -> int:
        try:
            return int(json.loads((self.folder(endpoint) / "server.json").read_bytes()).get("workers", 1))
        except (OSError, ValueError, AttributeError, TypeError):
            return 1


def _why_not(workers: list[WorkerStatus], generation: int, model: str, expected: int) -> str:
    """Why a generation is not in effect; "" when it is. Begins with "worker" when waiting longer will not
    help."""
    for status in workers:
        if why := status.refuses(generation, model):
            return f"worker {status.pid} rejected it: {why}"
    behind = [status for status in workers if status.serves(model) < generation]
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


def _sweep(folder: Path, name: str) -> None:
    """Remove what killed processes were writing. The caller holds the document's lock."""
    for left in folder.glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


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
