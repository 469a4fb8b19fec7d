"""Requests that wait for a model or a thread: how many at a time, with bodies of how many bytes, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving.calls import Eventually, Response
from mlplatform.serving.problems import TooBusy, TooLate

SHARED_BY = 4
"""Where several models are, one may take so large a part of what a worker takes on: a quarter."""


SMALL_BODY_BYTES = 65_536
"""Bodies up to this are bounded by the number of requests: 1024 of them hold 64 MB."""


class Waiting(NamedTuple):
    due: float
    give_up: Callable[[TooLate], Response]


class InFlight:
    """Belongs to an event loop. One that was given up counts until its work is done: threads cannot be stopped."""

    def __init__(self, limits: RequestLimits) -> None:
        self.count = 0
        self.held_bytes = 0
        """Of large bodies."""
        self._most, self._most_bytes = limits.max_waiting, limits.held_bytes
        self._of: dict[str, int] = {}
        self._bytes_of: dict[str, int] = {}
        """By model, where there are several."""
        self._deadline_s = limits.deadline_ms / 1000
        self._waiting: dict[Eventually, Waiting] = {}
        """In the order of their deadlines, for all have the same time."""
        self._timer: asyncio.TimerHandle | None = None

    def admit(self, model: str = "", body_bytes: int = 0) -> None:
        """Raises TooBusy when too many wait already, or too large ones. `model`: one of several, which may not take
        what the others need."""
        if body_bytes > SMALL_BODY_BYTES:
            self._admit_large(model, body_bytes)
        if model and self._of.get(model, 0) >= max(1, self._most // SHARED_BY):
            raise TooBusy(
                f"{self._of[model]} requests wait for {model} already; try again in 1 s", retry_after=1
            )
        if self.count >= self._most:
            raise TooBusy(f"{self.count} requests wait already; try again in 1 s", retry_after=1)

    def _admit_large(self, model: str, body_bytes: int) -> None:
        held, most = self._bytes_of.get(model, 0), self._most_bytes // SHARED_BY
        if model and held and held + body_bytes > most:
            raise TooBusy(f"bodies of {held} bytes wait for {model} already; try again in 1 s", retry_after=1)
        if self.held_bytes + body_bytes > self._most_bytes:
            raise TooBusy(f"bodies of {self.held_bytes} bytes wait already; try again in 1 s", retry_after=1)

    def begin(
        self, give_up: Callable[[TooLate], Response], model: str = "", body_bytes: int = 0
    ) -> Eventually:
        """A request that gets its response later; `give_up` makes the one for when that is too late. The others as in
        `admit`."""
        loop = asyncio.get_running_loop()
        eventually = Eventually()
        self.count += 1
        if model:
            self._of[model] = self._of.get(model, 0) + 1
        if body_bytes > SMALL_BODY_BYTES:
            self._hold(model, body_bytes)
        waiting = self._waiting[eventually] = Waiting(loop.time() + self._deadline_s, give_up)
        if self._timer is None:
            self._timer = loop.call_at(waiting.due, self._look)
        return eventually

    def end(self, eventually: Eventually, model: str = "", body_bytes: int = 0) -> bool:
        """Its work is done; whether somebody still waits for the response. `model` and bytes as at its beginning."""
        self.count -= 1
        if model:
            self._of[model] -= 1
        if body_bytes > SMALL_BODY_BYTES:
            self._hold(model, -body_bytes)
        return self._waiting.pop(eventually, None) is not None

    def _hold(self, model: str, body_bytes: int) -> None:
        self.held_bytes += body_bytes
        if model:
            self._bytes_of[model] = self._bytes_of.get(model, 0) + body_bytes

    def _look(self) -> None:
        """One timer for all: it rings for the oldest, or for one that was the oldest."""
        loop, self._timer = asyncio.get_running_loop(), None
        now = loop.time()
        while self._waiting:
            eventually, waiting = next(iter(self._waiting.items()))
            if waiting.due > now:
                self._timer = loop.call_at(waiting.due, self._look)
                return
            del self._waiting[eventually]
            eventually.settle(waiting.give_up(TooLate(f"there was no answer within {self._deadline_s:g} s")))
