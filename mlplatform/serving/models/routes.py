"""Follow `routes.json`: what is new is loaded beside the old, then one reference is swapped.

Requests in flight hold the arm they began with, so the old models answer until their last request, and are freed
after it. Of a model whose part does not load in every bundle nothing is put into effect: its last good part stays,
other models follow, and the status says why. A newer document does not wait for an older one that is still loading.

A worker that starts with one model loads it before it answers; with several, each at its first request. What changes
later is loaded, verified and warmed before it is in effect.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlplatform.domain.routes import Part, Route, Routes, WorkerStatus
from mlplatform.errors import SHOWN_NAMES
from mlplatform.serving import logs
from mlplatform.serving.files import Stat, stat_of, write_atomically
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.loading import told
from mlplatform.serving.models.predictor import Table
from mlplatform.serving.models.shelf import Shelf, loaded_bundles

LOOK_SECONDS = 0.05


class Router:
    """Holds the table in effect."""

    def __init__(self, folder: Path, metrics: Metrics, on_swap: Callable[[Table], None]) -> None:
        self.table = Table(0)
        self.rejected: int | None = None
        self.error = ""
        self._path = folder / "routes.json"
        self._metrics = metrics
        self._on_swap = on_swap
        self._on_change: Callable[[], None] = lambda: None
        self._seen: Stat | None = None
        self._shelf = Shelf(folder, metrics, self._rebuild)
        self._document: Routes | None = None
        self._behind: dict[str, str] = {}
        """Models that are not served as the document says, and why; "" while they load."""
        self._loads: dict[str, tuple[Part, asyncio.Task[None]]] = {}

    @property
    def failures(self) -> dict[str, str]:
        """What is wrong with single models: why a newer part is not in effect, or why one is not loaded."""
        return {**self._shelf.failures, **{name: why for name, why in self._behind.items() if why}}

    @property
    def sizes_bytes(self) -> dict[tuple[str, str], int]:
        """Of the files of what is loaded, by model and version."""
        return self._shelf.sizes_bytes()

    async def follow(self, on_change: Callable[[], None]) -> None:
        """Look at the document for ever; `on_change` is called when there is something new to report."""
        self._on_change = on_change
        while True:
            if await self._look():
                on_change()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> bool:
        """Put the document into effect, as far as it loads, if it is a new one; whether it was."""
        if not await self._look():
            return False
        while self._loads:
            await asyncio.wait([task for _, task in self._loads.values()])
        return True

    async def wake(self, model: str) -> None:
        """Return once a model is loaded. Raises Unavailable, which says why it is not."""
        await self._shelf.wake(model)

    def close(self) -> None:
        for _, task in self._loads.values():
            task.cancel()
        self._shelf.close()

    def status(self) -> WorkerStatus:
        taken = self._document.generation if self._document else 0
        counts = self._metrics.counts()
        return WorkerStatus(
            os.getpid(), self.table.generation, self.rejected, self.error, counts, taken, dict(self._behind)
        )

    async def _look(self) -> bool:
        if (stat := stat_of(self._path)) in (self._seen, None):
            return False
        self._seen = stat
        try:
            # Not in the loader's threads: bundles that take long must not keep a newer document waiting.
            document, parts = await asyncio.get_running_loop().run_in_executor(None, _read, self._path)
        except (OSError, ValueError) as error:
            self._reject(None, told(error))
            return True
        self._take(document, parts)
        return True

    def _take(self, document: Routes, parts: dict[str, Part]) -> None:
        """What is loaded is in effect at once, of all models; what has to be loaded follows, each model by itself."""
        asleep = self._document is None and len(parts) > 1
        self._document, self._behind = document, {}
        self._shelf.limit(document.memory_mb * 1_000_000)
        for name in self._shelf.models.keys() - parts.keys():
            del self._shelf.models[name]
        for name, (said, task) in list(self._loads.items()):
            if parts.get(name) != said:
                task.cancel()
                del self._loads[name]
        for name, said in parts.items():
            try:
                self._take_part(name, said, asleep)
            except Exception as error:
                self._fail(name, error)
        self._settle()

    def _take_part(self, name: str, said: Part, asleep: bool) -> None:
        before = self._shelf.models.get(name)
        if before is not None and before.said == said:
            return
        said.check()
        if asleep:
            self._shelf.sleep(name, said)
        elif (
            before is not None and {r.digest for r in (*said.routes, *said.standby)} <= before.bundles.keys()
        ):
            self._shelf.put(
                name, said, {r.digest: before.bundles[r.digest] for r in (*said.routes, *said.standby)}
            )
        else:
            self._behind[name] = ""
            if name not in self._loads:
                self._loads[name] = (said, asyncio.create_task(self._load(name, said)))

    async def _load(self, name: str, said: Part) -> None:
        try:
            self._shelf.put(name, said, await self._shelf.load(name, said))
            self._behind.pop(name, None)
        except Exception as error:
            self._fail(name, error)
        del self._loads[name]
        self._settle()
        self._on_change()

    def _settle(self) -> None:
        """Say how far the document is in effect."""
        document = self._document
        assert document is not None
        whole = not self._behind
        if whole and self.table.generation != document.generation:
            self._metrics.swaps += 1
            logs.event(
                "routes-in-effect",
                f"routes: generation {document.generation} in effect: {_listing(document)}",
            )
        refused = {name: why for name, why in self._behind.items() if why}
        if refused:
            self._reject(document.generation, "; ".join(dict.fromkeys(refused.values())))
        else:
            self.rejected, self.error = None, ""
        self._rebuild(document.generation if whole else self.table.generation)

    def _rebuild(self, generation: int | None = None) -> None:
        """Swap the table, if there is something new in it."""
        before, models = self.table, self._shelf.models
        generation = before.generation if generation is None else generation
        arms = tuple(arm for model in models.values() for arm in model.arms)
        asleep = frozenset(name for name, model in models.items() if model.asleep)
        bundles = loaded_bundles(models)
        if (generation, arms, asleep) == (
            before.generation,
            before.arms,
            before.asleep,
        ) and bundles.keys() == before.bundles.keys():
            return
        rule = self._document.capture if self._document else before.rule
        self.table = Table(generation, arms, bundles, rule, asleep)
        self._metrics.generation = generation
        if generation != before.generation or set(before.arms) != set(arms):
            self._on_swap(self.table)

    def _fail(self, name: str, error: Exception) -> None:
        self._behind[name] = told(error)
        self._metrics.swap_failures += 1
        logs.event("routes-part-rejected", f"routes: {name}: {told(error)}", "error", **logs.failure(error))

    def _reject(self, generation: int | None, why: str) -> None:
        self.rejected, self.error = generation, why[:1000]
        if generation is None:
            self._metrics.swap_failures += 1
            logs.event("routes-rejected", f"routes: rejected: {why}", "error")


class StatusFile:
    """`workers/<pid>.json` and `workers/<pid>.metrics`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "workers"
        self._status = self._folder / f"{os.getpid()}.json"
        self._counters = self._folder / f"{os.getpid()}.metrics"
        self._written = b""

    def write(self, status: WorkerStatus, counters: Mapping[str, Any]) -> None:
        """Write the counters (`Metrics.to_dict`), and the status if it has changed. A full disk is reported and stops
        nothing."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # First: who sees a generation in effect finds what it takes.
            write_atomically(self._counters, json.dumps(counters).encode())
            if (encoded := status.encode()) != self._written:
                write_atomically(self._status, encoded)
                self._written = encoded
        except OSError as error:
            logs.limited("status-not-written", f"status: not written: {error}", "error", logs.failure(error))

    def others(self) -> list[Path]:
        """Counters of the other workers of this server, of those too that have ended."""
        return [path for path in self._folder.glob("*.metrics") if path != self._counters]

    def remove(self) -> None:
        self._status.unlink(missing_ok=True)


def _read(path: Path) -> tuple[Routes, dict[str, Part]]:
    document = Routes.decode(path.read_bytes())
    if document.generation < 1:
        raise ValueError(f"{document.generation} is no generation")
    return document, document.parts()


def _listing(document: Routes) -> str:
    shown = ", ".join(map(_one, document.routes[:SHOWN_NAMES])) or "no model"
    more = len(document.routes) - SHOWN_NAMES
    return f"{shown} and {more} more" if more > 0 else shown


def _one(route: Route) -> str:
    return f"{route.model}@{route.version} {route.share:.0%} ({route.arm})"
