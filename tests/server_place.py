"""A server process on a folder of its own, and clients that ask it on and on."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_onnx_bundle
from tests.loading import exchange, head, request

FAST = request("/models/fast/invocations", b'{"inputs": [[0.1, 0.2, 0.3]]}')
SECONDS = 30.0


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.01)
    return found


def fast_route(folder: Path) -> Route:
    """A model that answers at once, made into the folder."""
    return Route("fast", 1, make_onnx_bundle(folder, tuple("abc"), 1, (0, 1)).digest, str(folder))


class Place:
    def __init__(self, root: Path, routes: tuple[Route, ...]) -> None:
        self.documents, self.target = FolderDocuments(root), LocalTarget()
        self.folder = self.documents.folder("e")
        self.documents.publish(Routes("e", 0, routes))

    def start(self, workers: int = 1, **limits: int) -> ServerState:
        spec = ServerSpec("e", self.folder, workers=workers, limits=RequestLimits(**limits))
        self.state = self.target.apply(spec)
        until(lambda: len(self.workers()) == workers)
        return self.state

    def workers(self) -> list[int]:
        return sorted(worker.pid for worker in self.documents.workers("e"))

    def connect(self) -> socket.socket:
        return socket.create_connection((self.state.host, self.state.port), timeout=SECONDS)

    def metrics(self) -> dict[str, float]:
        with self.connect() as raw:
            page = exchange(raw, head("/metrics", method="GET"))[2].decode()
        return {
            name: float(value) for name, value in re.findall(r"^(mlplatform_\S+) (\S+)$", page, re.MULTILINE)
        }


class Clients:
    """Each asks on, as fast as it is answered, and connects again where it is told to. A request that was sent and not
    answered whole is a failure; to find nobody listening any more is the end."""

    def __init__(self, place: Place, count: int = 4) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.lost: list[str] = []
        self.slowest_s = 0.0
        self.heard = set[int]()
        """Clients that had an answer."""
        self._place = place
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(count)
        self._futures = [self._pool.submit(self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                raw = self._place.connect()
            except ConnectionRefusedError:
                return
            with raw:
                self._use(raw)

    def _use(self, raw: socket.socket) -> None:
        answered = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                status, headers, body = exchange(raw, FAST)
            except (OSError, ConnectionError) as error:
                (self.lost if answered else self.failures).append(repr(error))
                return
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.answers[status] += 1
            answered += 1
            self.heard.add(threading.get_ident())
            if status != 200:
                self.failures.append(f"{status}: {body.decode()}")
            if headers.get("connection") == "close":
                return

    def wait_for_more(self, count: int = 200) -> None:
        """Until so many more were answered."""
        wanted = self.answers.total() + count
        until(lambda: self.answers.total() >= wanted or all(future.done() for future in self._futures))

    def stop(self) -> None:
        self._stop.set()
        for future in self._futures:
            future.result()
        self._pool.shutdown()
