"""A real proxy before a real MLflow server that fails as it is told: stopped, slow, 500, a reply cut or lost.

Faults strike *after* the request was forwarded, so that MLflow has done the work that the client is told nothing of.
With `once`, every different request fails the first time and is answered when it is repeated: one command meets the
fault at each of its requests.
"""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

Kind = Literal["500", "lost", "cut", "slow"]
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


@dataclass(frozen=True)
class Fault:
    kind: Kind
    once: bool = True
    """Only the first time of each different request."""
    seconds: float = 0.0
    """How long a slow reply takes."""
    only: str = ""
    """Part of the paths that it strikes; "" for all."""


class Seen(NamedTuple):
    method: str
    path: str
    failed: bool


class MlflowProxy:
    """Forwards to `target` from a port of its own, which stays the same over stops and starts."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target)
        self._server: ThreadingHTTPServer | None = None
        self._port = 0
        self._struck: set[str] = set()
        self._lock, self.let_go = threading.Lock(), threading.Event()
        self.fault: Fault | None = None
        self.seen: list[Seen] = []
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        proxy = self

        class Handler(_Handler):
            def do_GET(self) -> None:
                proxy._answer(self)

            do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextmanager
    def failing(self, fault: Fault) -> Iterator[list[Seen]]:
        """All requests of the block meet the fault; what was asked."""
        self._struck.clear()
        self.let_go.clear()
        self.fault, self.seen = fault, []
        try:
            yield self.seen
        finally:
            self.fault = None
            self.let_go.set()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def _answer(self, handler: _Handler) -> None:
        body = handler.body()
        fault = self._strikes(handler, body)
        self.seen.append(Seen(handler.command, handler.path, fault is not None))
        status, headers, content = self._forward(handler, body)
        if fault and fault.kind == "slow":
            self.let_go.wait(fault.seconds)
        elif fault and fault.kind == "lost":
            return handler.hang_up()
        elif fault and fault.kind == "500":
            status, headers, content = 500, [("Content-Type", "text/plain")], b"the server stumbled"
        handler.reply(status, headers, content, cut=fault is not None and fault.kind == "cut")
        return None

    def _strikes(self, handler: _Handler, body: bytes) -> Fault | None:
        fault = self.fault
        if fault is None or fault.only not in handler.path:
            return None
        name = f"{handler.command} {handler.path} {hashlib.sha256(body).hexdigest()}"
        with self._lock:
            if fault.once and name in self._struck:
                return None
            self._struck.add(name)
        return fault

    def _forward(self, handler: _Handler, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port, timeout=60)
        headers = {k: v for k, v in handler.headers.items() if k.lower() not in HOP_BY_HOP}
        try:
            connection.request(handler.command, handler.path, body, headers)
            reply = connection.getresponse()
            kept = [(k, v) for k, v in reply.getheaders() if k.lower() not in HOP_BY_HOP]
            return reply.status, kept, reply.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    """One request a connection, so that none survives a stop."""

    protocol_version = "HTTP/1.0"

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool) -> None:
        with suppress(OSError):  # the client has lost its patience
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.hang_up()

    def hang_up(self) -> None:
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        return None
