"""How a worker in a container comes to a port outside of it: see `keeper`."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from mlplatform.serving import logs

OPEN = "open"
"""The file in a server's folder that says: take part. Until then a server is only looked at."""
SOCKET = "keeper.sock"
LOOK_SECONDS = 0.02
AGAIN_SECONDS = 0.5
PATIENCE_SECONDS = 2.0
MOST_WORKERS = 200
"""The kernel hands over 253 descriptors at once."""


@dataclass(frozen=True)
class Port:
    """The port that a worker shall answer on beside its own."""

    folder: Path
    """The server's own."""
    keeper: Path
    """The endpoint's, with the keeper's socket."""
    place: int
    of: int

    @classmethod
    def of_worker(cls, given: argparse.Namespace) -> Port | None:
        return cls(given.folder, given.keeper, given.worker, given.of) if given.keeper else None

    def ask(self, door: str = SOCKET) -> list[socket.socket]:
        """The listening sockets of this worker. Raises OSError where no keeper is."""
        handle = os.open(self.keeper, os.O_RDONLY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as keeper:
                keeper.settimeout(PATIENCE_SECONDS)
                keeper.connect(short_path(handle, door))
                keeper.sendall(json.dumps({"place": self.place, "of": self.of}).encode())
                _, handles, _, _ = socket.recv_fds(keeper, 1, MOST_WORKERS)
        finally:
            os.close(handle)
        if not handles:
            raise OSError("the keeper of the port hung up")
        return [socket.socket(fileno=each) for each in handles]


def add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keeper", type=Path, help="folder of a process that keeps a port: answer on that too"
    )


async def join(port: Port, accept: Callable[[socket.socket], Awaitable[None]]) -> None:
    """Take connections from the port, once told to; `workers/<pid>.joined` says that it happens."""
    while not (port.folder / OPEN).exists():
        await asyncio.sleep(LOOK_SECONDS)
    while (listeners := _asked(port)) is None:
        await asyncio.sleep(AGAIN_SECONDS)
    for listener in listeners:
        await accept(listener)
    (port.folder / "workers" / f"{os.getpid()}.joined").touch()


def short_path(folder: int, name: str) -> str:
    """A unix socket's path may have 107 bytes, a folder's more."""
    return f"/proc/self/fd/{folder}/{name}"


def _asked(port: Port) -> list[socket.socket] | None:
    try:
        return port.ask()
    except OSError as error:
        logs.limited("port-not-joined", f"the port cannot be joined: {error}", "error", logs.failure(error))
        return None
