"""Capture: every answered request, or a sample of them, into small files that the control plane collects.

The event loop copies rows into a preallocated block (`blocks.Block`); a thread writes blocks that are full
or about a second old. Nothing here ever blocks or fails a request: what cannot be written is dropped and
counted, by reason: `full` (the folder has reached its cap), `disk` (the system refused), `slow` (the disk
does not keep up).

Format of a block: `capture/<uuid7>.npz`, uncompressed, made by rename, so that a file that is there is whole.
No array has dtype object. All arrays but `float_names` and `flat:` have one entry a row; rows of a block come from one
arm.

    request      S36             id of the request (UUIDv7); the id of a prediction is `<request>/<row>`
    row          int32           row within the request
    time_us      int64           microseconds since 1970, UTC, when the answer was made
    latency_us   int64           of the whole request, up to the answer
    version      int32
    model, arm   U
    floats       (n, k)          the features that are floats; NaN is missing; float32 where none is a double
    float_names  (k,) U          their names
    in:<name>    any other feature: int64, uint64, bool, datetime64[us] (NaT is missing) or U
    in:<name>    (n, ...)        a tensor whose shape is fixed, in its own type
    flat:<name>  (m,)            bytes (uint8), or the values of tensors of any length, of all rows one after the other
    ends:<name>  int64           where in `flat` a row ends
    shape:<name> (n, d)          the shape of each row's tensor
    ctx:<name>   a column that travelled beside the features: bool, int64, float64 (NaN is missing) or U,
                 whichever holds all values of the block, so the type may differ from block to block
    prediction   (n,) or (n, k)  as the model answered: numbers, bool or U
    scores       (n, k)          optional
    out:<name>   (n,) or (n, k)  further answers of a model that gives several
    null:<name>  bool            only where values of `in:<name>`, `ctx:<name>` or `flat:<name>` are missing that their
                                 type cannot express; the entry is "", 0, False or empty

A column of `capture.drop_columns` is in no block, and neither are tensors of text. A tensor or bytes above
`bulk.LARGEST_VALUE_BYTES` are left out of their row, and counted. What a model answers in three dimensions or more is
kept in two. A NUL at the end of a text is lost: numpy pads with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from mlplatform.serving import logs
from mlplatform.serving.bulk import bytes_of, weigh
from mlplatform.serving.capture.blocks import Block, Stamps, answer_bytes, output_columns, widest_text
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import fraction, uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.batching import joined, layout
from mlplatform.serving.models.predictor import Arm
from mlplatform.stats.batch import Array, Outputs

FLUSH_SECONDS = 1.0
QUEUED_BLOCKS = 16
"""Blocks that wait for the disk; more are dropped."""


TOGETHER = 64
"""Requests are copied into the block so many at once: one by one costs ten times as much."""
LARGE_VALUES = 4096
"""A request of more values is copied at once, and so is one with a long text, so that little waits in memory."""
LONG_TEXT = 1000
Captured = tuple[str, int, int, Rows, Outputs, int]
"""A request's id, time_us, latency_us, rows and answers, and the length of the widest text in its rows."""


class Recorder:
    """Belongs to the event loop's thread; only the writer's thread touches blocks that were handed over."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._metrics = metrics
        self._fresh: dict[Arm, list[Captured]] = {}
        self._open: dict[Arm, Block] = {}
        self._writer = BlockWriter(folder, metrics)

    def record(self, arm: Arm, request: str, rows: Rows, outputs: Outputs, latency_us: int) -> None:
        """Take an answered request, if the arm's sample says so."""
        sample = arm.rule.sample
        if sample < 1.0 and fraction(request, "sample") >= sample:
            return
        widest = 1 if rows.batch.matrix is not None else widest_text(rows)
        fresh = self._fresh.get(arm)
        if fresh is None:
            fresh = self._fresh[arm] = []
        fresh.append((request, time.time_ns() // 1000, latency_us, rows, outputs, widest))
        if len(fresh) >= TOGETHER or widest > LONG_TEXT or _is_large(rows):
            self._copy_fresh(arm)

    def flush(self) -> None:
        """Hand every open block to the writer."""
        for arm in list(self._fresh):
            self._copy_fresh(arm)
        for arm in list(self._open):
            self._hand_over(arm)

    def close(self) -> None:
        """Write everything, then return."""
        self.flush()
        self._writer.close()

    def _copy_fresh(self, arm: Arm) -> None:
        """Into the arm's block; requests that cannot be copied are counted and told."""
        for group in _of_one_form(self._fresh.pop(arm)):
            rows = joined([captured[3] for captured in group])
            try:
                self._copy(arm, group, rows)
            except Exception as error:
                self._metrics.drop("error", rows.batch.rows)
                logs.limited(
                    "capture-failed", "capture: rows could not be copied", "error", logs.failure(error)
                )

    def _copy(self, arm: Arm, group: Sequence[Captured], rows: Rows) -> None:
        stamps = _stamps(group)
        outputs = _stacked([captured[4] for captured in group])
        widest = max(captured[5] for captured in group)
        count, start = rows.batch.rows, 0
        bulk = weigh(arm.bulk, rows.batch.arrays or {}, count) if arm.bulk else None
        while start < count:
            row_bytes = None if bulk is None else bulk.row_bytes[start:]
            block = self._block(arm, widest, row_bytes, outputs)
            if block is None:
                self._metrics.drop("slow", count - start)
                return
            stop = min(count, start + block.room(widest, row_bytes))
            block.append(stamps, rows, outputs, start, stop, widest, bulk)
            start = stop
        if bulk is not None and bulk.left_out:
            self._metrics.drop_values("large", bulk.left_out)

    def _block(self, arm: Arm, widest: int, row_bytes: Array | None, outputs: Outputs) -> Block | None:
        """The arm's open block, with room for at least one row; None when too many wait for the disk."""
        block = self._open.get(arm)
        if block is not None and block.room(widest, row_bytes) <= 0:
            self._hand_over(arm)
            block = None
        if block is None:
            if self._writer.behind():
                return None
            route, rule = arm.route, arm.rule
            dropped = frozenset(rule.drop_columns)
            place = (route.model, route.version, route.arm)
            block = Block(*place, arm.rows.inputs, dropped, rule.max_bytes, answer_bytes(outputs))
            self._open[arm] = block
        return block

    def _hand_over(self, arm: Arm) -> None:
        block = self._open.pop(arm)
        if block.rows:
            self._writer.put(block)


def _is_large(rows: Rows) -> bool:
    batch = rows.batch
    if batch.matrix is not None:
        return batch.matrix.size > LARGE_VALUES
    return sum(map(_values, (batch.arrays or {}).values())) > LARGE_VALUES


def _values(column: Array) -> int:
    """How many a column holds; eight bytes count as one."""
    return column.size + bytes_of(column) // 8


def _of_one_form(captured: Sequence[Captured]) -> Iterator[list[Captured]]:
    """Neighbours whose rows and answers have the same columns and types."""
    group: list[Captured] = []
    kind: object = None
    for one in captured:
        own = (layout(one[3]), _form(one[4]))
        if group and own != kind:
            yield group
            group = []
        kind = own
        group.append(one)
    yield group


def _form(outputs: Outputs) -> object:
    columns = output_columns(outputs).items()
    return [(name, "text" if v.dtype.kind in "OUS" else v.dtype, v.shape[1:]) for name, v in columns]


def _stacked(parts: Sequence[Outputs]) -> Outputs:
    """The answers below each other."""
    first = parts[0]
    scores = [part.scores for part in parts if part.scores is not None]
    others = [part.others for part in parts if part.others]
    return Outputs(
        np.concatenate([part.predictions for part in parts]),
        np.concatenate(scores) if scores else None,
        {name: np.concatenate([columns[name] for columns in others]) for name in first.others or ()} or None,
    )


def _stamps(group: Sequence[Captured]) -> Stamps:
    request = np.frombuffer("".join([captured[0] for captured in group]).encode(), "S36")
    time_us = np.array([captured[1] for captured in group])
    latency_us = np.array([captured[2] for captured in group])
    counts = [captured[3].batch.rows for captured in group]
    if sum(counts) == len(counts):
        return Stamps(request, np.zeros(len(counts), "int32"), time_us, latency_us)
    row = np.concatenate([np.arange(count, dtype="int32") for count in counts])
    return Stamps(np.repeat(request, counts), row, np.repeat(time_us, counts), np.repeat(latency_us, counts))


class BlockWriter:
    """A thread that turns blocks into files."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._folder = folder
        self._metrics = metrics
        self._budget = FolderBudget(folder)
        self._queue: SimpleQueue[Block | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="capture", daemon=True)
        self._thread.start()

    def put(self, block: Block) -> None:
        self._queue.put(block)

    def behind(self) -> bool:
        return self._queue.qsize() >= QUEUED_BLOCKS

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (block := self._queue.get()) is not None:
            try:
                self._write(block)
            except (OSError, ValueError, MemoryError) as error:
                self._metrics.drop("disk", block.rows)
                said = f"capture: {block.rows} rows dropped: {error}"
                logs.limited("capture-dropped", said, "error", logs.failure(error))

    def _write(self, block: Block) -> None:
        arrays = block.arrays()
        size = sum(array.nbytes for array in arrays.values())
        if not self._budget.allows(size, block.max_bytes):
            self._metrics.drop("full", block.rows)
            return
        self._budget.used += write_block(self._folder, arrays)
        self._metrics.captured_rows += block.rows


class FolderBudget:
    """How many bytes a folder holds, without asking the disk each time."""

    def __init__(self, folder: Path, look_every_s: float = 5.0) -> None:
        self.used = 0
        self._folder = folder
        self._look_every_s = look_every_s
        self._looked = -1e9

    def allows(self, size_bytes: int, max_bytes: int) -> bool:
        waited_s = time.monotonic() - self._looked
        # Others add and remove files too; a folder that seems full is looked at more often.
        if waited_s > self._look_every_s or (self.used + size_bytes > max_bytes and waited_s > 0.2):
            self.used = folder_bytes(self._folder)
            self._looked = time.monotonic()
        return self.used + size_bytes <= max_bytes


def folder_bytes(folder: Path) -> int:
    """Bytes of the files of a folder; 0 when there is none."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_size
                except FileNotFoundError:  # collected meanwhile
                    continue
    except FileNotFoundError:
        return 0
    return total


def write_block(folder: Path, arrays: dict[str, Array]) -> int:
    """Write a block under a temporary name and rename it; its size in bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    name = uuid7()
    temporary, final = folder / f".{name}.tmp", folder / f"{name}.npz"
    try:
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
            size = stream.tell()
        temporary.rename(final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return size
