"""The models of one worker: each loaded, or asleep until somebody asks for it.

What a loaded model takes is what the process grew by while it was loaded and warmed, and at least what the size of its
files says: that is all there is to go by for one that was loaded beside others, or was the first of its runtime.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform.domain.counts import SHADOW
from mlplatform.domain.routes import Part
from mlplatform.serving import logs
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.loading import Bundles, Loader, told
from mlplatform.serving.models.memory import give_back, own_blocks
from mlplatform.serving.models.predictor import Arm, LoadedBundle
from mlplatform.serving.problems import Unavailable

WAIT_SECONDS = 10.0
"""How long a request waits for its model to load."""
RETRY_SECONDS = 5.0
"""How long a model that did not load is not tried again."""
TRIM_SECONDS = 1.5
"""After an eviction: requests in flight and open capture blocks hold the model for about a second."""


@dataclass(frozen=True)
class Model:
    """A model as it is in effect."""

    said: Part
    arms: tuple[Arm, ...] = ()
    bundles: Bundles = field(default_factory=dict)
    """None while it is asleep."""

    @property
    def asleep(self) -> bool:
        return bool(self.said.routes) and not self.arms

    @property
    def used_at(self) -> float:
        """When a request came for it last, by perf_counter."""
        return max((arm.used_at for arm in self.arms), default=0.0)


@dataclass(frozen=True)
class Failure:
    """A model that did not load when it was asked for."""

    said: Part
    why: str
    retry_at: float


class Shelf:
    """Belongs to the event loop. `on_change` is called after a model was woken or put to sleep."""

    def __init__(self, folder: Path, metrics: Metrics, on_change: Callable[[], None]) -> None:
        self.models: dict[str, Model] = {}
        self._limit_bytes = 0
        self._loader = Loader(folder)
        self._metrics = metrics
        self._on_change = on_change
        self._waking: dict[str, tuple[float, asyncio.Task[None]]] = {}
        self._failures: dict[str, Failure] = {}
        self._trimming: asyncio.TimerHandle | None = None

    @property
    def failures(self) -> dict[str, str]:
        """Why models that were asked for are not loaded."""
        found = self._failures.items()
        return {name: f.why for name, f in found if name in self.models and self.models[name].said == f.said}

    def sizes_bytes(self) -> dict[tuple[str, str], int]:
        """Of the files of what is loaded, by model and version."""
        return {
            (route.model, str(route.version)): model.bundles[route.digest].manifest.size_bytes
            for model in self.models.values()
            for route in (*model.said.routes, *model.said.standby)
            if route.digest in model.bundles
        }

    def limit(self, limit_bytes: int) -> None:
        """What the loaded ones may take; 0 is no limit. The one that was asked last stays in any case."""
        if limit_bytes and not self._limit_bytes:
            own_blocks()
        self._limit_bytes = limit_bytes

    async def load(self, name: str, said: Part) -> Bundles:
        """What a new part needs beside what is loaded. A model that answers is not replaced by half a part."""
        before = self.models.get(name)
        return await self._loader.load(said, before.bundles if before else {}, strict=before is not None)

    def put(self, name: str, said: Part, bundles: Bundles) -> None:
        """A model's part is in effect from now on. Raises whatever its bundles do not fit to."""
        loaded = [r for r in said.routes if r.digest in bundles]
        arms = [Arm(r, bundles[r.digest], said.capture, self._metrics) for r in loaded]
        for shadow in (r for r in said.standby if r.arm == SHADOW and r.digest in bundles):
            for arm in arms:
                arm.shadow = Arm(shadow, bundles[shadow.digest], said.capture, self._metrics)
        self.models[name] = Model(said, tuple(arms), bundles)
        self._failures.pop(name, None)
        self._fit()

    def sleep(self, name: str, said: Part) -> None:
        """A model's part is in effect, and loaded when somebody asks for it."""
        self.models[name] = Model(said)

    async def wake(self, name: str) -> None:
        """Return once a model is loaded. Raises Unavailable, which says why it is not."""
        model = self.models.get(name)
        if model is None or not model.asleep:
            return
        now = time.monotonic()
        failed = self._failures.get(name)
        if failed is not None and failed.said == model.said and now < failed.retry_at:
            raise Unavailable(failed.why)
        if name not in self._waking:
            self._waking[name] = (now, asyncio.create_task(self._wake(name, model)))
        since, task = self._waking[name]
        await self._wait(name, since + WAIT_SECONDS - now, task)

    def close(self) -> None:
        for _, task in self._waking.values():
            task.cancel()
        if self._trimming is not None:
            self._trimming.cancel()
        self._loader.close()

    async def _wait(self, name: str, seconds: float, task: asyncio.Task[None]) -> None:
        """A task that takes long goes on; only those that wait are told."""
        done, _ = await asyncio.wait([task], timeout=max(0.0, seconds))
        if not done:
            raise Unavailable(f"{name} is still loading after {WAIT_SECONDS:.0f} s")
        failed, model = self._failures.get(name), self.models.get(name)
        if failed is not None and model is not None and model.asleep:
            raise Unavailable(failed.why)

    async def _wake(self, name: str, model: Model) -> None:
        try:
            bundles = await self._loader.load(model.said, {}, strict=False)
            if self.models.get(name) is model:  # no newer document meanwhile
                self.put(name, model.said, bundles)
        except Exception as error:
            why = f"{name} is not loaded: {told(error)}"
            self._failures[name] = Failure(model.said, why, time.monotonic() + RETRY_SECONDS)
            self._metrics.model_load_failures += 1
            logs.event("model-not-loaded", why, "error", **logs.failure(error))
        else:
            self._metrics.model_loads += 1
            self._on_change()
        finally:
            del self._waking[name]

    def _fit(self) -> None:
        """Put those to sleep that were asked the longest ago, until the others fit."""
        loaded = sorted(
            ((name, model) for name, model in self.models.items() if model.bundles),
            key=lambda m: m[1].used_at,
        )
        taken = sum(b.memory_bytes for b in loaded_bundles(self.models).values())
        for name, model in loaded[:-1]:
            if not self._limit_bytes or taken <= self._limit_bytes:
                return
            taken -= sum(b.memory_bytes for b in model.bundles.values())
            self.models[name] = Model(model.said)
            self._metrics.model_evictions += 1
            self._trim_soon()

    def _trim_soon(self) -> None:
        if self._trimming is None:
            self._trimming = asyncio.get_running_loop().call_later(TRIM_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trimming = None
        asyncio.get_running_loop().run_in_executor(None, give_back)


def loaded_bundles(models: Mapping[str, Model]) -> dict[str, LoadedBundle]:
    """By digest: models may share one."""
    return {digest: bundle for model in models.values() for digest, bundle in model.bundles.items()}
