"""Answering several requests with one run of a model.

On the loop (`Turn`): requests that arrived in one turn of the loop are answered together. Nobody waits for a timer:
who is alone is answered alone. Off the loop (`Queue`): what arrived while the model was busy is the next run.

Whether that pays is known from what one row and several took when the model was warmed, and from how many requests a
turn brings. Only models that answered their own sample alike, row by row and together, are asked so. Where a
run of several requests fails, each is asked again alone, so that one request's rows harm no other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import chain

import numpy as np

from mlplatform.serving.decode import Rows
from mlplatform.serving.problems import TooBusy, Unavailable
from mlplatform.stats.batch import Array, Batch, Outputs

TURN_US, PLACE_US = 12.0, 2.5
"""What a run of several costs beyond the run: once for the turn's end, and for each request that waits for it, is
joined and cut out again. Measured (docs/performance.md), the first with a margin: where it hardly pays nobody waits."""
LONGEST_RUN_US = 2_000.0
"""A run on the loop takes no more rows than are answered in this time; a request of more rows has left the loop."""
LONGEST_AWAY_US = 50_000.0
PROBE_EVERY = 32
"""Of so many requests that are answered at once, one waits for the turn's end, to see how many a turn brings."""
THREADS = 2
"""Runs of one model at a time, off the loop."""

Result = Outputs | Exception
Ask = Callable[[Rows], Outputs]
Done = Callable[[Result, float, float], None]
"""Told the result, and when the run began and ended (`perf_counter`)."""
Ran = Callable[[int, float], None]
"""Told the rows of a run, and its seconds."""
Waiting = tuple[Rows, Done]
Timed = tuple[list[Result], float, float]


def pays_from(base_us: float) -> float:
    """Requests from which one run is cheaper than one run each: `(n - 1) * base_us > TURN_US + n * PLACE_US`."""
    return (base_us + TURN_US) / (base_us - PLACE_US) if base_us > PLACE_US else math.inf


class Turn:
    """One model's requests of one turn of the loop."""

    def __init__(self, ask: Ask, ran: Ran, base_us: float, row_us: float) -> None:
        self._ask, self._ran = ask, ran
        self._pays_from = pays_from(base_us)
        self._most_rows = _rows_in(LONGEST_RUN_US, base_us, row_us)
        self._waiting: list[Waiting] = []
        self._together = False
        self._seen = 0.0
        self._until_probe = PROBE_EVERY

    def joins(self) -> bool:
        """Whether the next request should wait for the others of its turn."""
        if self._together or self._waiting:
            return True
        self._until_probe -= 1
        return self._until_probe <= 0

    def put(self, rows: Rows, done: Done) -> None:
        """`done` is called at the end of the turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._end)
        self._waiting.append((rows, done))

    def _end(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._seen += (len(waiting) - self._seen) / 4
        self._together = self._seen >= self._pays_from
        self._until_probe = PROBE_EVERY
        for run in _runs(deque(waiting), self._most_rows):
            began = time.perf_counter()
            results = answer_all(self._ask, [rows for rows, _ in run])
            _tell(run, results, began, time.perf_counter(), self._ran)


class Threads:
    """How many threads a loaded model has taken, whatever routes and generations ask it: one that hangs takes no more
    with every swap."""

    def __init__(self) -> None:
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def take(self, start: Callable[[], None]) -> None:
        """Call `start` now, or when a thread is given back."""
        if self._running < THREADS:
            self._running += 1
            start()
        elif start not in self._waiting:
            self._waiting.append(start)

    def give_back(self) -> None:
        self._running -= 1
        if self._waiting:
            self.take(self._waiting.popleft())


class Queue:
    """One model's requests off the loop: a bounded queue before a few threads."""

    def __init__(
        self,
        ask: Ask,
        ran: Ran,
        base_us: float,
        row_us: float,
        together: bool,
        most_waiting: int,
        threads: Threads | None = None,
    ) -> None:
        self._ask, self._ran = ask, ran
        self._threads = threads or Threads()
        self._most_rows = _rows_in(LONGEST_AWAY_US, base_us, row_us) if together else 0
        self._most_waiting = most_waiting
        self._waiting: deque[Waiting] = deque()
        self._pool: Executor | None = None
        self._request_s = (base_us + row_us) / 1e6

    @property
    def waiting(self) -> int:
        """Requests that no thread has taken yet."""
        return len(self._waiting)

    def put(self, pool: Executor, rows: Rows, done: Done) -> None:
        """`done` is called on the loop when the model has answered. TooBusy when too many wait."""
        waiting = len(self._waiting)
        if waiting >= self._most_waiting:
            seconds = max(1, math.ceil(waiting * self._request_s / THREADS))
            raise TooBusy(
                f"{waiting} requests wait for this model; try again in {seconds} s", retry_after=seconds
            )
        self._waiting.append((rows, done))
        self._pool = pool
        self._threads.take(self._start)

    def _start(self) -> None:
        run = next(_runs(self._waiting, self._most_rows), None)
        if run is None or self._pool is None:  # another thread took them
            self._threads.give_back()
            return
        asked = [rows for rows, _ in run]
        future = asyncio.get_running_loop().run_in_executor(self._pool, _timed, self._ask, asked)
        future.add_done_callback(lambda done: self._ended(run, done))

    def _ended(self, run: Sequence[Waiting], future: asyncio.Future[Timed]) -> None:
        try:
            results, began, ended = future.result()
        except (Exception, asyncio.CancelledError) as error:  # the pool is closed
            now, why = time.perf_counter(), Unavailable(f"the server ends: {type(error).__name__}")
            results, began, ended = [why] * len(run), now, now
        self._threads.give_back()
        if self._waiting:
            self._threads.take(self._start)
        self._request_s += ((ended - began) / len(run) - self._request_s) / 4
        _tell(run, results, began, ended, self._ran)


def answer_all(ask: Ask, requests: Sequence[Rows]) -> list[Result]:
    """The answer to each, or the exception that it met. Never raises."""
    if len(requests) > 1:
        try:
            return list(cut(ask(joined(requests)), [rows.batch.rows for rows in requests]))
        except Exception:  # whose rows they were is seen below
            pass
    return [_one(ask, rows) for rows in requests]


def layout(rows: Rows) -> Hashable:
    """Requests to one model with equal layouts can be joined."""
    batch = rows.batch
    if batch.params:  # that rows get together what they get alone was seen with the defaults only
        return object()
    if batch.matrix is not None:
        return tuple(rows.context)
    columns = [(name, v.dtype, v.shape[1:]) for name, v in (batch.arrays or {}).items()]
    return (*columns, *rows.context)


def joined(requests: Sequence[Rows]) -> Rows:
    """The rows of several requests of one layout below each other."""
    if len(requests) == 1:
        return requests[0]
    first = requests[0]
    names = first.batch.names
    if first.batch.matrix is not None:
        batch = Batch(names, np.concatenate([rows.batch.matrix for rows in requests]))
    else:
        tables = [rows.batch.arrays or {} for rows in requests]
        batch = Batch(names, arrays={name: np.concatenate([t[name] for t in tables]) for name in tables[0]})
    context = {name: list(chain.from_iterable(r.context[name] for r in requests)) for name in first.context}
    return Rows(batch, context, any(rows.missing for rows in requests))


def cut(outputs: Outputs, counts: Sequence[int]) -> Iterator[Outputs]:
    """Each request's part of the answers. ValueError when there is not one for each row."""
    if any(len(values) != sum(counts) for values in outputs.named().values()):
        raise ValueError("an output has other rows than were asked for")
    at = 0
    for count in counts:
        yield outputs.part(at, at + count)
        at += count


def part(rows: Rows, start: int, stop: int) -> Rows:
    """Some of the rows, without what travels beside them."""
    batch = rows.batch
    if batch.matrix is not None:
        return Rows(Batch(batch.names, batch.matrix[start:stop]))
    arrays = {name: values[start:stop] for name, values in (batch.arrays or {}).items()}
    return Rows(Batch(batch.names, arrays=arrays), missing=rows.missing)


def answers_alike(ask: Ask, requests: Sequence[Rows]) -> bool:
    """Whether requests that are answered together get what they get alone, but for rounding."""
    together = cut(ask(joined(requests)), [rows.batch.rows for rows in requests])
    return all(_close(ours, ask(rows)) for ours, rows in zip(together, requests, strict=True))


# ---- helpers


def _timed(ask: Ask, requests: Sequence[Rows]) -> Timed:
    began = time.perf_counter()
    results = answer_all(ask, requests)
    return results, began, time.perf_counter()


def _tell(run: Sequence[Waiting], results: Sequence[Result], began: float, ended: float, ran: Ran) -> None:
    ran(sum(rows.batch.rows for rows, _ in run), ended - began)
    for (_, done), result in zip(run, results, strict=True):
        done(result, began, ended)


def _one(ask: Ask, rows: Rows) -> Result:
    try:
        return ask(rows)
    except Exception as error:
        return error


def _rows_in(time_us: float, base_us: float, row_us: float) -> int:
    return max(1, int((time_us - base_us) / row_us)) if row_us > 0 else 4096


def _runs(waiting: deque[Waiting], most_rows: int) -> Iterator[list[Waiting]]:
    """Neighbours of one layout with at most so many rows, taken from the queue as they are asked for."""
    while waiting:
        run = [waiting.popleft()]
        first = run[0][0]
        kind, count = layout(first), first.batch.rows
        while waiting and layout(rows := waiting[0][0]) == kind and count + rows.batch.rows <= most_rows:
            count += rows.batch.rows
            run.append(waiting.popleft())
        yield run


def _close(ours: Outputs, theirs: Outputs) -> bool:
    ours_named, theirs_named = ours.named(), theirs.named()
    if ours_named.keys() != theirs_named.keys():
        return False
    return all(_equal(values, theirs_named[name]) for name, values in ours_named.items())


def _equal(ours: Array, theirs: Array) -> bool:
    if ours.shape != theirs.shape:
        return False
    if ours.dtype.kind == "f":
        return bool(np.allclose(ours, theirs, rtol=1e-4, atol=1e-6, equal_nan=True))
    return bool((ours == theirs).all())
