"""What the targets share that start processes on this machine: their environment and ports."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import mlplatform
from mlplatform.ports.extensions import ServerSpec

KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "VIRTUAL_ENV",
)
"""What a server inherits of our environment: no tokens, no database addresses, no MLflow settings."""
NOTICE_SECONDS, POLL_SECONDS = 5.0, 0.02
"""By then a worker has noticed that its parent is gone."""


def port_before(desired: ServerSpec) -> int:
    """The port of the server before, so that clients find the next one; 0 when there was none or it is taken."""
    port = _noted(desired.folder)
    return port if port and _is_free(desired.host, port) else 0


def wait_until_free(desired: ServerSpec) -> None:
    """Return once nobody holds the port that is wanted, at the latest after `NOTICE_SECONDS`."""
    port, deadline = desired.port or _noted(desired.folder), time.monotonic() + NOTICE_SECONDS
    while port and not _is_free(desired.host, port) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _noted(folder: Path) -> int:
    try:
        return int((folder / "port").read_text())
    except (OSError, ValueError):
        return 0


def _is_free(host: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError):
        return False
    return True


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    passed = ("LC_", "OTEL_")  # a collector's address and headers are the server's own
    kept.update({name: value for name, value in os.environ.items() if name.startswith(passed)})
    root = str(Path(mlplatform.__file__).parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}
