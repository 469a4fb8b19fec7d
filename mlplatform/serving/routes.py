"""Follow `routes.json`: a new document is loaded beside the old one, then one reference is swapped.

Requests in flight hold the table they began with, so the old models answer until their last request, and
are freed after it. A document that does not load in every part is not put into effect in any: the last good
one stays, and the status says why.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlplatform.domain.routes import Route, Routes, WorkerStatus
from mlplatform.errors import MlplatformError
from mlplatform.serving.bundles import load_bundle
from mlplatform.serving.files import write_atomically
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.predictor import Arm, LoadedBundle, Table

LOOK_SECONDS = 0.05
Stat = tuple[int, int, int]


class Router:
    """Holds the table in effect."""

    def __init__(self, folder: Path, metrics: Metrics, on_swap: Callable[[Table], None]) -> None:
        self.table = Table(0)
        self.rejected: int | None = None
        self.error = ""
        self._path = folder / "routes.json"
        self._metrics = metrics
        self._on_swap = on_swap
        self._seen: Stat | None = None
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Look at the document for ever; `on_change` is called when there is something new to report."""
        while True:
            if await self.look():
                on_change()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Put the document into effect if it is a new one; whether it was."""
        if (stat := _stat(self._path)) in (self._seen, None):
            return False
        self._seen = stat
        loop = asyncio.get_running_loop()
        table = self.table
        document: Routes | None = None
        try:
            document = await loop.run_in_executor(self._loader, _read, self._path)
            bundles = await loop.run_in_executor(self._loader, load_all, document, table.bundles)
            self._swap(document, bundles)
        except Exception as error:
            self._reject(document, error)
        return True

    def close(self) -> None:
        self._loader.shutdown(wait=False, cancel_futures=True)

    def status(self) -> WorkerStatus:
        generation, counts = self.table.generation, self._metrics.counts()
        return WorkerStatus(os.getpid(), generation, self.rejected, self.error, counts)

    def _swap(self, document: Routes, bundles: dict[str, LoadedBundle]) -> None:
        arms = [Arm(r, bundles[r.digest], document.capture, self._metrics) for r in document.routes]
        table = Table(document.generation, arms, bundles, document.capture)
        self.table = table
        self.rejected, self.error = None, ""
        self._metrics.generation = table.generation
        self._metrics.swaps += 1
        self._on_swap(table)
        print(f"routes: generation {table.generation} in effect: {_listing(document)}", flush=True)

    def _reject(self, document: Routes | None, error: Exception) -> None:
        if not isinstance(error, (MlplatformError, OSError, ValueError)):
            traceback.print_exception(error)
        self.rejected = document.generation if document else None
        self.error = " ".join((str(error) or type(error).__name__).split())[:1000]
        self._metrics.swap_failures += 1
        print(f"routes: generation {self.rejected} rejected: {self.error}", flush=True)


class StatusFile:
    """`workers/<pid>.json` and `workers/<pid>.metrics`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"
        self._status = self._folder / f"{os.getpid()}.json"
        self._counters = self._folder / f"{os.getpid()}.metrics"
        self._written = b""

    def write(self, status: WorkerStatus, counters: bytes | None = None) -> None:
        """Write what has changed. A full disk is reported and does not stop anything."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if (encoded := status.encode()) != self._written:
                write_atomically(self._status, encoded)
                self._written = encoded
            if counters is not None:
                write_atomically(self._counters, counters)
        except OSError as error:
            print(f"status: not written: {error}", flush=True)

    def others(self) -> list[Path]:
        """Counters of the other workers of this server, of those too that have ended."""
        return [path for path in self._folder.glob("*.metrics") if path != self._counters]

    def remove(self) -> None:
        self._status.unlink(missing_ok=True)


def load_all(document: Routes, loaded: dict[str, LoadedBundle]) -> dict[str, LoadedBundle]:
    """Every bundle of a document by digest; those that are loaded already are used again."""
    check(document)
    bundles: dict[str, LoadedBundle] = {}
    for route in (*document.routes, *document.standby):
        if route.digest not in bundles:
            bundles[route.digest] = loaded.get(route.digest) or load_bundle(route)
    return bundles


def check(document: Routes) -> None:
    """ValueError for a document that cannot be carried out."""
    shares = [route.share for route in document.routes]
    if any(not 0 <= share <= 1 for share in shares) or (shares and abs(sum(shares) - 1) > 1e-6):
        raise ValueError(f"the shares {shares} do not add up to 1")
    if document.generation < 1:
        raise ValueError(f"{document.generation} is no generation")


def _read(path: Path) -> Routes:
    return Routes.decode(path.read_bytes())


def _stat(path: Path) -> Stat | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _listing(document: Routes) -> str:
    return ", ".join(map(_one, document.routes)) or "no model"


def _one(route: Route) -> str:
    return f"{route.model}@{route.version} {route.share:.0%} ({route.arm})"
