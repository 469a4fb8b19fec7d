"""Keeps the processes of a server from waiting for whoever reads its log.

Where standard output or error is a pipe, a socket or a terminal, it may be full and stay so, and a write to it waits:
of the parent, of a worker's event loop, of a library, of a model that prints. So the parent puts a pipe of its own in
its place, which everybody writes to and which a thread always empties; another thread writes on, and may wait. What is
too much is dropped and counted, in whole lines. A file takes what it is given, and stays as it is.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

HELD_BYTES = 1_000_000
"""What waits for the reader; more is dropped."""
ONE_READ_BYTES = 65_536
LAST_SECONDS = 1.0
"""At the end of the server, for what still waits."""


class Pump:
    """Stands between a descriptor of this process, with its children's copies, and what it led to."""

    def __init__(self, descriptor: int) -> None:
        self.dropped_lines = 0
        self._descriptor = descriptor
        self._target = os.dup(descriptor)
        self._source, ours = os.pipe()
        os.dup2(ours, descriptor)
        os.close(ours)
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._changed = threading.Condition()
        self._ended = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._read, self._write)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Lead the descriptor to where it led before. Children that still write are not waited for."""
        os.dup2(self._target, self._descriptor)
        for thread in self._threads:
            thread.join(LAST_SECONDS)

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._source, ONE_READ_BYTES):
            lines, newline, rest = (rest + data).rpartition(b"\n")
            if len(rest) > ONE_READ_BYTES:  # no lines at all: a picture, a progress bar
                lines, newline, rest = rest, b"", b""
            self._take(lines + newline)
        self._take(rest)
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _take(self, lines: bytes) -> None:
        with self._changed:
            if self._held_bytes + len(lines) > HELD_BYTES:
                self.dropped_lines += lines.count(b"\n")
            elif lines:
                self._held.append(lines)
                self._held_bytes += len(lines)
                self._changed.notify()

    def _write(self) -> None:
        while lines := self._next():
            try:
                while lines:
                    lines = lines[os.write(self._target, lines) :]
            except OSError:  # nobody reads any more
                self.dropped_lines += lines.count(b"\n")

    def _next(self) -> bytes:
        """Empty at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._ended)
            if not self._held:
                return b""
            lines = self._held.popleft()
            self._held_bytes -= len(lines)
            return lines


@contextmanager
def pumped(descriptors: tuple[int, ...] = (1, 2)) -> Iterator[list[Pump]]:
    """Pumps for those of the descriptors that may keep a writer waiting, until the end."""
    with ExitStack() as stack:
        pumps = [Pump(each) for each in descriptors if _may_wait(each)]
        for pump in pumps:
            stack.callback(pump.end)
        yield pumps


def _may_wait(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:  # closed
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
