"""Bytes of one connection -> whole requests, in order. Knows no socket.

What `httptools` (llhttp, strict) lets through is checked once more where a proxy before us could read it another way:
the framing (RFC 9112, section 6), the version, the host. Whatever is wrong ends the connection: what follows a
request that we did not understand is no request.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving.calls import Header, Request
from mlplatform.serving.problems import (
    ExpectationFailed,
    HeadersTooLarge,
    Problem,
    TargetTooLong,
    TooBusy,
    TooLarge,
)

HEAD_BYTES = 16_384
"""Of the header fields of a request."""
HEADERS = 100
TARGET_BYTES = 8_192

KEEP, KEEP_1_0, CLOSE = b"", b"connection: keep-alive\r\n", b"connection: close\r\n"
"""What a response says about its connection."""

_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"host", b"expect"})


class Known(NamedTuple):
    """A head that was read in full before. Clients send the same one again and again."""

    head: bytes
    size: int
    length: int
    """Bytes of the body."""
    request: Request


class Budget:
    """What a worker's connections hold of bodies that are not whole yet."""

    def __init__(self, limits: RequestLimits) -> None:
        self.limit_bytes = limits.held_bytes
        self.used_bytes = 0


class _Stop(Exception):
    """Ends the parser where a problem was found."""


class Reader:
    """Fed with bytes; requests come out at `ready`, and at last perhaps a `problem`, after which nothing is read."""

    def __init__(self, limits: RequestLimits, budget: Budget, client: str = "", tls: bool = False) -> None:
        self.ready: deque[tuple[Request, bytes]] = deque()
        """Each with what its response says about the connection."""
        self.problem: Problem | None = None
        self.partial = False
        """Whether a request has begun that is not whole."""
        self.awaits_continue = False
        """Whether the client sends the rest only when it is told to go on."""
        self.path = ""
        """Of the last request, as far as it is known."""
        self._limits, self._budget = limits, budget
        self._client, self._tls = client, tls
        self._known: Known | None = None
        self._reset()
        self._parser: httptools.HttpRequestParser | None = httptools.HttpRequestParser(self)

    def _reset(self) -> None:
        self._target = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._in_body = False
        self._chunked = False
        self._length = 0
        self._body: bytes | bytearray = b""
        self._held_bytes = self._wire_bytes = 0
        self.awaits_continue = False

    @property
    def head(self) -> list[Header] | None:
        """The headers of a request whose body is still on its way."""
        return self._headers if self.partial and self._in_body else None

    def feed(self, data: bytes) -> None:
        """Never raises."""
        if self.problem is not None or self._parser is None:
            return
        known = self._known
        if known is not None and not self.partial and data.startswith(known.head):
            body = data[known.size :]
            if len(body) == known.length:
                self.ready.append((_with_body(known.request, body), KEEP))
                return
        if self.partial:
            self._wire_bytes += len(data)
        fresh, before = not self.partial, len(self.ready)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse_upgrade(before)
        except httptools.HttpParserError as error:
            if self.problem is None:
                self.problem = Problem(_explained(error))
        if self.partial:
            if fresh and len(self.ready) == before:
                self._wire_bytes = len(data)
            if not self._is_endless():
                self._hold()
        elif fresh and self.problem is None and len(self.ready) == before + 1:
            self._remember(data)

    def close(self) -> None:
        """Frees what was held; nothing is read any more."""
        self._release()
        self._parser = self._known = None
        self.ready.clear()

    # --- called by the parser ---------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._reset()
        self.partial = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        if len(self._target) > TARGET_BYTES:
            self._stop(TargetTooLong(f"the target is too long: at most {TARGET_BYTES} bytes are taken"))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > HEAD_BYTES or len(self._headers) >= HEADERS:
            self._stop(_headers_too_large())
        if not self._in_body:  # what follows a chunked body is not looked at
            self._headers.append((name.lower(), value.rstrip()))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._in_body = True
        version = self._parser.get_http_version()
        self._take_target()
        if version not in ("1.1", "1.0"):
            self._stop(Problem(f"version: expected HTTP/1.1 or HTTP/1.0, got {version}"))
        hosts, expects = 0, b""
        for name, value in self._headers:
            if name not in _FRAMING:
                continue
            if name == b"content-length":
                self._length = int(value)
            elif name == b"transfer-encoding":
                self._take_coding(version, value)
            elif name == b"host":
                hosts += 1
            else:
                expects = value.lower()
        if hosts != 1 and (hosts or version == "1.1"):
            self._stop(Problem(f"header host: expected one, got {hosts}"))
        if self._length > self._limits.max_body_bytes:
            self._stop(self._too_large())
        if expects and version == "1.1":
            if expects != b"100-continue":
                self._stop(ExpectationFailed("header expect: expected 100-continue or no such header"))
            self.awaits_continue = bool(self._length or self._chunked)

    def on_body(self, part: bytes) -> None:
        self.awaits_continue = False
        if not self._body:
            self._body = part
        else:
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += part
        if len(self._body) > self._limits.max_body_bytes:
            self._stop(self._too_large())

    def on_message_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        self._release()
        self.partial = False
        self.awaits_continue = False
        method = parser.get_method().decode("ascii")
        query = self._target.partition(b"?")[2]
        request = Request(
            method,
            self.path,
            query,
            self._headers,
            bytes(self._body),
            self._client,
            self._tls,
            perf_counter(),
        )
        self._body = b""
        keep = CLOSE
        if parser.should_keep_alive():
            keep = KEEP if parser.get_http_version() == "1.1" else KEEP_1_0
        self.ready.append((request, keep))

    # --- details ----------------------------------------------------------------------------------------------

    def _stop(self, problem: Problem) -> None:
        self.problem = problem
        raise _Stop

    def _take_target(self) -> None:
        """The path, decoded; the target keeps what is behind it."""
        target = self._target
        if not target.startswith((b"/", b"*")):
            try:
                url = httptools.parse_url(target)
            except httptools.HttpParserInvalidURLError:
                self._stop(Problem("target: expected a path that begins with /"))
            target = (url.path or b"/") + (b"?" + url.query if url.query else b"")
        target = target.partition(b"#")[0]
        path = target.partition(b"?")[0]
        try:
            self.path = (
                unquote(path.decode("ascii"), errors="strict") if b"%" in path else path.decode("ascii")
            )
        except UnicodeDecodeError:
            self._stop(Problem("target: expected ASCII, other characters as percent-encoded UTF-8"))
        self._target = target

    def _take_coding(self, version: str, value: bytes) -> None:
        if version == "1.0" or value.lower() != b"chunked":
            self._stop(Problem("header transfer-encoding: expected chunked, in HTTP/1.1"))
        self._chunked = True

    def _refuse_upgrade(self, before: int) -> None:
        """llhttp hands over the request without its body: it cannot be answered."""
        while len(self.ready) > before and self.problem is None:
            request, _ = self.ready.pop()
            what = (
                "method: CONNECT is not spoken"
                if request.method == "CONNECT"
                else "header upgrade: expected none"
            )
            self.problem = Problem(f"{what}; this server speaks HTTP/1.1 and stays with it")

    def _is_endless(self) -> bool:
        """Whether more came on the wire than the largest request has."""
        if self.problem is not None:
            return True
        if not self._in_body and self._wire_bytes > HEAD_BYTES + TARGET_BYTES:
            self.problem = _headers_too_large()
        elif self._chunked and self._wire_bytes > 2 * self._limits.max_body_bytes + HEAD_BYTES:
            self.problem = self._too_large()
        return self.problem is not None

    def _hold(self) -> None:
        """Count what is held of a body that is not whole."""
        budget, held_bytes = self._budget, len(self._body)
        budget.used_bytes += held_bytes - self._held_bytes
        self._held_bytes = held_bytes
        if budget.used_bytes > budget.limit_bytes and self.problem is None:
            self.problem = TooBusy("too many large bodies are on their way; try again in 1 s", retry_after=1)

    def _release(self) -> None:
        self._budget.used_bytes -= self._held_bytes
        self._held_bytes = 0

    def _remember(self, data: bytes) -> None:
        request, keep = self.ready[-1]
        size = len(data) - self._length
        if (
            keep is KEEP
            and not self._chunked
            and len(request.body) == self._length
            and data.find(_END) + len(_END) == size  # and nothing else came with it
        ):
            self._known = Known(data[:size], size, self._length, _with_body(request, b""))

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is too large: at most {self._limits.max_body_bytes} bytes are taken")


_END = b"\r\n\r\n"


def _with_body(request: Request, body: bytes) -> Request:
    return Request(
        request.method,
        request.path,
        request.query,
        request.headers,
        body,
        request.client,
        request.tls,
        perf_counter(),
    )


def _headers_too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the headers are too large: at most {HEADERS} with {HEAD_BYTES} bytes are taken")


def _explained(error: httptools.HttpParserError) -> str:
    """Field and expectation, beside what the parser says."""
    said = " ".join(str(error).replace("`", "").split())
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return f"method: expected GET, HEAD or POST in capitals, then a path and HTTP/1.1 ({said})"
    if isinstance(error, httptools.HttpParserInvalidURLError):
        return f"target: expected a path that begins with /, in ASCII ({said})"
    for part, expected in _EXPECTED:
        if part in said.lower():
            return f"{expected} ({said})"
    return f"the request is not HTTP/1.1 ({said})"


_EXPECTED = (
    (
        "content-length",
        "header content-length: expected one whole number of bytes, without transfer-encoding",
    ),
    ("transfer-encoding", "header transfer-encoding: expected chunked, once"),
    ("chunk", "chunk: expected its size in hexadecimal digits, CRLF, so many bytes, CRLF"),
    ("version", "version: expected HTTP/1.1"),
    ("header", "header: expected a name, a colon and a value in one line that ends with CRLF"),
    ("connection: close", "expected nothing after a request with connection: close"),
    ("pri/upgrade", "version: expected HTTP/1.1"),
)
