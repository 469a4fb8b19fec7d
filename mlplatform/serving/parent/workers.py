"""The processes of a server's workers, as its parent sees them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform.domain.routes import WorkerStatus
from mlplatform.serving.parent.settings import Settings

STOP_SECONDS = 20.0
"""A worker that has not ended by then is killed; it needs half of it for its requests."""


@dataclass(eq=False)
class Child:
    """A worker's process. A byte through its lifeline tells one that waits to take connections; closing it, that nobody
    takes its place."""

    process: subprocess.Popen[bytes]
    settings: Settings
    lifeline: int
    started_at: float = field(default_factory=time.monotonic)
    killed_at: float = 0.0
    """When it is killed, once it was told to end."""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def status(self, folder: Path) -> WorkerStatus | None:
        """What it serves; None until it has loaded what it was told."""
        try:
            return WorkerStatus.decode((folder / "workers" / f"{self.pid}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def why_not(self, folder: Path) -> str | None:
        """Why it should not take over: it would not serve all that is to be served, as one does that has it in memory;
        "" while it starts, None when it may."""
        status = self.status(folder)
        if status is None:
            return ""
        broken = status.rejected is not None or any((status.behind or {}).values())
        return f"a worker that starts now would not serve what is served: {status.error}" if broken else None

    def open(self) -> None:
        with suppress(BrokenPipeError):  # it has just ended
            os.write(self.lifeline, b".")

    def tell_to_end(self) -> None:
        """To be repeated: one that has just begun ignores it."""
        now = time.monotonic()
        self.killed_at = self.killed_at or now + STOP_SECONDS
        if not self.has_ended:
            self.process.send_signal(signal.SIGTERM if now < self.killed_at else signal.SIGKILL)

    def cut(self) -> None:
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def wait_until_ended(self) -> None:
        """At the latest `STOP_SECONDS` after it was told to."""
        try:
            self.process.wait(max(0.0, self.killed_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.cut()


@dataclass(eq=False)
class Place:
    """A worker's place: its socket, the process in it, and the one that takes over from it."""

    listener: socket.socket
    number: int
    child: Child | None = None
    successor: Child | None = None
    early_deaths: int = 0
    start_again_at: float = 0.0

    @property
    def children(self) -> list[Child]:
        return [child for child in (self.child, self.successor) if child is not None]


def spawn(
    folder: Path, place: Place, settings: Settings, keeper: Path | None, of: int, waits: bool = False
) -> Child:
    """Start a worker on a place's socket; it ends when our end of the pipe is closed, so also when we are gone.
    `waits`: it takes no connection until it is told to."""
    theirs, ours = os.pipe()
    listener = place.listener.fileno()
    command = [sys.executable, "-P", "-m", "mlplatform.serving.worker", "--folder", str(folder)]
    command += ["--listener", str(listener), "--lifeline", str(theirs), "--worker", str(place.number)]
    command += [*settings.words(), *["--wait"] * waits]
    if keeper is not None:
        command += ["--keeper", str(keeper), "--of", str(of)]
    environment = settings.environment(os.environ)
    try:
        process = subprocess.Popen(
            command, pass_fds=(listener, theirs), stdin=subprocess.DEVNULL, env=environment
        )
    except OSError:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Child(process, settings, ours)
