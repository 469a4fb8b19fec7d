"""What the folder of an endpoint tells of its server."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def announced(folder: Path) -> dict[str, Any]:
    """What a server says of itself; empty when none does."""
    try:
        found = json.loads((folder / "server.json").read_bytes())
        return found if isinstance(found, dict) and {"pid", "host", "port"} <= set(found) else {}
    except (OSError, ValueError):
        return {}


def left_at(found: Mapping[str, Any], folder: Path) -> str:
    """Where the server that announced this reads and writes, if that is another folder by now; else ""."""
    there = str(found.get("folder") or "")
    try:
        return "" if not there or os.path.samefile(there, folder) else there
    except OSError:  # nothing is there any more
        return there


def lock_held(folder: Path, name: str = "server.lock") -> bool:
    """Whether a server runs there, in a container or not."""
    try:
        with (folder / name).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def lock_pid(folder: Path) -> int:
    """Whose lock it is, or was; 0 when nobody's."""
    try:
        return int((folder / "server.lock").read_text())
    except (OSError, ValueError):
        return 0


def last_line(folder: Path) -> str:
    """What was said last in the server's log."""
    try:
        lines = (folder / "server.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    line = next((line for line in reversed(lines) if line.strip()), "")
    try:
        return str(json.loads(line)["message"])[:500]
    except (ValueError, KeyError, TypeError):  # a library's, or the interpreter's
        return line[:500]


def send(pid: int, number: signal.Signals) -> None:
    """A signal, to a process that may have ended."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
