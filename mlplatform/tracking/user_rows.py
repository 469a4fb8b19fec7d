"""Rows as people hold them (a DataFrame, or a two-dimensional array) as named columns of MLflow's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Dtype
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array

Layout = Literal["frame", "matrix"]
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

    def cast(self, inputs: Sequence[Column]) -> dict[str, Array]:
        """The columns in the signature's order and types."""
        return {c.name: _cast(self.columns[c.name], c.dtype) for c in inputs}


def read_rows(what: str, table: Any) -> UserRows:
    """Take a DataFrame (pandas, or what looks like one) or a 2-D array, whose columns are named c0, c1, ..."""
    if hasattr(table, "columns") and hasattr(table, "__getitem__"):
        names = [str(name) for name in table.columns]
        if len(set(names)) < len(names):
            raise UsageError(what=f"{what} has two columns of one name", hint="Rename one of them.")
        columns = {
            name: _values(what, name, table[key]) for name, key in zip(names, table.columns, strict=True)
        }
        return _not_empty(UserRows(what, table, "frame", columns))
    matrix = np.asarray(table)
    if matrix.ndim != 2 or matrix.dtype.kind not in "biuf":
        shape = f"{matrix.dtype} array of shape {matrix.shape}"
        raise UsageError(
            what=f"{what} is a {shape}",
            hint="Pass a DataFrame, or a two-dimensional array of numbers (rows, columns).",
        )
    return _not_empty(
        UserRows(what, matrix, "matrix", {f"c{i}": matrix[:, i] for i in range(matrix.shape[1])})
    )


def rebuild(like: Any, columns: dict[str, Array]) -> Any:
    """The columns as the kind of table the user passed: what a server will hand to the model."""
    if hasattr(like, "columns"):
        return type(like)(columns)
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
    return tuple(Column(name, _common([t.columns[name] for t in tables], name)) for name in first.columns)


# --- helpers ---


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
    if values.ndim != 1:
        raise UsageError(
            what=f"column {name} of {what} is not one value per row", hint="Flatten it into columns."
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
