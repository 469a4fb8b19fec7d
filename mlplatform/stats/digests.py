"""Identity of rows: equal features give equal digests, on every machine and in every release.

Digests are stored with a version (the rows it was trained on) and compared years later, so nothing here
depends on another package's hash function.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Dtype
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array, Columns, row_count
from mlplatform.stats.spec import as_floats, is_null

Digests = NDArray[np.uint64]
NULL = np.uint64(0x9E6C63D0876A9A35)


def row_digests(columns: Columns, inputs: Sequence[Column]) -> Digests:
    """(n,) digests over the columns of a signature; the table's own order and other columns do not matter.

    Numbers count by value, whatever width they are stored in; a `float` column is rounded to 32 bits first,
    as the model will see it. Text counts as text, -0.0 as 0.0, and every null as the same value. A required
    column that is missing is a UsageError; an optional one counts as null.

    >>> inputs = (Column("age", "long"), Column("city", "string"))
    >>> wide = {"city": np.array(["Bern"], object), "age": np.array([31])}
    >>> narrow = {"age": np.array([31], np.int8), "city": np.array(["Bern"])}
    >>> bool(row_digests(wide, inputs) == row_digests(narrow, inputs))
    True
    """
    if missing := [c.name for c in inputs if c.required and c.name not in columns]:
        raise UsageError(what=f"rows lack the column(s) {', '.join(missing)}")
    total = np.full(row_count(columns), len(inputs), np.uint64)
    for column in inputs:
        values = columns.get(column.name)
        part = np.full(len(total), NULL) if values is None else _values(np.asarray(values), column)
        total = _mix(total * np.uint64(0x9E3779B97F4A7C15) + part)
    return total


def _values(values: Array, column: Column) -> Digests:
    try:
        if column.shape:
            return np.fromiter((_tensor(row, column.dtype) for row in values), np.uint64, len(values))
        if column.dtype in ("string", "binary"):
            return _texts(values)
        if column.dtype == "datetime":
            return _times(values)
        return _numbers(values, column.dtype == "float")
    except (TypeError, ValueError) as error:
        what = f"column {column.name!r} does not hold {column.dtype} values: {error}"
        raise UsageError(what=what) from error


def _tensor(row: Any, dtype: Dtype) -> int:
    """By its values in the signature's type; tensors of text by their text."""
    if row is None:
        return int(NULL)
    if dtype == "string":
        return _text(json.dumps(np.asarray(row).tolist(), default=str))
    return _text(np.ascontiguousarray(row, NUMPY_DTYPES[dtype]).tobytes())


def _numbers(values: Array, single: bool) -> Digests:
    numbers = as_floats(values)
    if single:
        with np.errstate(over="ignore"):
            numbers = numbers.astype(np.float32).astype(np.float64)
    bits = _mix((numbers + 0.0).view(np.uint64))
    return np.where(np.isnan(numbers), NULL, bits)


def _times(values: Array) -> Digests:
    times = values.astype("datetime64[us]")
    return np.where(np.isnat(times), NULL, _mix(times.view(np.uint64)))


def _texts(values: Array) -> Digests:
    """Every distinct text is hashed once."""
    known: dict[Any, int] = {}
    out = np.empty(len(values), np.uint64)
    for row, value in enumerate(values.tolist()):
        key = (type(value), value)
        digest = known.get(key)
        if digest is None:
            digest = known[key] = _text(value)
        out[row] = digest
    return out


def _text(value: Any) -> int:
    if is_null(value):
        return int(NULL)
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8).digest(), "little")


def _mix(x: Digests) -> Digests:
    """splitmix64's finalizer (Steele, Lea, Flood 2014): a bijection; every bit moves half of the others."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
