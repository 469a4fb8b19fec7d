"""HTTP over plain sockets, byte by byte as a test wants it."""

from __future__ import annotations

import socket
from contextlib import suppress


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    """A request up to its body."""
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: x", *lines, "")).encode(
        "latin-1"
    )


def request(path: str, body: bytes, *lines: str, content_type: str = "application/json") -> bytes:
    """A whole POST request."""
    typed = [f"Content-Type: {content_type}"] if content_type else []
    return head(path, *typed, f"Content-Length: {len(body)}", *lines) + body


def exchange(raw: socket.socket, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a request; status, headers and body of the response. A server may refuse before all is sent."""
    with suppress(BrokenPipeError, ConnectionResetError):
        raw.sendall(sent)
    return response(raw)


def response(raw: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """The next response of a connection; ConnectionError when there is none."""
    got = b""
    while b"\r\n\r\n" not in got:
        got += _more(raw)
    top, _, body = got.partition(b"\r\n\r\n")
    first, *lines = top.decode("latin-1").split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(raw)
    return int(first.split(" ")[1]), headers, body


def _more(raw: socket.socket) -> bytes:
    if not (data := raw.recv(65536)):
        raise ConnectionError("the server closed the connection")
    return data
