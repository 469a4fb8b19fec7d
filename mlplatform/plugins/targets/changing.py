"""Tells a running server on this machine other settings (`serving.parent.settings`), and waits for their effect."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mlplatform.errors import SettingsHalfway, SettingsRefused
from mlplatform.plugins.targets.folder import announced, last_line, lock_held, send

POLL_SECONDS = 0.02
FILE = "settings.json"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else tells this server other settings meanwhile."""
    with (folder / "settings.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def tell(
    folder: Path,
    words: Sequence[str],
    traces: Mapping[str, str],
    in_effect: Callable[[], bool],
    patience_seconds: float,
) -> None:
    """Returns once no worker of the settings before is left. Raises SettingsRefused with the server's reason;
    SettingsHalfway where it takes too long: what it is doing then it goes on doing."""
    wish, pid = uuid4().hex, int(announced(folder)["pid"])
    _write(folder, {"id": wish, "words": list(words), "environment": dict(traces) or None})
    send(pid, signal.SIGUSR1)
    wait(folder, in_effect, patience_seconds, wish)


def wait(folder: Path, in_effect: Callable[[], bool], patience_seconds: float, wish: str = "") -> None:
    """Returns once a change is through, that of the wish or one that another command began. Raises as `tell`."""
    deadline = time.monotonic() + patience_seconds
    while True:
        found = announced(folder)
        refused = found.get("refused") or {}
        if wish and refused.get("id") == wish:
            raise _refused(folder, str(refused.get("why")))
        if not lock_held(folder):
            raise _refused(folder, f"it ended: {last_line(folder)}")
        if found.get("settled") and in_effect():
            return
        if time.monotonic() > deadline:
            log = folder / "server.log"
            raise SettingsHalfway(endpoint=folder.name, seconds=patience_seconds, log=log)
        time.sleep(POLL_SECONDS)


def forget(folder: Path) -> None:
    """What nobody read."""
    for name in (FILE, f".{FILE}.tmp"):
        (folder / name).unlink(missing_ok=True)


def _write(folder: Path, document: Mapping[str, object]) -> None:
    """For our eyes only: a variable may hold a secret."""
    temporary = folder / f".{FILE}.tmp"
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(json.dumps(document))
    temporary.rename(folder / FILE)


def _refused(folder: Path, cause: str) -> SettingsRefused:
    forget(folder)
    return SettingsRefused(endpoint=folder.name, cause=cause, log=folder / "server.log")
