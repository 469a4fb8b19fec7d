"""Starts and ends the process that keeps the port of an endpoint whose servers run in containers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from mlplatform.errors import ServerDidNotStart
from mlplatform.plugins.targets.folder import announced, last_line, lock_held
from mlplatform.plugins.targets.processes import environment, port_before
from mlplatform.ports.extensions import ServerSpec

PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.02
HANDOVER = "handover.sock"
"""Of `mlplatform.serving.parent.handover`."""
IMAGE_USER = 10001
"""Of docker/server.Dockerfile."""
_children: dict[int, subprocess.Popen[bytes]] = {}
"""A parent has to collect their end."""
_alive = partial(lock_held, name="keeper.lock")


def user() -> int:
    """As whom servers run, and who may ask for the port: ourselves, or the image's user where we are root."""
    return os.getuid() or IMAGE_USER


def keeps(desired: ServerSpec) -> bool:
    """Whether the port that is kept is the one that is wanted."""
    found = _announced(desired.folder)
    same = found.get("host") == desired.host and desired.port in (0, found.get("port"))
    return same and _alive(desired.folder)


def can_take_over(desired: ServerSpec) -> bool:
    """Whether the server without a container that runs in the folder hands over its port, and that one is wanted."""
    found = announced(desired.folder)
    same = found.get("host") == desired.host and desired.port in (0, found.get("port"))
    return same and (desired.folder / HANDOVER).exists()


def ensure(desired: ServerSpec, owner: int) -> int:
    """The number of the port, kept from now on; that of a server without a container is shared with it. Raises
    ServerDidNotStart where it is taken."""
    folder = desired.folder
    if not keeps(desired):
        (folder / "keeper.json").unlink(missing_ok=True)
        process = _start(desired, owner)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not keeps(desired):
            if process.poll() is not None or time.monotonic() > deadline:
                log = folder / "server.log"
                raise ServerDidNotStart(endpoint=desired.endpoint, cause=last_line(folder), log=log)
            time.sleep(POLL_SECONDS)
    return int(_announced(folder)["port"])


def sockets(folder: Path) -> int:
    """On how many the port is listened, all of them with workers once a container has joined."""
    return int(_announced(folder).get("sockets", 0))


def keep_only(folder: Path, sockets: int) -> None:
    """Do without those above so many: a container had them that is gone. Nothing happens when no port is kept."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        handle = os.open(folder, os.O_RDONLY)
        try:
            asked.settimeout(PATIENCE_SECONDS)
            asked.connect(f"/proc/self/fd/{handle}/keeper.sock")  # a path of a socket may have 107 bytes
        finally:
            os.close(handle)
        asked.sendall(json.dumps({"only": sockets}).encode())
        asked.recv(1)  # it hangs up when that is done


def end(folder: Path) -> None:
    """Let go of the port; nothing happens when none is kept."""
    pid = int(_announced(folder).get("pid", 0))
    if pid and _alive(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        while _alive(folder):
            time.sleep(POLL_SECONDS)
    for name in ("keeper.json", "keeper.sock"):
        (folder / name).unlink(missing_ok=True)
    for number, child in list(_children.items()):
        if child.poll() is not None:
            del _children[number]


def _start(desired: ServerSpec, owner: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "mlplatform.serving.keeper", "--folder", str(desired.folder)]
    command += ["--host", desired.host]
    if lock_held(desired.folder):
        command += ["--take-over"]
    else:
        command += ["--port", str(desired.port or port_before(desired))]
    with (desired.folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--owner", str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=desired.folder,
            env=environment(),
            start_new_session=True,
        )
    _children[process.pid] = process
    return process


def _announced(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "keeper.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
