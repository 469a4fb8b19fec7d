"""Rows as people hold them (a DataFrame, an array, several named arrays) as named columns of MLflow's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Dtype
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array

Layout = Literal["frame", "matrix", "tensors"]
TENSOR = "input"
"""The name of an array of more than two dimensions, where the model has none for it."""
_TENSOR_DTYPES: dict[str, Dtype] = {
    numpy: cast(Dtype, dtype)
    for dtype, numpy in NUMPY_DTYPES.items()
    if dtype not in ("string", "binary", "datetime")
}
_NESTED = (np.ndarray, list, tuple, dict, set)
_WIDER: tuple[Dtype, ...] = ("boolean", "integer", "long", "float", "double")


@dataclass(frozen=True)
class UserRows:
    """A table that a person passed, under the name they passed it as."""

    what: str
    original: Any
    layout: Layout
    columns: dict[str, Array]

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    @property
    def row_bytes(self) -> int:
        """What a row takes on average, text aside."""
        return sum(values.nbytes for values in self.columns.values()) // max(1, self.rows)

    def head(self, rows: int) -> Any:
        """The first rows, as the user holds them."""
        if isinstance(self.original, Mapping):
            return {name: values[:rows] for name, values in self.original.items()}
        return self.original.head(rows) if hasattr(self.original, "head") else self.original[:rows]

    def cast(self, inputs: Sequence[Column]) -> dict[str, Array]:
        """The columns in the signature's order and types."""
        return {c.name: _cast(self.columns[c.name], c.dtype) for c in inputs}


def read_rows(what: str, table: Any, name: str = TENSOR) -> UserRows:
    """Take a DataFrame (pandas, or what looks like one); a 2-D array, whose columns are named c0, c1, ...; an array of
    more dimensions, which is one tensor a row, called `name`; or a dict of arrays, one a column. Raises UsageError."""
    if isinstance(table, Mapping):
        return _named(what, table)
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):
        names = [str(name) for name in table.columns]
        if len(set(names)) < len(names):
            raise UsageError(what=f"{what} has two columns of one name", hint="Rename one of them.")
        columns = {
            name: _values(what, name, table[key]) for name, key in zip(names, table.columns, strict=True)
        }
        return _not_empty(UserRows(what, table, "frame", columns))
    matrix = _array(what, table)
    if matrix.ndim > 2:
        return _not_empty(UserRows(what, matrix, "tensors", {name: matrix}))
    if matrix.ndim != 2:
        shape = f"{matrix.dtype} array of shape {matrix.shape}"
        raise UsageError(
            what=f"{what} is a {shape}",
            hint="Pass a DataFrame, an array of numbers (rows, columns) or (rows, ...), or a dict of arrays.",
        )
    return _not_empty(
        UserRows(what, matrix, "matrix", {f"c{i}": matrix[:, i] for i in range(matrix.shape[1])})
    )


def rebuild(like: Any, columns: dict[str, Array]) -> Any:
    """The columns as the kind of table the user passed: what a server will hand to the model."""
    if hasattr(like, "columns"):
        return type(like)(columns)
    if isinstance(like, Mapping):
        return columns
    if like.ndim > 2:
        return next(iter(columns.values()))
    return np.column_stack(list(columns.values())).astype(like.dtype, copy=False)


def read_truth(what: str, truth: Any, rows: int) -> Array:
    """One known value per row; text as object, numbers and booleans as they are."""
    if truth is None:
        raise UsageError(what=f"{what} has no y", hint=f"Pass {what}=(X, y): rows and their truth.")
    values = np.asarray(truth)
    values = values.ravel() if values.ndim == 2 and values.shape[1] == 1 else values
    if values.ndim != 1 or len(values) != rows:
        raise UsageError(
            what=f"y of {what} has shape {np.shape(truth)}, its X has {rows} rows",
            hint="Pass one truth per row.",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UsageError(
            what=f"y of {what} has missing values", hint="Leave out rows whose truth is not known."
        )
    if values.dtype.kind in "OUST":
        if any(v is None or v != v for v in values.tolist()):
            raise UsageError(
                what=f"y of {what} has missing values", hint="Leave out rows whose truth is not known."
            )
        plain = [v.item() if isinstance(v, np.generic) else v for v in values.tolist()]
        kinds = {type(v) for v in plain}
        return (
            np.array(plain)
            if kinds <= {bool} or kinds <= {int}
            else np.array([str(v) for v in plain], dtype=object)
        )
    return values


def infer_inputs(tables: Sequence[UserRows]) -> tuple[Column, ...]:
    """One signature that fits all tables; UsageError when their columns differ."""
    first = tables[0]
    for other in tables[1:]:
        missing = [name for name in first.columns if name not in other.columns]
        extra = [name for name in other.columns if name not in first.columns]
        if missing or extra:
            differs = [f"lacks {', '.join(missing)}"] * bool(missing) + [
                f"has also {', '.join(extra)}"
            ] * bool(extra)
            raise UsageError(
                what=f"{other.what} {' and '.join(differs)}, compared with {first.what}",
                hint="Pass the same feature columns, without the target, in all of them.",
            )
    return tuple(_column(name, [table.columns[name] for table in tables]) for name in first.columns)


# --- helpers ---


def _named(what: str, table: Mapping[Any, Any]) -> UserRows:
    """Several arrays, each a column of its own: tensors, or one value a row."""
    arrays = {str(name): _array(f"{name!r} of {what}", values) for name, values in table.items()}
    if len({len(values) if values.ndim else -1 for values in arrays.values()}) > 1:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in arrays.items())
        raise UsageError(
            what=f"the arrays of {what} have different numbers of rows: {shapes}",
            hint="Let the first dimension of each be the rows.",
        )
    if any(values.ndim == 0 for values in arrays.values()):
        raise UsageError(
            what=f"{what} holds single values", hint="Pass arrays whose first dimension is the rows."
        )
    return _not_empty(UserRows(what, arrays, "tensors", arrays))


def _array(what: str, given: Any) -> Array:
    """Numbers or booleans; UsageError for anything else, and for rows of different shapes."""
    try:
        values = np.asarray(given)
    except ValueError as error:  # numpy refuses ragged lists
        raise _ragged(what) from error
    if values.dtype.kind == "O" and any(
        isinstance(row, list | tuple | np.ndarray) for row in values.reshape(-1)
    ):
        raise _ragged(what)
    if values.dtype.kind not in "biuf":
        raise UsageError(
            what=f"{what} is a {values.dtype} array of shape {values.shape}",
            hint="Pass numbers: encode text and objects first, or pass a DataFrame for a model that takes them.",
        )
    if 0 in values.shape[1:]:
        raise UsageError(what=f"{what} has shape {values.shape}, which holds no values", hint="Pass values.")
    return values


def _ragged(what: str) -> UsageError:
    return UsageError(
        what=f"the rows of {what} differ in shape, or are objects",
        hint="Make them one array: pad them to one length, then np.stack(rows).",
    )


def _column(name: str, given: Sequence[Array]) -> Column:
    if all(values.ndim == 1 for values in given):
        return Column(name, _common(given, name))
    shapes = {values.shape[1:] for values in given}
    types = {np.dtype(values.dtype.newbyteorder("=")) for values in given}
    if len(shapes) > 1 or len(types) > 1:
        shown = ", ".join(sorted({f"{values.dtype} {list(values.shape[1:])}" for values in given}))
        raise UsageError(
            what=f"the rows of {name} are not alike in holdout, reference and sample: {shown}",
            hint="Give them one shape and one type, such as X.astype(np.float32).",
        )
    found = _TENSOR_DTYPES.get(types.pop().name)
    if found is None:
        raise UsageError(
            what=f"tensors of type {given[0].dtype} are not known",
            hint=f"Convert them to one of {', '.join(_TENSOR_DTYPES)}.",
        )
    return Column(name, found, shape=tuple(map(int, shapes.pop())))


def _not_empty(table: UserRows) -> UserRows:
    if not table.columns or not table.rows:
        raise UsageError(what=f"{table.what} is empty", hint="Pass at least one row and one column.")
    return table


def _values(what: str, name: str, column: Any) -> Array:
    """A column as bool, whole numbers, floats, times, or text with None where it is missing."""
    dtype = str(getattr(column, "dtype", ""))
    values = (
        np.asarray(column, dtype="datetime64[ns]") if dtype.startswith("datetime64") else np.asarray(column)
    )
    nested = next((v for v in values if isinstance(v, _NESTED)), None) if values.dtype == object else None
    if values.ndim != 1 or nested is not None:
        kind = "several" if nested is None else f"a {type(nested).__name__}"
        raise UsageError(
            what=f"column {name} of {what} is not one value per row: it holds {kind}",
            hint="Flatten it into columns, or keep it as JSON text; or pass tensors as an array (rows, ...), or a dict"
            " of arrays.",
        )
    if values.dtype.kind in "biufM":
        return values
    if values.dtype.kind in "OUST":
        return _from_objects(values.tolist())
    raise UsageError(
        what=f"column {name} of {what} has type {values.dtype}", hint="Use numbers, text or times."
    )


def _from_objects(values: list[Any]) -> Array:
    known = [v for v in values if not _missing(v)]
    if known and all(isinstance(v, bytes) for v in known):
        return np.array([None if _missing(v) else v for v in values] + [None], dtype=object)[:-1]
    if known and all(isinstance(v, (bool, np.bool_)) for v in known) and len(known) == len(values):
        return np.array(values, dtype=bool)
    if known and all(isinstance(v, (int, float, np.integer, np.floating)) for v in known):
        filled = [float("nan") if _missing(v) else v for v in values]
        return np.array(filled, dtype=np.float64 if len(known) < len(values) else None)
    return np.array([None if _missing(v) else str(v) for v in values], dtype=object)


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def _common(columns: Sequence[Array], name: str) -> Dtype:
    """The narrowest of MLflow's types that holds every table's values."""
    kinds = {_dtype(values) for values in columns}
    if len(kinds) == 1:
        return kinds.pop()
    if kinds <= set(_WIDER):
        widest = max(kinds, key=_WIDER.index)
        return "double" if widest == "float" and kinds & {"integer", "long"} else widest
    raise UsageError(
        what=f"column {name} is {' in one table and '.join(sorted(kinds))} in another",
        hint="Give the column one type in holdout, reference and sample.",
    )


def _dtype(values: Array) -> Dtype:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b":
        return "boolean"
    if kind in "iu":
        return "integer" if size < 4 or (kind == "i" and size == 4) else "long"
    if kind == "f":
        return "float" if size <= 4 else "double"
    if kind == "M":
        return "datetime"
    return "binary" if any(isinstance(v, bytes) for v in values) else "string"


def _cast(values: Array, dtype: Dtype) -> Array:
    return values if dtype in ("string", "binary") else values.astype(NUMPY_DTYPES[dtype], copy=False)
