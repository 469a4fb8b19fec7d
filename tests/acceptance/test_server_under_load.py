"""A server process that has more to do than it can: it says so at once, ends what takes too long, closes who is slow,
loses no request when it or a worker ends, and answers on while a killed worker comes back.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.routes import Route
from mlplatform.testing.bundles import make_slow_bundle
from tests.loading import exchange, head, request, response
from tests.server_place import FAST, SECONDS, Clients, Place, fast_route, until


def slow(turns: float) -> bytes:
    """A request that takes about two microseconds a turn."""
    return request("/models/slow/invocations", json.dumps({"inputs": [[turns]]}).encode())


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Route, ...]:
    """A model that answers at once, and one that takes as long as a request says."""
    root = tmp_path_factory.mktemp("bundles")
    sluggish = make_slow_bundle(root / "slow")
    return (fast_route(root / "fast"), Route("slow", 1, sluggish.digest, str(root / "slow")))


@pytest.fixture
def place(server_place: Place) -> Place:
    return server_place


# --- more than it can ---------------------------------------------------------------------------------------


def test_what_is_too_much_is_told_to_come_again_and_the_rest_is_answered(place: Place) -> None:
    place.start(max_waiting=24)  # of which one model of several may have a part
    ready = threading.Barrier(30)

    def ask(_: int) -> tuple[int, dict[str, str], Any]:
        with place.connect() as raw:
            ready.wait()
            status, headers, body = exchange(raw, slow(100_000))
            if status == 429:  # the connection is as good as before
                assert exchange(raw, head("/ping", method="GET"))[0] == 200
            return status, headers, json.loads(body)

    with ThreadPoolExecutor(30) as pool:
        found = list(pool.map(ask, range(30)))
    seen = Counter(status for status, _, _ in found)
    print(dict(seen), {page["message"] for status, _, page in found if status == 429})
    assert set(seen) == {200, 429}
    assert seen[200] >= 6
    for status, headers, page in found:
        if status == 429:
            assert int(headers["retry-after"]) >= 1
            assert page["error_code"] == "RESOURCE_EXHAUSTED"
            assert "try again in" in page["message"]
        else:
            assert page == {"predictions": [100_000.0]}
    with place.connect() as raw:
        assert exchange(raw, slow(10))[0] == 200
        assert exchange(raw, FAST)[0] == 200


def large(model: str, turns: float, rows: int) -> bytes:
    """A request of eight bytes a row; a slow model takes so many turns for all of them."""
    column = np.zeros((rows, 1))
    column[0] = turns
    shape = {
        "name": "rows",
        "datatype": "FP64",
        "shape": [rows, 1],
        "parameters": {"binary_data_size": 8 * rows},
    }
    start = json.dumps({"inputs": [shape]}).encode()
    line = f"Inference-Header-Content-Length: {len(start)}"
    return request(
        f"/v2/models/{model}/infer", start + column.tobytes(), line, content_type="application/octet-stream"
    )


def test_large_bodies_that_wait_are_bounded_by_bytes_and_small_requests_are_answered(place: Place) -> None:
    """64 bodies of 4 MB at a slow model of two: a quarter of 16 of the largest wait, whatever their number."""
    place.start(max_body_bytes=5_000_000, deadline_ms=60_000)
    (worker,) = place.workers()
    body = large("slow", 500_000, 500_000)
    with place.connect() as raw:
        assert exchange(raw, large("slow", 1, 500_000))[0] == 200  # what one takes is taken now
    before = peak_bytes(worker)
    raws = [place.connect() for _ in range(64)]
    for raw in raws:  # one after the other: none of them is refused on its way
        raw.sendall(body)
        with place.connect() as other:
            assert exchange(other, FAST)[0] == 200
    found = [response(raw) for raw in raws]
    for raw in raws:
        raw.close()
    seen = Counter(status for status, _, _ in found)
    assert set(seen) == {200, 429}
    assert seen[200] >= 5_000_000 * 16 // 4 // len(body)
    refused = [(headers, json.loads(page)["error"]) for status, headers, page in found if status == 429]
    assert {headers["retry-after"] for headers, _ in refused} == {"1"}
    assert all(
        re.fullmatch(r"bodies of \d+ bytes wait for slow already; try again in 1 s", said)
        for _, said in refused
    )
    assert peak_bytes(worker) - before < 100_000_000, (
        "64 of them are 256 MB, and as much again once they are decoded"
    )
    counted = place.metrics()
    assert (
        sum(n for name, n in counted.items() if 'protocol="v2"' in name and 'status="429"' in name)
        == seen[429]
    )
    with place.connect() as raw:
        assert exchange(raw, large("slow", 1, 500_000))[0] == 200


def peak_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def test_connections_beyond_the_limit_are_told_to_come_again(place: Place) -> None:
    place.start(max_connections=20)
    held = [place.connect() for _ in range(20)]
    assert all(exchange(raw, FAST)[0] == 200 for raw in held)
    with place.connect() as raw:
        status, headers, body = response(raw)
    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
    assert json.loads(body)["error_code"] == "TEMPORARILY_UNAVAILABLE"
    held.pop().close()

    def is_free() -> bool:
        with place.connect() as raw:
            return exchange(raw, FAST)[0] == 200

    until(is_free)
    for raw in held:
        assert exchange(raw, FAST)[0] == 200
        raw.close()


def test_a_request_that_takes_too_long_is_told_so_and_counted_once(place: Place) -> None:
    place.start(deadline_ms=300)
    clients = Clients(place)
    with place.connect() as raw:
        began = time.monotonic()
        status, _, body = exchange(raw, slow(1_000_000))
        took_s = time.monotonic() - began
        assert (status, json.loads(body)["error_code"]) == (504, "DEADLINE_EXCEEDED")
        assert 0.29 < took_s < 2.0
        infer = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [1_000_000]}]}
        status, _, body = exchange(raw, request("/v2/models/slow/infer", json.dumps(infer).encode()))
        assert (status, json.loads(body)) == (504, {"error": "there was no answer within 0.3 s"})
        assert exchange(raw, FAST)[0] == 200
    clients.wait_for_more()
    clients.stop()
    assert clients.failures + clients.lost == []

    def late() -> dict[str, float]:
        return {
            n: v for n, v in place.metrics().items() if "requests_total" in n and 'model="slow"' in n and v
        }

    # What the threads still do is over once a short one is answered behind it.
    with place.connect() as raw:
        until(lambda: exchange(raw, slow(10))[0] == 200)
    counted = until(late)  # a scrape has the same deadline, and may miss it
    assert sum(value for name, value in counted.items() if 'status="504"' in name) >= 2
    assert sum(value for name, value in counted.items() if 'status="200"' in name) == 1


# --- slow clients -------------------------------------------------------------------------------------------


def test_slow_sockets_are_closed_and_others_are_served_meanwhile(place: Place) -> None:
    place.start()
    started = head("/models/fast/invocations", "Content-Type: application/json", "Content-Length: 100")
    pages = head("/openapi.json", method="GET")
    ways: dict[str, tuple[bytes, str]] = {
        "says nothing": (b"", ""),
        "stops in its head": (started[:40], "408"),
        "stops in its body": (started + b'{"inputs"', "408"),
        "stops in a chunk": (head("/labels", "Transfer-Encoding: chunked") + b"5\r\n{", "408"),
        "asks once and stays": (FAST, "200"),
        "does not read": (pages * 3000, ""),
    }
    clients, began = Clients(place, 2), time.monotonic()
    held = [(way, place.connect()) for way in ways for _ in range(10)]
    for way, raw in held:
        raw.settimeout(1.0 if way == "does not read" else SECONDS)
        try:
            raw.sendall(ways[way][0])
        except TimeoutError:
            assert way == "does not read"
    trickle = place.connect()
    threading.Thread(target=_trickle, args=(trickle,), daemon=True).start()
    for way, raw in held:
        if way != "does not read":
            assert _said(raw)[9:12].decode() == ways[way][1], way
    assert _said(trickle)[9:12] == b"408"
    trickle.close()
    until(lambda: _connections(place) <= 3)
    took_s = time.monotonic() - began
    clients.stop()
    print(
        f"{len(held) + 1} slow sockets closed after {took_s:.1f} s, {clients.answers[200]} answers meanwhile"
    )
    assert took_s < 15
    assert clients.failures + clients.lost == []
    for _, raw in held:
        raw.close()


def _trickle(raw: socket.socket) -> None:
    """A byte now and then, of a head that is right as far as it goes."""
    pause = threading.Event()
    try:
        for byte in head("/ping", *["A: b"] * 1000, method="GET"):
            raw.sendall(bytes([byte]))
            pause.wait(0.2)
    except OSError:
        return


def _said(raw: socket.socket) -> bytes:
    try:
        return b"".join(iter(lambda: raw.recv(65536), b""))
    except ConnectionResetError:
        return b""


def _connections(place: Place) -> int:
    """Sockets of clients that the worker has not closed, whatever their state."""
    (pid,) = place.workers()
    local, listens, closed = f"{place.state.port:04X}", "0A", "0"
    table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in table if row[1].endswith(":" + local)]
    return sum(1 for row in ours if row[3] != listens and row[9] != closed)


# --- ends ---------------------------------------------------------------------------------------------------


def test_a_server_that_ends_fails_no_request(place: Place) -> None:
    state = place.start(workers=2)
    clients, waiting = Clients(place, 6), place.connect()
    idle = place.connect()
    assert exchange(idle, FAST)[0] == 200
    waiting.sendall(slow(300_000))
    clients.wait_for_more()
    os.kill(state.pid, signal.SIGTERM)
    assert response(waiting)[0] == 200
    assert idle.recv(1) == b""
    clients.wait_for_more(10**9)
    clients.stop()
    print(f"{clients.answers[200]} answers; not answered: {clients.failures + clients.lost}")
    assert clients.failures + clients.lost == []
    until(lambda: not place.target.status(place.folder).running)
    waiting.close()
    idle.close()


def test_a_worker_that_ends_fails_no_request_and_another_takes_its_place(place: Place) -> None:
    place.start(workers=2)
    clients = Clients(place, 6)
    clients.wait_for_more()
    for _ in range(3):
        before = place.workers()
        os.kill(before[0], signal.SIGTERM)
        until(lambda: len(now := place.workers()) == 2 and before[0] not in now)  # noqa: B023
        clients.wait_for_more()
    clients.stop()
    print(f"{clients.answers[200]} answers, the slowest in {clients.slowest_s * 1000:.0f} ms")
    assert clients.failures + clients.lost == []


def test_a_killed_worker_costs_its_connections_a_request_and_the_others_nothing(place: Place) -> None:
    place.start(workers=2)
    clients = Clients(place, 6)
    until(lambda: len(clients.heard) == 6)  # what is lost below was a connection that worked
    victim = place.workers()[0]
    os.kill(victim, signal.SIGKILL)
    began, during = time.monotonic(), clients.answers.total()
    until(lambda: clients.answers.total() > during + 50)
    until(lambda: len(now := place.workers()) == 2 and victim not in now)
    back_s = time.monotonic() - began
    clients.wait_for_more()
    clients.stop()
    print(f"back after {back_s:.1f} s; lost {clients.lost}; {clients.answers[200]} answers")
    assert clients.failures == []
    assert len(clients.lost) <= 6


def test_connections_are_spread_over_the_workers(place: Place) -> None:
    place.start(workers=2)
    held = [place.connect() for _ in range(200)]
    assert all(exchange(raw, FAST)[0] == 200 for raw in held)
    counts = [sum(1 for _ in _sockets(pid)) for pid in place.workers()]
    print(f"sockets of the workers: {counts}")
    assert min(counts) > 60
    for raw in held:
        raw.close()


def _sockets(pid: int) -> Iterator[str]:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if (aim := os.readlink(entry)).startswith("socket:"):
            yield aim
