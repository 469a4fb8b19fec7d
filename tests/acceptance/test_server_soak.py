"""An hour of mixed load: good requests, every bad input, labels, swaps and ingests, and the workers do not grow.

`make soak`; `MLPLATFORM_SOAK_MINUTES` sets how long.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from statistics import median

import pytest

from mlplatform.data.observations import FolderObservations
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_mixed_bundle, make_onnx_bundle
from tests.acceptance.test_server_bad_input import BAD, BODY_LIMIT, GOOD, NAMES, told
from tests.loading import exchange, request
from tests.served_models import lengths

MINUTES = float(os.environ.get("MLPLATFORM_SOAK_MINUTES", "60"))
GROWTH = 1.05
WARM = 0.2
"""Share of the time in which caches, pools and the allocator fill."""
MIXED = {"dataframe_records": [{"amount": 45.0, "age": 7, "vip": True, "city": "Wien"}]}
GOOD_ONES = (
    GOOD,
    request("/models/mixed/invocations", json.dumps(MIXED).encode()),
    request("/models/plain/invocations", json.dumps({"inputs": [[0.1] * len(NAMES)] * 64}).encode()),
)


class Server:
    """Two workers, one model in two versions that take turns, and two others beside it."""

    def __init__(self, root: Path) -> None:
        self.documents = FolderDocuments(root / "servers")
        self.observations = FolderObservations(self.documents.folder)
        self.folder = self.documents.folder("e")
        self._root, self._target = root, LocalTarget()
        self._plain = [make_onnx_bundle(root / f"plain{i}", NAMES, i, (0, 1)) for i in (1, 2)]
        self.swap(1)
        others = {"mixed": make_mixed_bundle(root / "mixed"), "waves": lengths(root / "waves")}
        for name, made in others.items():
            self.documents.publish(Routes("e", 0, (Route(name, 1, made.digest, str(root / name)),)), name)
        limits = RequestLimits(max_body_bytes=BODY_LIMIT)
        self.state = self._target.apply(ServerSpec("e", self.folder, workers=2, limits=limits))

    def swap(self, version: int) -> int:
        digest, path = self._plain[version - 1].digest, str(self._root / f"plain{version}")
        document = Routes("e", 0, (Route("plain", version, digest, path),))
        return self.documents.publish(document, "plain").generation

    def memory_bytes(self) -> int:
        """Of all workers, without files that they map: whose part of those is whose depends on the other programs."""
        pids = Path(f"/proc/{self.state.pid}/task/{self.state.pid}/children").read_text().split()
        assert len(pids) == 2, "a worker died"
        return sum(map(anonymous_bytes, pids))

    def stop(self) -> None:
        self._target.stop(self.folder)


def anonymous_bytes(pid: str) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("Pss_Anon:")).split()[1])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    yield made
    made.stop()


def ask(state: ServerState, stop: threading.Event) -> int:
    """Good requests on one connection, each answered with 200; how many."""
    with socket.create_connection((state.host, state.port), timeout=30) as raw:
        for count, sent in enumerate(cycle(GOOD_ONES)):
            if stop.wait(0.004):
                return count
            status, _, body = exchange(raw, sent)
            assert status == 200, body
    raise AssertionError("unreachable: the requests never end")


def harm(state: ServerState, stop: threading.Event) -> int:
    """Bad inputs, and now and then a client that leaves in the middle; how many."""
    for count, bad in enumerate(cycle(BAD)):
        if stop.wait(0.02):
            return count
        status, _ = told(state, bad)
        assert status == bad.status, bad.name
        with socket.create_connection((state.host, state.port), timeout=30) as raw:
            raw.sendall(GOOD[: 20 + count % (len(GOOD) - 20)])
    raise AssertionError("unreachable: the inputs never end")


def keep_house(server: Server, stop: threading.Event) -> int:
    """What the control plane does: swap the version, collect what was captured; how often."""
    count = 0
    while not stop.wait(5):
        server.swap(1 + count % 2)
        server.observations.ingest("e")
        count += 1
    return count


@pytest.mark.soak
def test_under_mixed_load_the_workers_do_not_grow(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    stop, sizes = threading.Event(), list[tuple[float, int]]()
    jobs: list[Callable[[], int]] = [lambda: ask(server.state, stop)] * 4
    jobs += [lambda: harm(server.state, stop), lambda: keep_house(server, stop)]
    began, seconds = time.monotonic(), MINUTES * 60
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(job) for job in jobs]
        while time.monotonic() - began < seconds and not any(job.done() for job in running):
            stop.wait(seconds / 200)
            sizes.append(((time.monotonic() - began) / seconds, server.memory_bytes()))
        stop.set()
        *asked, harmed, kept = [job.result() for job in running]
    early = median(size for at, size in sizes if WARM <= at < 2 * WARM)
    late = median(size for at, size in sizes if at >= 1 - WARM)
    with capsys.disabled():
        print(
            f"\n{MINUTES:g} minutes: {sum(asked):,} answers, {harmed:,} bad inputs, {kept} swaps and ingests;"
            f" two workers {early / 1e6:.1f} MB, then {late / 1e6:.1f} MB ({late / early - 1:+.1%})"
        )
    assert late < early * GROWTH
