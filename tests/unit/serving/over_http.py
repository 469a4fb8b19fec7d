"""An app behind the real transport, on the loop of the test."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import httpx
import uvloop

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving.transport.connection import Application
from mlplatform.serving.transport.server import Server

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the loop that a worker has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


@asynccontextmanager
async def served(app: Application, limits: RequestLimits | None = None) -> AsyncIterator[tuple[Server, int]]:
    """A server on a free port."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Server(app, limits or RequestLimits())
    await server.start(listener)
    try:
        yield server, listener.getsockname()[1]
    finally:
        await server.drain()


@asynccontextmanager
async def client_of(
    app: Application, limits: RequestLimits | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    async with (
        served(app, limits) as (_, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


async def ask_all(
    app: Application, requests: list[tuple[str, str, dict[str, Any]]], limits: RequestLimits | None = None
) -> list[httpx.Response]:
    """One after another."""
    async with client_of(app, limits) as client:
        return [await client.request(method, path, **more) for method, path, more in requests]


@contextmanager
def in_thread(app: Application) -> Iterator[str]:
    """The URL of a server that answers from a thread of its own."""
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event, int]] = Future()

    async def serve() -> None:
        told = asyncio.Event()
        async with served(app) as (_, port):
            ready.set_result((asyncio.get_running_loop(), told, port))
            await told.wait()

    thread = threading.Thread(target=lambda: run(serve()))
    thread.start()
    loop, told, port = ready.result(timeout=30)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(told.set)
        thread.join()
