"""The head of a response: status line, date, headers, length."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus

from mlplatform.serving.calls import Header

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Heads:
    """Status line and date are written once a second, not once a response."""

    def __init__(self) -> None:
        self._starts: dict[int, bytes] = {}
        self._date = b""
        self.tick()

    def tick(self) -> None:
        """To be called every second."""
        self._date = f"date: {formatdate(usegmt=True)}\r\n".encode()
        self._starts.clear()

    def head(self, status: int, headers: list[Header], length: int, connection: bytes) -> bytes:
        """`connection`: a whole header line, or nothing."""
        start = self._starts.get(status) or self._start(status)
        lines = [b"%b: %b\r\n" % header for header in headers]
        return b"%b%bcontent-length: %d\r\n%b\r\n" % (start, b"".join(lines), length, connection)

    def _start(self, status: int) -> bytes:
        line = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode()
        start = self._starts[status] = line + self._date
        return start
