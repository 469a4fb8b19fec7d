"""Keeps the port of an endpoint whose servers run in containers: `python -m mlplatform.serving.keeper`.

It listens and never accepts. A worker asks on a unix socket and is handed the listening sockets (SCM_RIGHTS), so that
two servers answer on one port while one replaces the other, connections wait in the queue while none is there, and a
container needs no network of its own.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform.errors import AlreadyRunning, MlplatformError
from mlplatform.serving.joining import MOST_WORKERS, PATIENCE_SECONDS, SOCKET, short_path
from mlplatform.serving.listening import listen, listen_beside

LONGEST_QUESTION_BYTES = 200


@dataclass
class Keeper:
    """The listening sockets of a port, one a worker: the kernel spreads connections over them."""

    host: str
    port: int
    sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def of(cls, host: str, port: int) -> Keeper:
        """Raises PortInUse, also where another process would share the port."""
        [probe] = listen(host, port, 1)
        port = probe.getsockname()[1]
        probe.close()
        keeper = cls(host, port)
        keeper.handed(0, 1)
        return keeper

    def handed(self, place: int, of: int) -> list[socket.socket]:
        """What worker `place` of `of` answers. Sockets that an earlier server with more workers had are shared out:
        none may be without a worker, its connections would wait for ever."""
        while len(self.sockets) <= place:
            self.sockets.append(listen_beside(self.host, self.port))
        return self.sockets[place::of]

    def answer(self, asked: socket.socket) -> None:
        """Hand sockets to a worker."""
        asked.settimeout(PATIENCE_SECONDS)
        question = json.loads(asked.recv(LONGEST_QUESTION_BYTES))
        place, of = int(question["place"]), int(question["of"])
        if not 0 <= place < of <= MOST_WORKERS:
            raise ValueError(f"there is no worker {place} of {of}")
        socket.send_fds(asked, [b"."], [each.fileno() for each in self.handed(place, of)])


def keep(folder: Path, host: str, port: int, owner: int) -> None:
    """Hold the port until this process is ended; only `owner` may ask for it."""
    lock = (folder / "keeper.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(what="The keeper of the port", pid="?", address="") from None
    keeper = Keeper.of(host, port)
    place = folder / SOCKET
    place.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        handle = os.open(folder, os.O_RDONLY)
        door.bind(short_path(handle))
        os.chmod(place, 0o600)
        os.chown(place, owner, -1)
        door.listen()
        _announce(folder, keeper)
        while True:
            asked, _ = door.accept()
            with asked, suppress(OSError, ValueError, KeyError, TypeError):
                keeper.answer(asked)


def _announce(folder: Path, keeper: Keeper) -> None:
    temporary = folder / ".keeper.json.tmp"
    temporary.write_text(json.dumps({"pid": os.getpid(), "host": keeper.host, "port": keeper.port}))
    temporary.rename(folder / "keeper.json")


def main(arguments: list[str] | None = None) -> int:
    """Keep a port; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlplatform.serving.keeper", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--owner", type=int, required=True, help="user id of the servers")
    given = parser.parse_args(arguments)
    try:
        keep(given.folder, given.host, given.port, given.owner)
    except MlplatformError as error:
        print(f"error: {error}. {error.next_step}".rstrip(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
