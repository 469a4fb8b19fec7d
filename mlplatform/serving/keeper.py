"""Keeps the port of an endpoint whose servers run in containers: `python -m mlplatform.serving.keeper`.

It listens and never accepts. A worker asks on a unix socket and is handed the listening sockets (SCM_RIGHTS), so that
two servers answer on one port while one replaces the other, connections wait in the queue while none is there, and a
container needs no network of its own. With `--take-over` the sockets are those of the server that runs in the folder.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform.errors import AlreadyRunning, MlplatformError, WorldError
from mlplatform.serving.parent.handover import Only, hand, opened, question, taken_over
from mlplatform.serving.parent.joining import SOCKET
from mlplatform.serving.parent.listening import listen, listen_beside, steer

AGAIN_SECONDS = 0.1


@dataclass
class Keeper:
    """The listening sockets of a port, one a worker: the kernel spreads connections over them."""

    host: str
    port: int
    sockets: list[socket.socket] = field(default_factory=list)

    @classmethod
    def of(cls, host: str, port: int) -> Keeper:
        """Raises PortInUse, also where another process would share the port."""
        sockets = listen(host, port, 1)
        return cls(host, sockets[0].getsockname()[1], sockets)

    @classmethod
    def of_server(cls, folder: Path, host: str) -> Keeper:
        """With the sockets of the server without a container that runs in a folder. Raises WorldError."""
        try:
            sockets = taken_over(folder)
        except OSError as error:
            raise WorldError(
                what=f"the server of {folder.name} does not hand over its port: {error}"
            ) from error
        return cls(host, sockets[0].getsockname()[1], sockets)

    def handed(self, place: int, of: int) -> list[socket.socket]:
        """What worker `place` of `of` answers. Sockets that an earlier server with more workers had are shared out:
        none may be without a worker, its connections would wait for ever."""
        if (missing := place + 1 - len(self.sockets)) > 0:
            self.sockets += [listen_beside(self.host, self.port) for _ in range(missing)]
            steer(
                self.sockets, len(self.sockets)
            )  # a server that had fewer may have kept connections from others
        return self.sockets[place::of]

    def keep_only(self, count: int) -> None:
        """The others had a server that is gone: without a worker their connections would wait for ever."""
        kept, surplus = self.sockets[:count], self.sockets[count:]
        if kept and surplus:
            steer(kept, len(kept))
            self.sockets = kept
            for each in surplus:
                each.close()

    def answer(self, asked: socket.socket) -> None:
        """Hand sockets to a worker, or do without those that a server brought along."""
        said = question(asked)
        if isinstance(said, Only):
            self.keep_only(said.sockets)
        else:
            hand(asked, self.handed(said.place, said.of))


def keep(folder: Path, host: str, port: int, owner: int, take_over: bool = False) -> None:
    """Hold the port until this process is ended; only `owner` may ask for it."""
    lock = (folder / "keeper.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise AlreadyRunning(what="The keeper of the port", pid="?", address="") from None
    keeper = Keeper.of_server(folder, host) if take_over else Keeper.of(host, port)
    with opened(folder, SOCKET) as door:
        os.chown(folder / SOCKET, owner, -1)
        _announce(folder, keeper)
        while True:
            try:
                asked, _ = door.accept()
            except OSError:  # no descriptor is left, for now
                time.sleep(AGAIN_SECONDS)
                continue
            with asked, suppress(OSError, ValueError, KeyError, TypeError):
                keeper.answer(asked)
                _announce(folder, keeper)


def _announce(folder: Path, keeper: Keeper) -> None:
    document = {"pid": os.getpid(), "host": keeper.host, "port": keeper.port, "sockets": len(keeper.sockets)}
    temporary = folder / ".keeper.json.tmp"
    temporary.write_text(json.dumps(document))
    temporary.rename(folder / "keeper.json")


def main(arguments: list[str] | None = None) -> int:
    """Keep a port; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlplatform.serving.keeper", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="the endpoint's folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--owner", type=int, required=True, help="user id of the servers")
    parser.add_argument("--take-over", action="store_true", help="from the server that runs in the folder")
    given = parser.parse_args(arguments)
    try:
        keep(given.folder, given.host, given.port, given.owner, given.take_over)
    except MlplatformError as error:
        print(f"error: {error}. {error.next_step}".rstrip(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
