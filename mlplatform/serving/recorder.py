"""Capture: every answered request, or a sample of them, into small files that the control plane collects.

The event loop copies rows into a preallocated block (`blocks.Block`); a thread writes blocks that are full
or about a second old. Nothing here ever blocks or fails a request: what cannot be written is dropped and
counted, by reason: `full` (the folder has reached its cap), `disk` (the system refused), `slow` (the disk
does not keep up).

Format of a block: `capture/<uuid7>.npz`, uncompressed, made by rename, so that a file that is there is whole.
No array has dtype object. All arrays have one entry a row; rows of a block come from one arm.

    request      S36             id of the request (UUIDv7); the id of a prediction is `<request>/<row>`
    row          int32           row within the request
    time_us      int64           microseconds since 1970, UTC, when the answer was made
    latency_us   int64           of the whole request, up to the answer
    version      int32
    model, arm   U
    in:<name>    a feature: float64 (NaN is missing), int64, bool, datetime64[us] (NaT is missing) or U
    ctx:<name>   a column that travelled beside the features: bool, int64, float64 (NaN is missing) or U,
                 whichever holds all values of the block, so the type may differ from block to block
    prediction   (n,) or (n, k)  as the model answered: numbers, bool or U
    scores       (n, k)          optional
    null:<name>  bool            only where values of `in:<name>` or `ctx:<name>` are missing that their type
                                 cannot express (text, whole numbers, booleans); the entry is "", 0 or False

A column of `capture.drop_columns` is in no block. A NUL at the end of a text is lost: numpy pads with it.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from mlplatform.domain.routes import CaptureRule
from mlplatform.serving.blocks import Block, widest_text
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import fraction, uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.predictor import Arm
from mlplatform.stats.batch import Array, Outputs

FLUSH_SECONDS = 1.0
QUEUED_BLOCKS = 64
"""Blocks that wait for the disk; more are dropped."""


class Recorder:
    """Belongs to the event loop's thread; only the writer's thread touches blocks that were handed over."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self._rule = CaptureRule()
        self._dropped: frozenset[str] = frozenset()
        self._metrics = metrics
        self._open: dict[Arm, Block] = {}
        self._writer = BlockWriter(folder, metrics)

    def configure(self, rule: CaptureRule) -> None:
        """A new generation's rule; what was captured under the old one is handed over."""
        self.flush()
        self._rule = rule
        self._dropped = frozenset(rule.drop_columns)
        self._writer.max_bytes = rule.max_bytes

    def record(self, arm: Arm, request: str, rows: Rows, outputs: Outputs, latency_us: int) -> None:
        """Copy an answered request, if the sample says so."""
        sample = self._rule.sample
        if sample < 1.0 and fraction(request, "sample") >= sample:
            return
        widest = 1 if rows.batch.matrix is not None else widest_text(rows)
        stamp = (request, time.time_ns() // 1000, latency_us, widest)
        count, start = rows.batch.rows, 0
        while start < count:
            block = self._block(arm, widest)
            if block is None:
                self._metrics.drop("slow", count - start)
                return
            stop = min(count, start + block.room(widest))
            block.append(stamp, rows, outputs, start, stop)
            start = stop

    def flush(self) -> None:
        """Hand every open block to the writer."""
        for arm in list(self._open):
            self._hand_over(arm)

    def close(self) -> None:
        """Write everything, then return."""
        self.flush()
        self._writer.close()

    def _block(self, arm: Arm, widest: int) -> Block | None:
        """The arm's open block, with room for at least one row; None when too many wait for the disk."""
        block = self._open.get(arm)
        if block is not None and block.room(widest) <= 0:
            self._hand_over(arm)
            block = None
        if block is None:
            if self._writer.behind():
                return None
            route = arm.route
            block = Block(route.model, route.version, route.arm, arm.rows.inputs, self._dropped)
            self._open[arm] = block
        return block

    def _hand_over(self, arm: Arm) -> None:
        block = self._open.pop(arm)
        if block.rows:
            self._writer.put(block)


class BlockWriter:
    """A thread that turns blocks into files."""

    def __init__(self, folder: Path, metrics: Metrics) -> None:
        self.max_bytes = CaptureRule().max_bytes
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
                print(f"capture: {block.rows} rows dropped: {error}", flush=True)

    def _write(self, block: Block) -> None:
        arrays = block.arrays()
        size = sum(array.nbytes for array in arrays.values())
        if not self._budget.allows(size, self.max_bytes):
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
