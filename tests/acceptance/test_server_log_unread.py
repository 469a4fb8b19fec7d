"""A server whose log is a full pipe that nobody reads goes on: it answers, replaces a dead worker, counts, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.ports.extensions import ServerState
from tests.loading import exchange
from tests.server_place import FAST, Clients, Place, fast_route, until


@pytest.fixture
def unread() -> Iterator[int]:
    """A full pipe: its writing end."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while os.write(write, b"." * 4096):
            continue
    except BlockingIOError:
        os.set_blocking(write, True)
    yield write
    os.close(read)
    os.close(write)


def test_a_log_that_nobody_reads_stops_no_request_and_no_restart(tmp_path: Path, unread: int) -> None:
    place = Place(tmp_path / "servers", (fast_route(tmp_path / "fast"),))
    command = [sys.executable, "-P", "-m", "mlplatform.serving.main", "--folder", str(place.folder)]
    command += ["--workers", "2", "--access-log", "--log-style", "json"]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=unread, stderr=unread)
    try:
        until(lambda: (place.folder / "server.json").exists() and len(place.workers()) == 2)
        found = json.loads((place.folder / "server.json").read_bytes())
        place.state = ServerState("e", True, found["host"], found["port"])
        clients = Clients(place, 4)
        clients.wait_for_more(5000)  # access lines of more than what is held
        victim = place.workers()[0]
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(now := place.workers()) == 2 and victim not in now)
        clients.wait_for_more(1000)
        clients.stop()
        assert clients.failures == []
        with place.connect() as raw:
            assert exchange(raw, FAST)[0] == 200
        until(lambda: place.metrics()["mlplatform_dropped_log_lines_total"] > 1000)
    finally:
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
