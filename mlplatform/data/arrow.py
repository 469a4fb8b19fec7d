"""Between Arrow tables and numpy columns.

Text is dtype object with None, times are datetime64[us] in UTC, whole numbers and booleans with nulls are
float64 with NaN, lists of one length are two-dimensional. Tensors of one shape are lists of one length too, with the
shape in the field's metadata (`shape`: `[28, 28]`); tensors of several shapes are structs of `values` and `shape`.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.stats.batch import Array, Columns
from mlplatform.stats.uneven import Uneven

SHAPE = b"shape"
"""Of a field's metadata."""


def to_table(columns: Columns) -> pa.Table:
    """Columns of one length; those of more than two dimensions carry their shape."""
    arrays = {name: to_arrow(values) for name, values in columns.items()}
    fields = [_field(name, values, np.shape(columns[name])[1:]) for name, values in arrays.items()]
    return pa.table(list(arrays.values()), schema=pa.schema(fields))


def to_columns(table: pa.Table) -> dict[str, Array]:
    return {name: column_of(table, name) for name in table.column_names}


def column_of(table: pa.Table, name: str) -> Array:
    """One column of a table, tensors in their shape; rows without a value are None there."""
    values, shape = to_numpy(table[name]), shape_of(table.schema.field(name))
    if not shape:
        return values
    if values.dtype != object:
        return values.reshape(len(values), *shape)
    return objects([None if row is None else np.asarray(row).reshape(shape) for row in values])


def shape_of(field: pa.Field) -> tuple[int, ...]:
    """Of a tensor's rows; () for other columns, and for tensors of several shapes."""
    return tuple(json.loads((field.metadata or {}).get(SHAPE, b"[]")))


def to_arrow(values: Array) -> pa.Array:
    """One column. Objects that share no type become text."""
    values = np.asarray(values)
    if values.ndim >= 2:
        return pa.FixedSizeListArray.from_arrays(to_arrow(values.reshape(-1)), math.prod(values.shape[1:]))
    if values.dtype.kind == "M":
        return pa.array(values.astype("datetime64[us]"))
    if values.dtype.kind == "O" and any(isinstance(value, np.ndarray) for value in values):
        return _uneven(values)
    try:
        return pa.array(values, from_pandas=values.dtype.kind == "O")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([_text(value) for value in values.tolist()], pa.string())


def to_numpy(column: pa.ChunkedArray | pa.Array) -> Array:
    """One column as numpy; see the module for what its types become."""
    if isinstance(column, pa.ChunkedArray) and column.num_chunks > 1 and _is_bulk(column.type):
        parts = [to_numpy(chunk) for chunk in column.chunks]
        even = {part.dtype == object for part in parts} == {False}
        return np.concatenate(parts) if even else objects([row for part in parts for row in part])
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
    if _is_uneven(kind):
        return _tensors(chunk)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _numbers(chunk)
    return np.asarray(chunk.to_numpy(zero_copy_only=False), dtype=object)


def below_each_other(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows of all tables; a column that some lack is null there, one of several types takes the widest."""
    if len(tables) == 1:
        return tables[0]
    tables = _of_one_form(tables)
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        mixed = _mixed(tables)
        return pa.concat_tables([_as_text(table, mixed) for table in tables], promote_options="permissive")


def objects(values: Sequence[Any]) -> Array:
    """One object a row, whatever they are."""
    out = np.empty(len(values), object)
    for row, value in enumerate(values):
        out[row] = value
    return out


def _field(name: str, values: pa.Array, shape: tuple[int, ...]) -> pa.Field:
    return pa.field(name, values.type, metadata={SHAPE: json.dumps(shape)} if len(shape) > 1 else None)


def _is_bulk(kind: pa.DataType) -> bool:
    """Types that may hold more than 2 GB in one column, which is more than one chunk takes."""
    return pa.types.is_binary(kind) or pa.types.is_fixed_size_list(kind) or _is_uneven(kind)


def _is_uneven(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and [field.name for field in kind] == ["values", "shape"]


def _is_tensor(field: pa.Field) -> bool:
    return pa.types.is_fixed_size_list(field.type) or _is_uneven(field.type)


def _uneven(values: Array, dtype: str = "") -> pa.Array:
    """Tensors of any shape, each with its own."""
    packed = Uneven.of(values.tolist(), dtype)
    assert packed.shapes is not None
    width = packed.shapes.shape[1]
    ends = pa.array(np.concatenate([[0], packed.ends]), pa.int64())
    lists = pa.LargeListArray.from_arrays(ends, to_arrow(packed.flat))
    places = pa.array(np.arange(len(values) + 1) * width, pa.int32())
    shapes = pa.ListArray.from_arrays(places, pa.array(packed.shapes.reshape(-1), pa.int64()))
    return pa.StructArray.from_arrays([lists, shapes], ["values", "shape"], mask=pa.array(packed.gaps))


def _tensors(chunk: pa.StructArray) -> Array:
    lists = chunk.field("values").to_numpy(zero_copy_only=False)
    shapes = chunk.field("shape").to_numpy(zero_copy_only=False)
    gaps = chunk.is_null().to_numpy(zero_copy_only=False)
    rows = zip(lists, shapes, gaps, strict=True)
    return objects([None if gap else np.asarray(one).reshape(shape) for one, shape, gap in rows])


def _of_one_form(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Tensors of one name that differ in shape or type, each with its own shape and all of the widest type."""
    forms: dict[str, set[tuple[pa.DataType, tuple[int, ...]]]] = {}
    for table in tables:
        for field in filter(_is_tensor, table.schema):
            forms.setdefault(field.name, set()).add((field.type, shape_of(field)))
    differing = [name for name, seen in forms.items() if len(seen) > 1]
    out = list(tables)
    for name in differing:
        having = {i: table for i, table in enumerate(tables) if name in table.column_names}
        columns = {
            i: column_of(table, name) for i, table in having.items() if _is_tensor(table.schema.field(name))
        }
        types = {row.dtype for values in columns.values() for row in values if row is not None}
        widest = np.result_type(*types) if types else np.dtype("float64")
        for i, values in columns.items():
            rows = objects([None if row is None else row.astype(widest) for row in values])
            place = out[i].schema.get_field_index(name)
            out[i] = out[i].set_column(place, name, _uneven(rows, widest.str))
    return out


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
    """Columns that are text, bytes or a tensor in one table and something else in another."""
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for item in table.schema:
            if not pa.types.is_null(item.type):
                kinds.setdefault(item.name, set()).add(_kind(item.type))
    return {name for name, seen in kinds.items() if len(seen) > 1}


def _kind(kind: pa.DataType) -> str:
    if _is_bulk(kind):
        return "bytes" if pa.types.is_binary(kind) else "tensor"
    return "text" if pa.types.is_string(kind) else "value"


def _as_text(table: pa.Table, names: set[str]) -> pa.Table:
    for name in names & set(table.column_names):
        column = table[name]
        if _is_bulk(column.type):
            text = pa.array([_bulk_text(value) for value in column.to_pylist()], pa.string())
        else:
            text = pc.cast(column, pa.string())
        table = table.set_column(table.schema.get_field_index(name), name, text)
    return table


def _bulk_text(value: Any) -> str | None:
    if value is None:
        return None
    return base64.b64encode(value).decode() if isinstance(value, bytes) else json.dumps(value, default=str)


def _text(value: Any) -> str | None:
    return None if value is None or value != value else str(value)
