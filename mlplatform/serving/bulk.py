"""Large columns of captured rows: tensors and bytes.

They are not copied while the event loop waits: a block holds on to the arrays that the request was decoded into, which
nobody changes, until a thread writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column
from mlplatform.stats.batch import Array, Columns
from mlplatform.stats.uneven import Uneven

LARGEST_VALUE_BYTES = 1_000_000
"""A row's tensor or bytes above this are not kept: the row is, without them."""


class Bulk(NamedTuple):
    """The large columns of some rows, as they are kept."""

    values: Mapping[str, Array | None]
    """None where no row's value is kept."""
    row_bytes: Array
    """(n,) what each row holds in all of them."""
    left_out: int
    """Values that were too large."""


def bulk_columns(inputs: Iterable[Column], dropped: frozenset[str]) -> tuple[Column, ...]:
    """Those of a signature that are kept here: tensors of numbers, booleans or times, and bytes."""
    return tuple(column for column in inputs if column.name not in dropped and _is_bulk(column))


def weigh(columns: Sequence[Column], arrays: Columns, rows: int) -> Bulk:
    """What to keep of the rows' large columns."""
    values: dict[str, Array | None] = {}
    row_bytes, left_out = np.zeros(rows, np.int64), 0
    for column in columns:
        given = arrays[column.name]
        if column.dtype == "binary":
            lengths = np.array([0 if value is None else len(value) for value in given], np.int64)
            if (large := lengths > LARGEST_VALUE_BYTES).any():
                left_out += int(large.sum())
                given = given.copy()
                given[large] = None
                lengths[large] = 0
            values[column.name] = given
            row_bytes += lengths
        elif given.nbytes > LARGEST_VALUE_BYTES * rows:
            values[column.name] = None
            left_out += rows
        else:
            values[column.name] = given
            row_bytes += given.nbytes // max(1, rows)
    return Bulk(values, row_bytes, left_out)


def bytes_of(values: Array) -> int:
    """What the bytes among objects hold; 0 for numbers."""
    if values.dtype.kind != "O":
        return 0
    return sum(len(value) for value in values if type(value) is bytes)


class BulkColumn:
    """One large column of a block."""

    def __init__(self, column: Column) -> None:
        self.name = column.name
        self._is_bytes = column.dtype == "binary"
        self._is_even = not self._is_bytes and -1 not in column.shape
        self._dtype = "" if self._is_bytes else NUMPY_DTYPES[column.dtype]
        self._pieces: list[tuple[Array | None, int]] = []
        """Values, or None where none is kept, of so many rows."""

    def append(self, values: Array | None, start: int, stop: int) -> None:
        """Hold on to the rows `start:stop`."""
        self._pieces.append((None if values is None else values[start:stop], stop - start))

    def arrays(self) -> dict[str, Array]:
        """As they are written, see `recorder`; nothing where no row has a value."""
        pieces = [values for values, _ in self._pieces if values is not None]
        if not pieces:
            return {}
        if self._is_even and len(pieces) == len(self._pieces):
            return {f"in:{self.name}": np.concatenate(pieces)}
        rows = [
            row for values, count in self._pieces for row in ([None] * count if values is None else values)
        ]
        packed = Uneven.of(rows, self._dtype)
        found = {f"flat:{self.name}": packed.flat, f"ends:{self.name}": packed.ends}
        if packed.shapes is not None:
            found[f"shape:{self.name}"] = packed.shapes
        return {**found, **({f"null:{self.name}": packed.gaps} if packed.gaps.any() else {})}


def _is_bulk(column: Column) -> bool:
    if column.shape:
        return column.dtype not in ("string", "binary")
    return column.dtype == "binary"
