"""One connection: requests in, responses out in the same order, and a clock for clients that keep us waiting."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Protocol, cast

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving import logs
from mlplatform.serving.calls import Eventually, Header, Request, Response
from mlplatform.serving.problems import ModelFailed, Problem, TooSlow
from mlplatform.serving.transport.heads import CONTINUE, Heads
from mlplatform.serving.transport.reader import CLOSE, Budget, Reader

SLOW_SECONDS = 12.0
"""A client has so long for its first request, for the rest of one, for the next one, and for taking a response."""
LINGER_SECONDS = 5.0
"""After a refusal, what a client still sends is read and thrown away for so long: closed at once, the connection
would be reset, and the client might never read why."""
LAST_WORD_SECONDS = 1.0
"""The same for a client that was too slow already: its socket is free 15 s after it began."""
BURST = 16
"""Pipelined requests that are answered before other connections have their turn."""
ONE_WRITE_BYTES = 65_536
"""Head and body up to this are written in one piece."""


class Application(Protocol):
    """What answers requests."""

    def respond(self, request: Request) -> Response | Eventually: ...

    def refuse(self, problem: Problem, path: str) -> Response:
        """The response to what the transport could not bring in; `path` as far as it is known."""
        ...


Gate = Callable[[str, list[Header]], Problem | None]
"""Why a request to a path, with these headers, is refused before its body is read."""


class Host(Protocol):
    """What the connections of a worker share."""

    app: Application
    gate: Gate | None
    loop: asyncio.AbstractEventLoop
    limits: RequestLimits
    budget: Budget
    heads: Heads
    draining: bool

    def opened(self, connection: Connection) -> Problem | None: ...
    def closed(self, connection: Connection) -> None: ...
    def after(self, call: Callable[[], None]) -> None: ...


class Connection(asyncio.Protocol):
    """A request that is answered at once never leaves `data_received`. One is answered at a time; of those behind it
    only what came in the same read is kept."""

    due = math.inf
    """When the client must have done its part, by the loop's clock; infinite while it is our turn."""

    def __init__(self, server: Host) -> None:
        self._server = server
        self._app = server.app
        self._loop = server.loop
        self._waits = False
        """For a response that comes later."""
        self._paused = False
        """The client does not take what we write."""
        self._scheduled = False
        self._held_up = False
        """Nothing is read from the socket for the moment."""
        self._receiving = False
        self._admitted = False
        """Whether the gate has seen the request whose body is on its way."""
        self._ended = False
        """The client sends no more."""
        self._closing = False

    # --- the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        peer = transport.get_extra_info("peername")
        client = str(peer[0]) if isinstance(peer, tuple) else ""
        tls = transport.get_extra_info("sslcontext") is not None
        self._reader = Reader(self._server.limits, self._server.budget, client, tls)
        self._wait_for_client()
        if problem := self._server.opened(self):
            self._refuse(problem)

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        reader = self._reader
        reader.feed(data)
        if self._waits or self._paused or self._scheduled:
            self._flow()
        elif reader.ready or reader.problem is not None:
            self._work()
        elif reader.partial:
            self._continue()

    def eof_received(self) -> bool:
        """A client that has sent its last request may still wait for answers."""
        self._ended = True
        return not self._closing and (self._waits or self._paused or self._scheduled)

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._waits = False
        self._reader.close()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._paused = True
        self._wait_for_client()

    def resume_writing(self) -> None:
        self._paused = False
        self._wait_for_client()
        if not (self._closing or self._scheduled):
            self._work()

    # --- requests ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Answer what is there, until we have to wait for something."""
        self._scheduled = False
        reader, left = self._reader, BURST
        while reader.ready and not (self._waits or self._paused or self._closing):
            if not left:
                self._scheduled = True
                self._loop.call_soon(self._work)
                break
            left -= 1
            request, connection = reader.ready.popleft()
            self._answer(request, connection)
        if self._closing:
            return
        if not (self._waits or self._paused or self._scheduled):
            if reader.problem is not None:
                self._refuse(reader.problem)
            elif self._ended:
                self._close()
            elif reader.partial:
                self._continue()
        self._flow()

    def _answer(self, request: Request, connection: bytes) -> None:
        try:
            found = self._app.respond(request)
        except Exception as error:  # a mistake of ours must not end the connection without a word
            logs.limited("answer-failed", "an answer could not be given", "error", logs.failure(error))
            problem = ModelFailed(f"the server failed on this request: {type(error).__name__}")
            found = self._app.refuse(problem, request.path)
        if isinstance(found, Response):
            self._write(found, connection, request.method)
        else:
            self._waits = True
            self.due = math.inf
            found.then(lambda response: self._answered(response, connection, request.method))

    def _answered(self, response: Response, connection: bytes, method: str) -> None:
        if not self._waits:  # the client has gone
            response.after = None
            return
        self._waits = False
        self._write(response, connection, method)
        if not (self._closing or self._scheduled):
            self._work()

    def _write(self, response: Response, connection: bytes, method: str = "") -> None:
        if self._server.draining or (self._ended and not self._reader.ready):
            connection = CLOSE
        self._send(response, connection, method)
        if connection is CLOSE:
            self._close()

    def _send(self, response: Response, connection: bytes, method: str = "") -> None:
        server, body, write = self._server, response.body, self._transport.write
        head = server.heads.head(response.status, response.headers, len(body), connection)
        self._wait_for_client()
        if method == "HEAD":
            write(head)
        elif len(body) <= ONE_WRITE_BYTES:
            write(head + body)
        else:
            write(head)
            write(body)
        if response.after is not None:
            server.after(response.after)
            response.after = None  # it may hold the response itself

    # --- the client's part ------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """End the connection when the client had its time."""
        if now < self.due:
            return
        unread = self._transport.get_write_buffer_size() > 0
        if self._closing or self._paused or unread:
            self._transport.abort()
        elif self._reader.partial:
            problem = TooSlow(f"the request was not complete after {SLOW_SECONDS:.0f} s")
            self._refuse(problem, LAST_WORD_SECONDS)
        else:
            self._close()

    def drain(self, by: float) -> None:
        """What is under way ends as usual; a client that asks nothing has until `by` to ask once more."""
        if not (self._waits or self._reader.partial):
            self.due = min(self.due, by)

    def abort(self) -> None:
        self._transport.abort()

    def _continue(self) -> None:
        """A request has begun: its clock runs, and the client may have to be told to go on."""
        if not self._receiving:
            self._receiving = True
            self.due = self._loop.time() + SLOW_SECONDS
        gate, head = self._server.gate, self._reader.head
        if gate is not None and head is not None and not self._admitted:
            self._admitted = True
            if problem := gate(self._reader.path, head):
                self._refuse(problem)
                return
        if self._reader.awaits_continue:
            self._reader.awaits_continue = False
            self._transport.write(CONTINUE)

    def _wait_for_client(self) -> None:
        self._receiving = self._admitted = False
        self.due = self._loop.time() + SLOW_SECONDS

    def _flow(self) -> None:
        """Read no more than we answer."""
        hold = bool(self._reader.ready) or self._paused
        if hold != self._held_up and not self._transport.is_closing():
            self._held_up = hold
            if hold:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _refuse(self, problem: Problem, linger_seconds: float = LINGER_SECONDS) -> None:
        """Say why, throw away what the client still sends, close."""
        self._closing = True
        self._send(self._app.refuse(problem, self._reader.path), CLOSE)
        self._reader.close()
        if self._transport.is_closing():
            return
        if self._held_up:
            self._held_up = False
            self._transport.resume_reading()
        self.due = self._loop.time() + linger_seconds
        if self._ended:
            self._transport.close()
        elif self._transport.can_write_eof():
            self._transport.write_eof()

    def _close(self) -> None:
        self._closing = True
        self._reader.close()
        self.due = self._loop.time() + LINGER_SECONDS
        self._transport.close()
