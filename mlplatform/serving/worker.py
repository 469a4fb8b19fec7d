"""One worker process: `python -m mlplatform.serving.worker`, started by `main` with a listening socket and
a pipe.

It ends on SIGTERM, after the requests in flight, and when the pipe closes, because then its parent is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from mlplatform.serving.app import MAX_BODY_BYTES, App

DRAIN_SECONDS = 10
SLOW_SOCKET_SECONDS = 12.0
SWITCH_SECONDS = 0.0005
"""How long the capture thread may hold the interpreter while a request waits."""


class Server(uvicorn.Server):
    """uvicorn, and connections that keep us waiting are closed."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._waiting_since: dict[Any, float] = {}

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_slow_sockets(time.monotonic())
        return await super().on_tick(counter)

    def _close_slow_sockets(self, now: float) -> None:
        """A request must be complete this long after its connection, or its first byte, was there."""
        waiting = {
            c: self._waiting_since.get(c, now) for c in self.server_state.connections if _awaits_client(c)
        }
        self._waiting_since = waiting
        for connection, since in waiting.items():
            if now - since > SLOW_SOCKET_SECONDS and connection.transport is not None:
                connection.transport.close()


def run(folder: Path, listener: socket.socket, lifeline: int, max_body_bytes: int = MAX_BODY_BYTES) -> None:
    """Serve until told to stop."""
    sys.setswitchinterval(SWITCH_SECONDS)
    config = uvicorn.Config(
        App(folder, max_body_bytes),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        backlog=2048,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = Server(config)
    _stop_with_parent(server, lifeline)
    gc.freeze()
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))


def _awaits_client(connection: Any) -> bool:
    """Whether the next step is the client's: the first request, the rest of one, or of the next one."""
    cycle = connection.cycle
    if cycle is None:
        return True
    if cycle.response_complete:
        return connection.timeout_keep_alive_task is None
    return bool(cycle.more_body)


def _stop_with_parent(server: uvicorn.Server, lifeline: int) -> None:
    def wait() -> None:
        os.read(lifeline, 1)
        server.should_exit = True

    threading.Thread(target=wait, name="lifeline", daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mlplatform.serving.worker", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--listener", type=int, required=True, help="descriptor of the listening socket")
    parser.add_argument(
        "--lifeline", type=int, required=True, help="descriptor of a pipe whose other end the parent holds"
    )
    parser.add_argument("--max-body-bytes", type=int, default=MAX_BODY_BYTES)
    given = parser.parse_args(arguments)
    # Ctrl-C reaches the whole group; the parent passes it on as SIGTERM. uvicorn raises the signal again at
    # its end.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(given.folder, socket.socket(fileno=given.listener), given.lifeline, given.max_body_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
