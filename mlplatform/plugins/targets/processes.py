"""What the targets share that start processes on this machine: their environment and ports."""

from __future__ import annotations

import os
import socket
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


def port_before(desired: ServerSpec) -> int:
    """The port of the server before, so that clients find the next one; 0 when there was none or it is taken."""
    try:
        port = int((desired.folder / "port").read_text())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((desired.host, port))
    except (OSError, ValueError, OverflowError):
        return 0
    return port


def environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    passed = ("LC_", "OTEL_")  # a collector's address and headers are the server's own
    kept.update({name: value for name, value in os.environ.items() if name.startswith(passed)})
    root = str(Path(mlplatform.__file__).parent.parent)
    paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}
