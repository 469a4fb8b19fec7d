"""Loading bundles in threads. One that ended the worker while it loaded is not tried a third time."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlplatform.domain.routes import LIVE, Part, Route
from mlplatform.errors import WorldError
from mlplatform.serving import logs
from mlplatform.serving.models.bundles import load_bundle
from mlplatform.serving.models.memory import BESIDE_BYTES, expected_bytes, resident_bytes
from mlplatform.serving.models.predictor import LoadedBundle

THREADS = 8
"""Bundles that load at a time: one that takes long, or for ever, keeps no other waiting."""
DEATHS = 2
"""Workers that may die while a bundle loads; once may be an accident."""
Bundles = Mapping[str, LoadedBundle]
"""By digest."""


class Loader:
    """Loads what a part names and a worker has not loaded yet."""

    def __init__(self, folder: Path) -> None:
        self._marks = folder / "workers"
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="loader")
        self._counting = threading.Lock()
        self._running = self._begun = 0
        self._known: dict[str, int] = {}
        """What bundles were seen to take, by digest."""
        self._runtimes: set[str] = set()

    async def load(self, part: Part, have: Bundles, strict: bool = True) -> Bundles:
        """Every bundle of a part. Raises whatever is wrong with one of them; unless `strict`, versions beside the live
        one that do not load are left out, so that it is not kept from answering: it takes their share."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._load, part, have, strict)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, part: Part, have: Bundles, strict: bool) -> Bundles:
        loaded: dict[str, LoadedBundle] = {}
        live = {route.digest for route in part.routes if route.arm == LIVE}
        for route in (*part.routes, *part.standby):
            try:
                loaded[route.digest] = loaded.get(route.digest) or have.get(route.digest) or self._one(route)
            except Exception as error:
                if strict or not live or route.digest in live:
                    raise
                why = f"routes: {route.model}@{route.version} ({route.arm}) is not loaded: {told(error)}"
                logs.event("beside-not-loaded", why, "error")
        return loaded

    def _one(self, route: Route) -> LoadedBundle:
        with self._marked(route), self._measured() as grown:
            bundle = load_bundle(route)
        manifest = bundle.manifest
        grew = (
            grown[0] if manifest.runtime in self._runtimes else 0
        )  # the first one brings the runtime's own code
        self._runtimes.add(manifest.runtime)
        known = self._known.get(route.digest, 0)
        took = self._known[route.digest] = max(known, grew, expected_bytes(manifest.size_bytes))
        return replace(bundle, memory_bytes=took + BESIDE_BYTES)

    @contextmanager
    def _measured(self) -> Iterator[list[int]]:
        """How much the process grew meanwhile; 0 where others were loaded at the same time."""
        found = [0]
        with self._counting:
            alone, self._running, self._begun = self._running == 0, self._running + 1, self._begun + 1
            begun, before = self._begun, resident_bytes()
        try:
            yield found
        finally:
            with self._counting:
                self._running -= 1
                alone = alone and begun == self._begun
                after = resident_bytes()
            if alone and before is not None and after is not None:
                found[0] = max(0, after - before)

    @contextmanager
    def _marked(self, route: Route) -> Iterator[None]:
        """A file stands while a bundle loads; one whose process is gone tells that loading ended it."""
        self._marks.mkdir(parents=True, exist_ok=True)
        left = [path for path in self._marks.glob(f"{route.digest}.*.loading") if not _alive(path)]
        if len(left) >= DEATHS:
            raise WorldError(
                what=f"{route.model}@{route.version} is not loaded again: {len(left)} workers died while it loaded"
            )
        mark = self._marks / f"{route.digest}.{os.getpid()}.loading"
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def told(error: Exception) -> str:
    """Why something does not load, in one line."""
    return " ".join((str(error) or type(error).__name__).split())[:1000]


def _alive(mark: Path) -> bool:
    try:
        os.kill(int(mark.name.split(".")[1]), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True
