"""Shadow: a version answers what the live one has answered, once that answer is out; nobody gets its answers.

A thread asks it, one request after the other, so that a slow one holds up nobody. What it answers is compared,
counted and captured with the arm `shadow` under the live answer's id. Requests that set parameters are skipped: a
shadow answers with its defaults. Under load requests are skipped and counted: at
most `MOST_REQUESTS` wait, of at most `MOST_ROWS` rows and `MOST_BYTES` bytes. A shadow that is no longer in effect is
asked no more.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import NamedTuple

import numpy as np

from mlplatform.domain.bundle import Task
from mlplatform.serving.bulk import bytes_of
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Arm
from mlplatform.serving.problems import ModelFailed, Problem
from mlplatform.stats.batch import Array, Outputs
from mlplatform.stats.labels import to_labels

MOST_REQUESTS, MOST_ROWS, MOST_BYTES = 256, 4096, 64_000_000
TOGETHER = 32
"""Results that are handed to the event loop at once."""
NOT_ASKED = 0
"""In place of a status."""
CLOSE_ENOUGH = 0.01
"""Values that differ by less, of the larger one, agree; classes are the same or not."""

Record = Callable[[Arm, str, Rows, Outputs, int], None]
"""Captures an answer: the arm, the request's id, its rows, the answers, and microseconds."""


class Mirrored(NamedTuple):
    """A request that was answered."""

    arm: Arm
    """The one that answered."""
    shadow: Arm
    protocol: str
    request_id: str
    rows: Rows
    outputs: Outputs


class Seen(NamedTuple):
    """What came of asking the shadow."""

    request: Mirrored
    status: int
    seconds: float
    rows: Rows | None = None
    outputs: Outputs | None = None
    agreeing: int = 0


class Shadow:
    """Belongs to the event loop; its thread starts with the first request."""

    def __init__(self, metrics: Metrics, record: Record) -> None:
        self._metrics = metrics
        self._record = record
        self._queue: SimpleQueue[Mirrored | None] = SimpleQueue()
        self._in_effect: frozenset[Arm] = frozenset()
        self._waiting_rows = self._waiting_bytes = 0
        self._waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    def retain(self, arms: Iterable[Arm]) -> None:
        """From now on only the shadows of these arms are asked: one that was taken back has no more to say."""
        self._in_effect = frozenset(arm.shadow for arm in arms if arm.shadow is not None)

    def offer(self, request: Mirrored) -> None:
        """Let the shadow answer it too, unless it is behind."""
        count = request.rows.batch.rows
        size_bytes = size_of(request.rows)
        behind = self._waiting >= MOST_REQUESTS or self._waiting_rows + count > MOST_ROWS
        behind = behind or self._waiting_bytes + size_bytes > MOST_BYTES
        # With other parameters than the defaults the answers of two versions are not comparable.
        if behind or request.rows.batch.params or request.shadow not in self._in_effect:
            self._count(request, "skipped", count)
            return
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            threading.Thread(target=self._work, name="shadow", daemon=True).start()
        self._waiting += 1
        self._waiting_rows += count
        self._waiting_bytes += size_bytes
        self._queue.put(request)

    def close(self) -> None:
        """What waits is not asked any more."""
        self._queue.put(None)

    # --- in the thread ----------------------------------------------------------------------------------------

    def _work(self) -> None:
        assert self._loop is not None
        while (request := self._queue.get()) is not None:
            seen = [self._ask(request)]
            while len(seen) < TOGETHER and (following := self._next()) is not None:
                seen.append(self._ask(following))
            try:
                self._loop.call_soon_threadsafe(self._came, seen)
            except RuntimeError:  # the loop has ended
                return

    def _ask(self, request: Mirrored) -> Seen:
        return ask(request) if request.shadow in self._in_effect else Seen(request, NOT_ASKED, 0.0)

    def _next(self) -> Mirrored | None:
        try:
            following = self._queue.get_nowait()
        except Empty:
            return None
        if following is None:
            self._queue.put(None)
        return following

    # --- on the loop ------------------------------------------------------------------------------------------

    def _came(self, seen: Sequence[Seen]) -> None:
        for one in seen:
            request, count = one.request, one.request.rows.batch.rows
            self._waiting -= 1
            self._waiting_rows -= count
            self._waiting_bytes -= size_of(request.rows)
            if one.status == NOT_ASKED:
                self._count(request, "skipped", count)
                continue
            request.shadow.series[request.protocol].count(one.status, one.seconds)
            if one.outputs is None or one.rows is None:
                self._count(request, "failed", count)
                continue
            self._count(request, "agree", one.agreeing)
            self._count(request, "disagree", count - one.agreeing)
            self._record(request.shadow, request.request_id, one.rows, one.outputs, int(one.seconds * 1e6))

    def _count(self, request: Mirrored, outcome: str, rows: int) -> None:
        if rows:
            route = request.shadow.route
            self._metrics.shadow(route.model, str(route.version), outcome, rows)


def size_of(rows: Rows) -> int:
    """Bytes that the features hold in memory, text aside."""
    if rows.batch.matrix is not None:
        return rows.batch.matrix.nbytes
    arrays = (rows.batch.arrays or {}).values()
    return sum(values.nbytes + bytes_of(values) for values in arrays)


def ask(request: Mirrored) -> Seen:
    """The shadow's answer, compared with the one that was given. Never raises."""
    start = time.perf_counter()
    try:
        rows = as_its_own(request.shadow.rows, request.arm.rows, request.rows)
        outputs = request.shadow.answer(rows)
        seconds = time.perf_counter() - start
        agreeing = int(agreement(request, outputs).sum())
    except Exception as error:
        status = error.status if isinstance(error, Problem) else ModelFailed.status
        return Seen(request, status, time.perf_counter() - start)
    return Seen(request, 200, seconds, rows, outputs, agreeing)


def as_its_own(shadow: RowDecoder, live: RowDecoder, rows: Rows) -> Rows:
    """The rows as the shadow's signature wants them; Problem where that asks for what was not sent."""
    if shadow.inputs == live.inputs:
        return rows
    columns = {**rows.context, **rows.batch.columns()}
    wanted = {*shadow.names, *shadow.context}
    return shadow.columns({name: values for name, values in columns.items() if name in wanted})


def agreement(request: Mirrored, outputs: Outputs) -> Array:
    """Per row, whether both answered the same."""
    live, own = request.arm.bundle.manifest.task, request.shadow.bundle.manifest.task
    theirs, ours = _answers(live, request.outputs), _answers(own, outputs)
    if own.kind == "regression":
        return np.asarray(np.isclose(ours.astype(float), theirs.astype(float), rtol=CLOSE_ENOUGH, atol=0.0))
    return np.asarray(ours.astype(str) == theirs.astype(str))


def _answers(task: Task, outputs: Outputs) -> Array:
    return to_labels(outputs.predictions, task.output, task.classes or None)
