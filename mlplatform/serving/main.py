"""The model server of one endpoint: `python -m mlplatform.serving.main --folder DIR`.

The parent holds the listening sockets, one a worker (SO_REUSEPORT), and starts a worker for each: see `supervisor`.
Another server that takes over the port is handed the sockets: see `handover`.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from pathlib import Path
from typing import IO

from mlplatform.errors import AlreadyRunning, MlplatformError, WorldError
from mlplatform.serving import logs
from mlplatform.serving.parent.handover import adopted
from mlplatform.serving.parent.listening import listen
from mlplatform.serving.parent.pump import pumped
from mlplatform.serving.parent.settings import FILE, Settings, parser
from mlplatform.serving.parent.supervisor import Supervisor
from mlplatform.serving.telling import Telling


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    given = parser().parse_args(arguments)
    try:
        return serve(given)
    except MlplatformError as error:
        _tell(given, error)
        return error.exit_code


def serve(given: argparse.Namespace) -> int:
    folder: Path = given.folder.absolute()
    settings = Settings.of(given, os.environ)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = take_lock(folder)
    except OSError as error:
        raise WorldError(what=f"The folder {folder} cannot be used: {error.strerror}") from error
    with lock:
        _serve_locked(folder, settings, given.keeper, given.adopt)
    return 0


def _serve_locked(folder: Path, settings: Settings, keeper: Path | None, adopts: bool) -> None:
    _clean(folder)
    workers = settings.workers
    listeners = adopted(folder, workers) if adopts else listen(settings.host, settings.port, workers)
    settings.telling.configure("parent")
    with pumped() as pumps:
        supervisor = Supervisor(
            folder, listeners, settings, keeper, adopts, lambda: sum(pump.dropped_lines for pump in pumps)
        )
        try:
            supervisor.start()
            supervisor.watch()
        finally:
            supervisor.stop()
            logs.event("stopped", f"{folder.name} is served no more")
            (folder / "server.json").unlink(missing_ok=True)


def take_lock(folder: Path) -> IO[str]:
    """The lock of a folder, with our pid in it; AlreadyRunning when another server holds it."""
    lock = (folder / "server.lock").open("a+")
    for _ in range(20):  # whoever asks whether a server runs holds the lock for a moment
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            return lock
    lock.seek(0)
    pid = lock.read().strip() or "?"
    lock.close()
    raise AlreadyRunning(what="A model server", pid=pid, address=_address(folder))


def _clean(folder: Path) -> None:
    """What an earlier server left that was killed. We hold the lock: nobody writes here but us."""
    for name in ("server.json", FILE):
        (folder / name).unlink(missing_ok=True)
    for path in (folder / "workers").glob("*"):
        path.unlink(missing_ok=True)
    for kind in ("capture", "inbox"):
        for path in (folder / kind).glob(".*.tmp"):
            path.unlink(missing_ok=True)


def _address(folder: Path) -> str:
    try:
        found = json.loads((folder / "server.json").read_bytes())
        return f", {'https' if found.get('tls') else 'http'}://{found['host']}:{found['port']}"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _tell(given: argparse.Namespace, error: MlplatformError) -> None:
    said = f"{error}. {error.next_step}".rstrip()
    if given.log_style == "text":
        print(f"error: {said}", file=sys.stderr)
        return
    Telling.of(given).configure("parent")
    logs.event("not-started", said, "error", error__type=type(error).__qualname__)


if __name__ == "__main__":
    sys.exit(main())
