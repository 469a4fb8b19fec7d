"""Values of one column -> an array in the column's type, or a Problem that names the column, the row and what
was expected.

Numbers: `null` (or NaN) in a float, double, string or datetime column is a missing value, as MLflow reads
it; integer and boolean columns have none. Infinity, and numbers outside the column's type, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.serving.problems import Problem
from mlplatform.stats.batch import Array

RANGES = {"integer": 2**31, "long": 2**63}
FLOAT32_MAX = float(np.finfo("float32").max)
FLOAT64_MAX = float(np.finfo("float64").max)


def read(column: Column, values: Sequence[Any] | Array) -> tuple[Array, bool]:
    """The column, and whether a value of it is missing. Arrays that fit are taken whole; anything else goes value
    by value, which can tell what is wrong."""
    if isinstance(values, np.ndarray):
        if (whole := _whole(column, values)) is not None:
            return whole
        return _READERS[column.dtype](column, values.tolist())
    return _READERS[column.dtype](column, values)


def absent(column: Column, count: int) -> tuple[Array, bool]:
    """An optional column that was not sent."""
    if column.dtype == "string":
        return np.full(count, None, object), True
    if column.dtype == "datetime":
        return np.full(count, np.datetime64("NaT"), "datetime64[ns]"), True
    return np.full(count, math.nan), True


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def limit_of(column: Column) -> float:
    if column.dtype == "float":
        return FLOAT32_MAX
    return float(RANGES[column.dtype] - 1) if column.dtype in RANGES else math.inf


def _wrong(column: Column, row: int, expected: str, value: Any) -> Problem:
    shown = kind_of(value) if not isinstance(value, (str, int, float)) else _short(value)
    return Problem(f"column {column.name!r}, row {row}: expected {expected}, got {shown}")


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return str(value) if not isinstance(value, int) or abs(value) < 2**80 else "a number of very many digits"


def _floats(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values))
    limit = limit_of(column)
    gaps = False
    for i, value in enumerate(values):
        if value is None or value != value:
            out[i], gaps = math.nan, True
        elif type(value) not in (int, float):
            raise _wrong(column, i, "a number", value)
        elif not abs(value) <= min(limit, FLOAT64_MAX):
            raise _wrong(column, i, f"a finite number in the range of {column.dtype}", value)
        else:
            out[i] = value
    return out, gaps


def _integers(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values), "int64")
    limit = RANGES[column.dtype]
    for i, value in enumerate(values):
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise _wrong(column, i, "a whole number", value)
        if not -limit <= value < limit:
            raise _wrong(
                column, i, f"a whole number in the range of {column.dtype} ({limit.bit_length()} bits)", value
            )
        out[i] = value
    return out, False


def _booleans(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    for i, value in enumerate(values):
        if type(value) is not bool:
            raise _wrong(column, i, "true or false", value)
    return np.array(values, bool), False


def _texts(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        if value is not None and type(value) is not str:
            raise _wrong(column, i, "text", value)
        out[i] = value
    return out, None in values


def _times(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values), "datetime64[ns]")
    for i, value in enumerate(values):
        out[i] = "NaT" if value is None else _time(column, i, value)
    return out, None in values


def _time(column: Column, row: int, value: Any) -> np.datetime64:
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not None:
            moment = moment.astimezone(UTC).replace(tzinfo=None)
        if not 1678 <= moment.year <= 2261:
            raise ValueError("outside datetime64[ns]")
        return np.datetime64(moment, "ns")
    except (TypeError, ValueError, OverflowError):
        raise _wrong(column, row, "a time such as 2026-01-31T12:00:00Z, years 1678 to 2261", value) from None


def check_scalars(name: str, values: Sequence[Any]) -> None:
    for i, value in enumerate(values):
        if isinstance(value, (dict, list)):
            raise Problem(
                f"column {name!r}, row {i}: expected a number, text, boolean or null, got {kind_of(value)}"
            )
        if isinstance(value, float) and math.isinf(value):
            raise Problem(f"column {name!r}, row {i}: expected a finite number, got {value}")
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise Problem(f"column {name!r}, row {i}: expected a whole number of at most 64 bits")


@np.errstate(invalid="ignore")  # some bit patterns of NaN complain
def _whole(column: Column, values: Array) -> tuple[Array, bool] | None:
    """An array of numbers or booleans at once; None where a value does not fit."""
    kind = values.dtype.kind
    if column.dtype == "boolean":
        return (values, False) if kind == "b" else None
    if column.dtype in RANGES and kind in "iu":
        end = RANGES[column.dtype]
        fits = bool((values >= -end).all() and (values < end).all())
        return (values.astype("int64"), False) if fits else None
    if column.dtype not in ("float", "double") or kind not in "fiu":
        return None
    out = values.astype("float64")
    gaps = np.isnan(out)
    fits = bool((gaps | (np.abs(out) <= min(limit_of(column), FLOAT64_MAX))).all())
    return (out, bool(gaps.any())) if fits else None


_READERS: dict[str, Callable[[Column, Sequence[Any]], tuple[Array, bool]]] = {
    "float": _floats,
    "double": _floats,
    "integer": _integers,
    "long": _integers,
    "boolean": _booleans,
    "string": _texts,
    "datetime": _times,
}
