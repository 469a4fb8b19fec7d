"""A table in the types of a signature: what stands between files of rows and a model."""

from __future__ import annotations

import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Dtype
from mlplatform.stats.batch import Array, Batch, Columns, row_count


def typed_batch(columns: Mapping[str, Array | Sequence[Any]], inputs: Sequence[Column]) -> Batch:
    """The rows as a model's signature wants them: a matrix where every column is a number of one type.

    Columns that are not required and not there are missing values. ValueError names a column that is missing
    or cannot be read as its type.

    >>> typed_batch({"b": [3, 4], "a": [1, 2]}, [Column("a", "double"), Column("b", "double")]).matrix
    array([[1., 3.],
           [2., 4.]])
    """
    if missing := [c.name for c in inputs if c.required and c.name not in columns]:
        raise ValueError(f"the rows have no column {', '.join(map(repr, missing))}")
    rows = max((len(columns[c.name]) for c in inputs if c.name in columns), default=0)
    arrays = {c.name: typed_column(columns.get(c.name, [None] * rows), c) for c in inputs}
    names = tuple(c.name for c in inputs)
    kinds = {values.dtype for values in arrays.values()}
    if len(kinds) == 1 and next(iter(kinds)).kind in "fi" and not any(c.shape for c in inputs):
        return Batch(names, matrix=np.column_stack(list(arrays.values())))
    return Batch(names, arrays=arrays)


def typed_column(values: Array | Sequence[Any], column: Column) -> Array:
    """One column in its declared type; whole numbers with gaps become float64, since NumPy has no missing
    integer.
    """
    try:
        if column.shape:
            return _tensor(values, column)
        if column.dtype == "binary":
            return _bytes(values)
        if column.dtype == "string":
            return _text(values)
        if column.dtype == "datetime":
            return np.asarray(values, dtype=NUMPY_DTYPES["datetime"])
        return _numbers(values, column.dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"column {column.name!r} is not {column.dtype}: {error}") from error


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """A slice of the rows; views, not copies."""
    if batch.matrix is not None:
        return Batch(batch.names, matrix=batch.matrix[start:stop])
    return Batch(
        batch.names, arrays={name: values[start:stop] for name, values in (batch.arrays or {}).items()}
    )


def rows_with_values(columns: Mapping[str, Array | Sequence[Any]], inputs: Sequence[Column]) -> Array:
    """(n,) bool: rows that have every tensor and all bytes that the signature demands: what is too large to be captured
    is missing in its row."""
    rows = max((len(columns[c.name]) for c in inputs if c.name in columns), default=0)
    there = np.ones(rows, np.bool_)
    for column in inputs:
        values = columns.get(column.name)
        demanded = bool(column.shape) or (column.dtype == "binary" and column.required)
        if demanded and isinstance(values, np.ndarray) and values.dtype == object:
            there &= np.fromiter((value is not None for value in values), np.bool_, rows)
    return there


def of_one_shape(columns: Mapping[str, Array | Sequence[Any]], inputs: Sequence[Column]) -> list[Array]:
    """Positions of rows that a model can answer together, since their tensors of any length have one shape.

    >>> image = np.array([np.zeros((1, 2)), np.zeros((1, 3)), np.ones((1, 2)), None], object)[:3]
    >>> [places.tolist() for places in of_one_shape({"image": image}, [Column("image", "float", shape=(1, -1))])]
    [[0, 2], [1]]
    """
    rows = max((len(columns[c.name]) for c in inputs if c.name in columns), default=0)
    loose = [columns[c.name] for c in inputs if -1 in c.shape and c.name in columns]
    loose = [values for values in loose if not isinstance(values, np.ndarray) or values.dtype == object]
    if not loose or not rows:
        return [np.arange(rows)]
    groups: dict[Any, list[int]] = {}
    for row in range(rows):
        groups.setdefault(tuple(np.shape(values[row]) for values in loose), []).append(row)
    return [np.array(places) for places in groups.values()]


def recombined(columns: Columns, rows: int, seed: int) -> dict[str, Array]:
    """New rows whose every value comes from the same column of the given ones: they reach corners a few rows
    miss.
    """
    rng = np.random.default_rng(seed)
    known = row_count(columns)
    return {name: np.asarray(values)[rng.integers(0, known, rows)] for name, values in columns.items()}


def _tensor(values: Array | Sequence[Any], column: Column) -> Array:
    given = np.asarray(values)
    if given.dtype == object and len(given):  # rows as arrays or nested lists
        given = np.stack([_unwrapped(row) for row in given])
    shape = given.shape[1:]
    if len(shape) != len(column.shape) or any(
        w not in (-1, n) for w, n in zip(column.shape, shape, strict=True)
    ):
        raise ValueError(f"its rows have shape {list(shape)}, not {list(column.shape)}")
    if column.dtype == "string":
        return given.astype(object)
    flat = _numbers(given.reshape(-1), column.dtype)
    return flat.astype(NUMPY_DTYPES[column.dtype], copy=False).reshape(given.shape)


def _unwrapped(row: Any) -> Array:
    nested = isinstance(row, np.ndarray) and row.dtype == object
    return np.asarray(row.tolist() if nested else row)


def _bytes(values: Array | Sequence[Any]) -> Array:
    """Bytes, or text that is their base64."""
    out = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        out[i] = (
            binascii.a2b_base64(value) if isinstance(value, str) else None if value is None else bytes(value)
        )
    return out


def _text(values: Array | Sequence[Any]) -> Array:
    out = np.empty(len(values), dtype=object)
    out[:] = [None if _is_missing(v) else str(v) for v in values]
    return out


def _numbers(values: Array | Sequence[Any], dtype: Dtype) -> Array:
    wanted = np.dtype(NUMPY_DTYPES[dtype])
    given = np.asarray(values)
    if given.dtype == object:
        gaps = [_is_missing(v) for v in given]
        given = np.array([np.nan if gap else v for v, gap in zip(given, gaps, strict=True)], dtype=np.float64)
    if given.dtype.kind not in "biuf":
        raise ValueError(f"its values are {given.dtype}")
    if given.dtype.kind == "f" and wanted.kind in "biu":
        if not np.isfinite(given).all():
            return given.astype(np.float64)
        if (given != np.floor(given)).any():
            raise ValueError("it holds fractions")
    return given.astype(wanted)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and value != value)
