"""The connections of one worker: how many, how long, and how they end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving import logs
from mlplatform.serving.problems import Problem, Unavailable
from mlplatform.serving.transport.connection import Application, Connection, Gate
from mlplatform.serving.transport.heads import Heads
from mlplatform.serving.transport.reader import Budget

if TYPE_CHECKING:
    from ssl import SSLContext

BACKLOG = 2048
SWEEP_SECONDS = 0.5
DRAIN_SECONDS = 10.0
LAST_REQUEST_SECONDS = 0.5
"""When the server ends, connections stay open for so long: a request that is just under way is still answered."""
HANDSHAKE_SECONDS = 10.0
DRAIN_TICK_SECONDS = 0.02


class Server:
    """Belongs to an event loop. HTTP/1.1 and 1.0, over TLS when it is given a context."""

    def __init__(
        self,
        app: Application,
        limits: RequestLimits,
        tls: SSLContext | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.app = app
        self.gate = gate
        self.limits = limits
        self.loop = asyncio.get_running_loop()
        self.heads = Heads()
        self.budget = Budget(limits)
        self.draining = False
        self._tls = tls
        self.connections: set[Connection] = set()
        self._afters: list[Callable[[], None]] = []
        self._listeners: list[tuple[socket.socket, asyncio.Server]] = []
        self._timer: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Take connections from a listening socket, beside those that were given before."""
        taking = await self.loop.create_server(
            partial(Connection, self),
            sock=listener,
            backlog=BACKLOG,
            ssl=self._tls,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls else None,
        )
        self._listeners.append((listener, taking))
        if self._timer is None:
            self._tick()

    async def drain(self, replaced: bool = False) -> None:
        """Answer what is there, every response with `connection: close`. Returns when no connection is left, at the
        latest after `DRAIN_SECONDS`. Where another process takes over the socket (`replaced`), new connections are
        answered for a moment yet, so that they need not wait for it; else no more are taken."""
        self.draining = True
        now = self.loop.time()
        if not replaced:
            await self._take_last()
        for connection in list(self.connections):
            connection.drain(now + LAST_REQUEST_SECONDS)
        while self.connections and self.loop.time() < now + LAST_REQUEST_SECONDS:
            await asyncio.sleep(DRAIN_TICK_SECONDS)
        for _, taking in self._listeners:
            taking.close()
        while self.connections and self.loop.time() < now + DRAIN_SECONDS:
            self._sweep()
            await asyncio.sleep(DRAIN_TICK_SECONDS)
        for connection in list(self.connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()
        self._run_afters()

    async def _take_last(self) -> None:
        """Those that the system has connected already would be reset when the socket closes."""
        last = []
        for listener, taking in self._listeners:
            with suppress(OSError):
                while True:
                    last.append(listener.accept()[0])
            taking.close()
        for raw in last:
            raw.setblocking(False)
        connect = partial(self.loop.connect_accepted_socket, partial(Connection, self), ssl=self._tls)
        if last:
            tasks = [asyncio.ensure_future(connect(raw)) for raw in last]
            await asyncio.wait(tasks, timeout=LAST_REQUEST_SECONDS)

    # --- asked by connections ---------------------------------------------------------------------------------

    def opened(self, connection: Connection) -> Problem | None:
        """Why it cannot stay."""
        self.connections.add(connection)
        if len(self.connections) <= self.limits.max_connections:
            return None
        return Unavailable("too many connections are open; try again in 1 s", retry_after=1)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)

    def after(self, call: Callable[[], None]) -> None:
        """Call when the bytes of this turn are written: the loop writes before it calls what is due soon."""
        if not self._afters:
            self.loop.call_soon(self._run_afters)
        self._afters.append(call)

    # --- the clock --------------------------------------------------------------------------------------------

    def _run_afters(self) -> None:
        afters, self._afters = self._afters, []
        for call in afters:
            try:
                call()
            except Exception as error:  # the others' captures must not be lost with it
                logs.limited("after-failed", "what follows an answer failed", "error", logs.failure(error))

    def _tick(self) -> None:
        self.heads.tick()
        self._sweep()
        self._timer = self.loop.call_later(SWEEP_SECONDS, self._tick)

    def _sweep(self) -> None:
        now = self.loop.time()
        for connection in list(self.connections):
            connection.sweep(now)
