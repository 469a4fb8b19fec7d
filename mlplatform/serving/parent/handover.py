"""How a port passes from one server to another without losing a connection: the sockets themselves are handed over.

A server without a container lets whoever takes over ask for its sockets on `handover.sock` (the keeper of a port asks,
for containers), and takes over the sockets of a keeper itself (`--adopt`). Both ends then listen on the same queues, so
that whoever connects meanwhile is answered by the one or the other.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mlplatform.errors import WorldError
from mlplatform.serving.parent.joining import MOST_WORKERS, PATIENCE_SECONDS, SOCKET, Port, short_path

HANDOVER = "handover.sock"
LONGEST_QUESTION_BYTES = 200
MOST_ASKING = 8
"""Of those that have said nothing yet the oldest go."""


class Door:
    """Where a server is asked for its sockets; only its own user and root may. Where the system cannot do that there is
    no door, and another server takes over after this one has ended. Whoever comes and says nothing is waited for
    without holding anybody up."""

    def __init__(self, folder: Path) -> None:
        self._place = folder / HANDOVER
        self._door: socket.socket | None = None
        self._asking: list[socket.socket] = []
        self.has_handed = False
        """Whether somebody else has our sockets, too."""
        with suppress(OSError):
            self._door = opened(folder, HANDOVER)

    @property
    def handles(self) -> list[int]:
        """What `select` is to look at."""
        return [each.fileno() for each in (self._door, *self._asking) if each]

    def answer(self, woken: Sequence[int], listeners: Sequence[socket.socket]) -> None:
        """Let in who knocks, and hand the sockets to those who ask. `woken`: the handles where something came."""
        for asked in [each for each in self._asking if each.fileno() in woken]:
            self._asking.remove(asked)
            with asked, suppress(OSError, ValueError, KeyError, TypeError):
                said = question(asked)
                if isinstance(said, Share):
                    self.has_handed = True
                    hand(asked, listeners[said.place :: said.of])
        if self._door and self._door.fileno() in woken:
            with suppress(OSError):
                self._asking.append(self._door.accept()[0])
            for silent in self._asking[:-MOST_ASKING]:
                silent.close()
            del self._asking[:-MOST_ASKING]

    def close(self) -> None:
        for each in self._asking:
            each.close()
        self._asking.clear()
        if self._door is not None:
            self._door.close()
            self._door = None
            self._place.unlink(missing_ok=True)


def opened(folder: Path, name: str) -> socket.socket:
    """A unix socket that listens in a folder, for its owner alone."""
    (folder / name).unlink(missing_ok=True)
    handle, door = os.open(folder, os.O_RDONLY), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            door.bind(short_path(handle, name))
        finally:
            os.umask(before)
        door.listen()
    except OSError:
        door.close()
        raise
    finally:
        os.close(handle)
    return door


class Share(NamedTuple):
    """Which worker asks for its sockets, of how many."""

    place: int
    of: int


class Only(NamedTuple):
    """So many sockets are to be kept."""

    sockets: int


def question(asked: socket.socket) -> Share | Only:
    """Raises OSError, ValueError, KeyError, TypeError for what is no question."""
    asked.settimeout(PATIENCE_SECONDS)
    said = json.loads(asked.recv(LONGEST_QUESTION_BYTES))
    if "only" in said:
        return Only(int(said["only"]))
    place, of = int(said["place"]), int(said["of"])
    if not 0 <= place < of <= MOST_WORKERS:
        raise ValueError(f"there is no worker {place} of {of}")
    return Share(place, of)


def hand(asked: socket.socket, sockets: Sequence[socket.socket]) -> None:
    socket.send_fds(asked, [b"."], [each.fileno() for each in sockets])


def taken_over(folder: Path) -> list[socket.socket]:
    """The sockets of the server without a container that runs in a folder. Raises OSError where none answers."""
    return Port(folder, folder, 0, 1).ask(HANDOVER)


def adopted(folder: Path, workers: int) -> list[socket.socket]:
    """The sockets of the port that is kept in a folder: one for each worker, and those that an earlier server with more
    workers had. Raises WorldError where none is kept."""
    try:
        for each in Port(folder, folder, workers - 1, workers).ask(SOCKET):  # from now on it has so many
            each.close()
        return Port(folder, folder, 0, 1).ask(SOCKET)
    except OSError as error:
        raise WorldError(what=f"no port is kept in {folder}: {error}") from error
