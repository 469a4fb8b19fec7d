"""One open block of captured rows: memory made beforehand, into which requests are copied.

Rows of one arm share a block, so that all of them have the same columns. See `recorder` for the format on
disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.serving.bulk import Bulk, BulkColumn, bulk_columns
from mlplatform.serving.decode import Rows
from mlplatform.stats.batch import Array, Outputs

BLOCK_BYTES = 4_000_000
"""Of the numbers, of the answers, and of the tensors and bytes of a block, each."""
MAX_ROWS, MIN_ROWS = 8192, 64
TEXT_CELLS = 4_000_000
"""Rows times the widest text of a block: a fixed-width array takes four bytes for each."""
_FLOATS = ("float", "double", "float16")
_DTYPES = {
    "boolean": "bool",
    **dict.fromkeys(("integer", "long", "int8", "int16", "uint8", "uint16", "uint32"), "int64"),
    "uint64": "uint64",
    "string": "object",
    "datetime": "datetime64[us]",
}


class Stamps(NamedTuple):
    """What is kept of each row beside its values; arrays of one length."""

    request: Array
    row: Array
    time_us: Array
    latency_us: Array


class Block:
    """Rows of one arm that were answered and are not yet on disk."""

    def __init__(
        self,
        model: str,
        version: int,
        arm: str,
        inputs: Sequence[Column],
        dropped: frozenset[str],
        max_bytes: int,
        answer_bytes: int = 0,
    ) -> None:
        """`answer_bytes`: what a row's answers take."""
        self.model, self.version, self.arm = model, version, arm
        self.max_bytes = max_bytes
        """What the folder may hold once it is written there."""
        by_values = max(MIN_ROWS, BLOCK_BYTES // (8 * max(1, len(inputs))))
        self.capacity = max(1, min(MAX_ROWS, by_values, BLOCK_BYTES // max(1, answer_bytes)))
        self.rows = 0
        self._kept = [(i, c) for i, c in enumerate(inputs) if c.name not in dropped and is_kept(c)]
        self._dropped = dropped
        self._bulk = [BulkColumn(column) for column in bulk_columns(inputs, dropped)]
        self._bulk_bytes = 0
        self._widest = 1
        self._request = np.empty(self.capacity, "S36")
        self._row = np.empty(self.capacity, "int32")
        self._time_us = np.empty(self.capacity, "int64")
        self._latency_us = np.empty(self.capacity, "int64")
        self._outputs: dict[str, Array] = {}
        self._context: dict[str, Array] = {}
        self._make_columns(inputs)

    def _make_columns(self, inputs: Sequence[Column]) -> None:
        floats = [i for i, column in self._kept if column.dtype in _FLOATS]
        # What the model takes in 32 bits needs no more on disk.
        single = all(inputs[i].dtype != "double" for i in floats)
        self._matrix = np.empty((self.capacity, len(floats)), "float32" if single else "float64")
        self._float_names = [inputs[i].name for i in floats]
        self._floats = None if len(floats) == len(inputs) else np.array(floats, dtype=int)
        self._columns = {name: self._matrix[:, at] for at, name in enumerate(self._float_names)}
        self._others = [(i, column.name) for i, column in self._kept if column.name not in self._columns]
        for i, name in self._others:
            self._columns[name] = np.empty(self.capacity, _DTYPES[inputs[i].dtype])
        self._nulls: dict[str, Array] = {}

    def room(self, widest: int, row_bytes: Array | None = None) -> int:
        """How many rows fit whose texts have at most `widest` characters and whose tensors and bytes take `row_bytes`;
        an empty block takes at least one."""
        by_text = TEXT_CELLS // max(widest, self._widest)
        room = max(min(self.capacity, by_text), 1) - self.rows
        if row_bytes is None:
            return room
        left = BLOCK_BYTES - self._bulk_bytes
        fitting = int(np.searchsorted(np.cumsum(row_bytes), left, side="right"))
        return min(room, fitting if self.rows else max(1, fitting))

    def append(
        self,
        stamps: Stamps,
        rows: Rows,
        outputs: Outputs,
        start: int,
        stop: int,
        widest: int = 1,
        bulk: Bulk | None = None,
    ) -> None:
        """Copy the rows `start:stop`, whose widest text has `widest` characters; there is room. Of `bulk` only a
        reference is kept."""
        at, to = self.rows, self.rows + stop - start
        self._widest = max(self._widest, widest)
        self._request[at:to] = stamps.request[start:stop]
        self._row[at:to] = stamps.row[start:stop]
        self._time_us[at:to] = stamps.time_us[start:stop]
        self._latency_us[at:to] = stamps.latency_us[start:stop]
        self._copy_inputs(at, to, rows, start, stop)
        for name, values in output_columns(outputs).items():
            self._copy_output(name, at, to, values[start:stop])
        for name, beside in rows.context.items():
            if name not in self._dropped:
                self._copy_context(name, at, to, beside[start:stop])
        if bulk is not None:  # last: what fails above leaves no trace
            for column in self._bulk:
                column.append(bulk.values[column.name], start, stop)
            self._bulk_bytes += int(bulk.row_bytes[start:stop].sum())
        self.rows = to

    def _copy_inputs(self, at: int, to: int, rows: Rows, start: int, stop: int) -> None:
        matrix = rows.batch.matrix
        if matrix is None:
            arrays = rows.batch.arrays or {}
            for name, out in self._columns.items():
                self._copy_column(name, out, at, to, arrays[name][start:stop])
            return
        part = matrix[start:stop]
        self._matrix[at:to] = part if self._floats is None else part[:, self._floats]
        for i, name in self._others:
            self._columns[name][at:to] = part[:, i]

    def _copy_column(self, name: str, out: Array, at: int, to: int, values: Array) -> None:
        if out.dtype.kind in "iub" and values.dtype.kind == "f":  # an optional column that was not sent
            gaps = np.isnan(values)
            if name not in self._nulls:
                self._nulls[name] = np.zeros(self.capacity, bool)
            self._nulls[name][at:to] = gaps
            values = np.where(gaps, 0, values)
        out[at:to] = values

    def _copy_output(self, name: str, at: int, to: int, values: Array) -> None:
        if values.ndim > 2:
            values = values.reshape(len(values), -1)
        out = self._outputs.get(name)
        if out is None:
            dtype = object if values.dtype.kind in "OUS" else values.dtype
            out = self._outputs[name] = np.empty((self.capacity, *values.shape[1:]), dtype)
        out[at:to] = values

    def _copy_context(self, name: str, at: int, to: int, values: Sequence[Any]) -> None:
        out = self._context.get(name)
        if out is None:
            out = self._context[name] = np.full(self.capacity, None, object)
        out[at:to] = values

    def arrays(self) -> dict[str, Array]:
        """What goes to disk. Called once, off the event loop, when the block is no longer written to."""
        n = self.rows
        out: dict[str, Array] = {
            "request": self._request[:n],
            "row": self._row[:n],
            "time_us": self._time_us[:n],
            "latency_us": self._latency_us[:n],
            "version": np.full(n, self.version, "int32"),
            "model": np.full(n, self.model),
            "arm": np.full(n, self.arm),
        }
        if self._float_names:
            out.update(floats=self._matrix[:n], float_names=np.array(self._float_names))
        for _, name in self._others:
            out.update(_stored(f"in:{name}", name, self._columns[name][:n]))
        for column in self._bulk:
            out.update(column.arrays())
        out.update({f"null:{name}": mask[:n] for name, mask in self._nulls.items() if mask[:n].any()})
        for name, values in self._context.items():
            out.update(_stored(f"ctx:{name}", name, _settled(values[:n])))
        for name, values in self._outputs.items():
            out.update(_stored(name, name, values[:n]))
        return out


def output_columns(outputs: Outputs) -> dict[str, Array]:
    """A model's answers as a block names them."""
    found = {"prediction": outputs.predictions}
    if outputs.scores is not None:
        found["scores"] = outputs.scores
    if outputs.others:
        found.update({f"out:{name}": values for name, values in outputs.others.items()})
    return found


def answer_bytes(outputs: Outputs) -> int:
    """What the answers to one row take, text aside."""
    columns = output_columns(outputs).values()
    return sum(values.nbytes // max(1, len(values)) for values in columns)


def is_kept(column: Column) -> bool:
    """Whether it has one value a row; tensors and bytes are kept apart, and tensors of text are not."""
    return not column.shape and (column.dtype in _FLOATS or column.dtype in _DTYPES)


def widest_text(rows: Rows) -> int:
    """Characters of the longest text among features and context."""
    texts = [*(rows.batch.arrays or {}).values(), *rows.context.values()]
    return max(
        (len(v) for values in texts if _may_hold_text(values) for v in values if type(v) is str), default=1
    )


def _may_hold_text(values: Any) -> bool:
    return not isinstance(values, np.ndarray) or values.dtype.kind == "O"


def _settled(values: Array) -> Array:
    """Context as JSON brought it, in the narrowest type that holds all of it; None becomes NaN among
    numbers."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return values.astype(bool)
    if kinds == {int}:
        return values.astype("int64")
    if kinds <= {int, float, type(None)} and kinds != {type(None)}:
        return np.array([np.nan if value is None else value for value in values], float)
    return values


def _stored(key: str, name: str, values: Array) -> Mapping[str, Array]:
    """Text as a fixed-width array, with a mask where some of it is missing; everything else as it is."""
    if values.dtype.kind != "O":
        return {key: values}
    missing = np.array([value is None for value in values.ravel()], bool).reshape(values.shape)
    text = np.array(["" if value is None else str(value) for value in values.ravel()], dtype="U").reshape(
        values.shape
    )
    return {key: text, f"null:{name}": missing} if missing.any() else {key: text}
