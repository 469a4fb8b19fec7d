"""Between Arrow tables and numpy columns.

Text is dtype object with None, times are datetime64[us] in UTC, whole numbers and booleans with nulls are
float64 with NaN, lists of one length are two-dimensional.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.stats.batch import Array


def to_arrow(values: Array) -> pa.Array:
    """One column. Objects that share no type become text."""
    values = np.asarray(values)
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    if values.ndim > 2:
        raise ValueError(f"a column has one or two dimensions, not {values.ndim}")
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[us]"))
    try:
        return pa.array(values, from_pandas=values.dtype.kind == "O")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_text(value) for value in values.tolist()], pa.string())


def to_numpy(column: pa.ChunkedArray | pa.Array) -> Array:
    """One column as numpy; see the module for what its types become."""
    chunk = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    kind = chunk.type
    if pa.types.is_dictionary(kind):
        return to_numpy(chunk.dictionary_decode())
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _times(chunk)
    if pa.types.is_decimal(kind):
        return to_numpy(chunk.cast(pa.float64()))
    if pa.types.is_fixed_size_list(kind) and not chunk.null_count:
        return to_numpy(chunk.flatten()).reshape(len(chunk), kind.list_size)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(chunk)
    return np.asarray(chunk.to_numpy(zero_copy_only=False), dtype=object)


def below_each_other(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of all tables; a column that some lack is null there, one of several types takes the widest."""
    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        mixed = _mixed(tables)
        return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def _times(chunk: pa.Array) -> Array:
    naive = chunk.cast(pa.timestamp("us", getattr(chunk.type, "tz", None)), safe=False)
    out: Array = naive.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    return out.astype("datetime64[us]")


def _numbers(chunk: pa.Array) -> Array:
    if chunk.null_count and not pa.types.is_floating(chunk.type):
        if pa.types.is_boolean(chunk.type):
            chunk = chunk.cast(pa.uint8())
        return np.asarray(chunk.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    out: Array = chunk.to_numpy(zero_copy_only=False)
    return out


def _mixed(tables: Sequence[pa.Table]) -> set[str]:
    """Columns that are text in one table and something else in another."""
    kinds: dict[str, set[bool]] = {}
    for table in tables:
        for item in table.schema:
            if not pa.types.is_null(item.type):
                kinds.setdefault(item.name, set()).add(pa.types.is_string(item.type))
    return {name for name, seen in kinds.items() if len(seen) > 1}


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        column = table[name]
        if pa.types.is_fixed_size_list(column.type):
            text = pa.array([json.dumps(value) for value in column.to_pylist()], pa.string())
        else:
            text = pc.cast(column, pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, text)
    return table


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)
