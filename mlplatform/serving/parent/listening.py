"""The listening sockets of a server, one a worker, all on one port: the kernel spreads connections over them."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Sequence

from mlplatform.errors import PortInUse, WorldError

BACKLOG = 2048
_ATTACH_FILTER, _ATTACH_REUSEPORT_CBPF = 26, 51
"""Of Linux; Python does not name them."""
_RANDOM = 0xFFFFF000 + 56
_LOAD, _MODULO, _RETURN, _DROP = 0x20, 0x94, 0x16, 0x06


def listen(host: str, port: int, count: int) -> list[socket.socket]:
    """So many sockets; PortInUse when the port is taken, also by another server of the same user."""
    found: list[socket.socket] = []
    try:
        first = socket.socket(_family(host), socket.SOCK_STREAM)
        found.append(first)
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind((host, port))  # not shared: with SO_REUSEPORT before it, another server's port would be
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.listen(BACKLOG)
        found += [listen_beside(host, first.getsockname()[1]) for _ in range(count - 1)]
    except OSError as error:
        for listener in found:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(port=port, host=host) from None
        raise WorldError(what=f"Cannot listen on {host}:{port}: {error.strerror or error}") from error
    return found


def listen_beside(host: str, port: int) -> socket.socket:
    """One more socket on a port that is ours. Raises OSError."""
    listener = socket.socket(_family(host), socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def steer(listeners: Sequence[socket.socket], count: int) -> bool:
    """Give new connections to the first `count` sockets of a port only, in the order in which they began to listen;
    whether the system can. So one gets no more before it is closed, which resets what waits in its queue."""
    program = ((_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, count), (_RETURN, 0, 0, 0))
    return _attach(listeners[0], _ATTACH_REUSEPORT_CBPF, program)


def turn_away(listener: socket.socket) -> bool:
    """No connection comes to be on the socket any more, in no process that shares it; whether the system can do that.
    Those that wait in its queue can all be taken then, before it is closed, which would reset them. Who asks hears
    nothing, asks again after a second, and finds the socket closed."""
    return _attach(listener, _ATTACH_FILTER, ((_DROP, 0, 0, 0),))


def _attach(listener: socket.socket, option: int, program: Sequence[tuple[int, int, int, int]]) -> bool:
    code = b"".join(struct.pack("HBBI", *step) for step in program)
    kept = ctypes.create_string_buffer(code, len(code))
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, option, struct.pack("HP", len(program), ctypes.addressof(kept))
        )
    except OSError:
        return False
    return True


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
