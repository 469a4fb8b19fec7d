"""One worker process: `python -m mlplatform.serving.worker`, started by `main` with a listening socket and
a pipe.

It ends on SIGTERM, after the requests in flight, and when the pipe closes, because then its parent is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import resource
import signal
import socket
import sys
from pathlib import Path

import uvloop

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving import logs
from mlplatform.serving.access import Access
from mlplatform.serving.app import App
from mlplatform.serving.guards import Guards, add_guards
from mlplatform.serving.limits import add_limits, limits_of
from mlplatform.serving.models.memory import keep_trimmed, steady_heap
from mlplatform.serving.parent.joining import Port, add_port, join
from mlplatform.serving.scrape import installed_version
from mlplatform.serving.seen import Seen, tracer
from mlplatform.serving.telling import Telling, add_telling
from mlplatform.serving.transport.server import Server

CUT_SECONDS = 0.02
"""After SIGTERM the parent cuts the pipe, if it does."""
SWITCH_SECONDS = 0.0005
"""How long the capture thread may hold the interpreter while a request waits."""
OTHER_FILES = 256
"""Descriptors that a worker needs beside its connections."""


async def serve(
    app: App,
    listener: socket.socket,
    lifeline: int,
    limits: RequestLimits,
    guards: Guards,
    port: Port | None = None,
    waits: bool = False,
) -> None:
    """Serve until told to stop; `waits`: not before the parent has seen that we can, and says so on the lifeline."""
    loop, told, opened = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    orphaned = False

    def hear() -> None:
        nonlocal orphaned
        if not os.read(lifeline, 1):
            orphaned = True
            loop.remove_reader(lifeline)
            told.set()
        opened.set()

    loop.set_exception_handler(logs.loop_failed)
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_reader(lifeline, hear)
    certificate = guards.load_certificate()
    beside: list[asyncio.Task[None]] = [asyncio.create_task(keep_trimmed())]
    if certificate is not None:
        app.pages.health.append(certificate.health)
        beside.append(asyncio.create_task(certificate.follow()))
    server = Server(app, limits, certificate.context if certificate else None, app.gate)
    await app.start()
    gc.freeze()
    if waits:
        await asyncio.wait(
            map(asyncio.ensure_future, (opened.wait(), told.wait())), return_when="FIRST_COMPLETED"
        )
    if not told.is_set():
        await server.start(listener)
    if port is not None:
        beside.append(asyncio.create_task(join(port, server.start)))
    await told.wait()
    # The parent cuts the pipe when the whole server ends; else another worker takes over the socket.
    await asyncio.sleep(CUT_SECONDS)
    await server.drain(replaced=not orphaned)
    for task in beside:
        task.cancel()
    await app.stop()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mlplatform.serving.worker", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument(
        "--lifeline", type=int, required=True, help="descriptor of a pipe whose other end the parent holds"
    )
    parser.add_argument("--worker", type=int, default=0, help="its number among the workers of the server")
    parser.add_argument(
        "--wait", action="store_true", help="take no connection until a byte comes through the pipe"
    )
    parser.add_argument("--of", type=int, default=1, help="how many workers the server has")
    add_port(parser)
    add_limits(parser)
    add_guards(parser)
    add_telling(parser)
    given = parser.parse_args(arguments)
    # Until the loop listens to signals. Ctrl-C reaches the whole group; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    steady_heap()
    limits, guards = limits_of(given), Guards.of(given)
    _allow_files(limits.max_connections + OTHER_FILES)
    sys.setswitchinterval(SWITCH_SECONDS)
    app = _app(given, limits, guards)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        listener, port = socket.socket(fileno=given.listener), Port.of_worker(given)
        runner.run(serve(app, listener, given.lifeline, limits, guards, port, given.wait))
    return 0


def _app(given: argparse.Namespace, limits: RequestLimits, guards: Guards) -> App:
    telling = Telling.of(given)
    app = App(given.folder, limits, Access(given.folder, guards.auth))
    metrics = app.plane.metrics
    app.seen = Seen(telling.access, tracer(telling.endpoint, installed_version, metrics))
    metrics.worker = str(given.worker)
    telling.configure(f"worker {given.worker}", metrics.drop_log_line)
    logs.follow_logging()
    return app


def _allow_files(wanted: int) -> None:
    """A shell's usual limit is below what connections may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


if __name__ == "__main__":
    sys.exit(main())
