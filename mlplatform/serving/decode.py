"""Values of a request -> rows in the signature's order. Knows no transport and no format of a body.

Numbers: `null` (or NaN) in a float, double, string or datetime column is a missing value, as MLflow reads
it; integer and boolean columns have none. Infinity, and numbers outside the column's type, are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, differing_columns
from mlplatform.errors import nearest
from mlplatform.serving.problems import Problem
from mlplatform.stats.batch import Array, Batch

NUMBERS = ("integer", "long", "float", "double")
EXACT = 2.0**53 - 1
"""Whole numbers up to this are exact in a float64, and no other number is rounded to one of them."""
_RANGES = {"integer": 2**31, "long": 2**63}
_FLOAT32_MAX = float(np.finfo("float32").max)


@dataclass(frozen=True, slots=True)
class Rows:
    """Checked rows of one request."""

    batch: Batch
    context: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Columns that travel beside the features; captured, never shown to the model."""
    missing: bool = False
    """Whether a feature has a missing value somewhere."""


class RowDecoder:
    """Checks values against a signature. Problem names the field and what was expected."""

    def __init__(self, inputs: Sequence[Column], context: Collection[str] = ()) -> None:
        self.inputs = tuple(inputs)
        self.names = tuple(column.name for column in inputs)
        self.context = frozenset(context) - set(self.names)
        self.numeric = all(column.dtype in NUMBERS for column in inputs)
        """Whether requests may take the way of one float matrix."""
        whole = [i for i, column in enumerate(inputs) if column.dtype in ("integer", "long")]
        self._whole = np.array(whole, dtype=int) if whole else None
        self._limits = np.array(
            [min(_limit(column), EXACT) if column.dtype in _RANGES else _limit(column) for column in inputs]
        )
        self._bounded = any(column.dtype != "double" for column in inputs)

    def matrix(self, rows: Sequence[Sequence[float]], order: Array | None = None) -> Rows | None:
        """The quick way, for rows of plain floats; None where only the careful way can tell what is wrong."""
        width = len(self.names)
        count = len(rows)
        if not width or set(map(len, rows)) != {width}:
            return None
        flat = rows[0] if count == 1 else chain.from_iterable(rows)
        matrix = np.fromiter(flat, np.float64, count * width).reshape(count, width)
        if order is not None:
            matrix = matrix[:, order]
        if self._bounded and not self._fits(matrix):
            return None
        return Rows(Batch(self.names, matrix))

    def rows(self, rows: Any, columns: Sequence[str] | None = None) -> Rows:
        """Lists of values; `columns` names them, without it they stand in the signature's order."""
        names = self.names if columns is None else self._check_names(columns)
        if not isinstance(rows, list):
            raise Problem(f"expected a list of rows, got {kind_of(rows)}")
        for i, row in enumerate(rows):
            if not isinstance(row, list):
                raise Problem(f"row {i}: expected a list of {len(names)} values, got {kind_of(row)}")
            if len(row) != len(names):
                raise Problem(f"row {i} has {len(row)} values, expected {len(names)}: {_some(names)}")
        return self._convert(
            dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}, len(rows)
        )

    def records(self, records: Any) -> Rows:
        """One object a row."""
        if not isinstance(records, list):
            raise Problem(f"expected a list of records, got {kind_of(records)}")
        for i, record in enumerate(records):
            if not isinstance(record, dict):
                raise Problem(f"row {i}: expected an object of columns, got {kind_of(record)}")
            self._check_names(record, f"row {i}: ")
        names = dict.fromkeys(chain.from_iterable(records))
        return self._convert({name: [r.get(name) for r in records] for name in names}, len(records))

    def columns(self, columns: Mapping[str, Any]) -> Rows:
        """One list a column."""
        self._check_names(columns)
        count = 0
        for i, (name, values) in enumerate(columns.items()):
            if not isinstance(values, (list, tuple)):
                raise Problem(f"column {name!r}: expected a list of values, got {kind_of(values)}")
            if i and len(values) != count:
                raise Problem(f"column {name!r} has {len(values)} values, the columns before it have {count}")
            count = len(values)
        return self._convert(columns, count)

    def _check_names(self, given: Collection[str], where: str = "") -> Sequence[str]:
        for name in given:
            if not isinstance(name, str):
                raise Problem(f"{where}names of columns are strings, got {kind_of(name)}")
        if len(set(given)) != len(given):
            twice = next(name for name in given if list(given).count(name) > 1)
            raise Problem(f"{where}column {twice!r} is given twice")
        missing, extra = differing_columns(self.inputs, list(given))
        for name in extra:
            if name not in self.context:
                hint = nearest(name, [*self.names, *self.context][:1000])
                raise Problem(f"{where}unknown column {name!r}. {hint}")
        if missing:
            absent = _some([repr(name) for name in missing])
            raise Problem(f"{where}missing column {absent}; the model takes {_some(self.names)}")
        return list(given)

    def _convert(self, values: Mapping[str, Sequence[Any]], count: int) -> Rows:
        if not count:
            raise Problem("the request has no rows")
        arrays: dict[str, Array] = {}
        missing = False
        for column in self.inputs:
            given = values.get(column.name)
            arrays[column.name], gaps = (
                _absent(column, count) if given is None else _READERS[column.dtype](column, given)
            )
            missing = missing or gaps
        context = {name: values[name] for name in self.context if name in values}
        for name, beside in context.items():
            _check_scalars(name, beside)
        return Rows(Batch(self.names, arrays=arrays), context, missing)

    def _fits(self, matrix: Array) -> bool:
        if not bool((np.abs(matrix) <= self._limits).all()):
            return False
        if self._whole is None:
            return True
        whole = matrix[:, self._whole]
        return bool((whole == np.rint(whole)).all())


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def _limit(column: Column) -> float:
    if column.dtype == "float":
        return _FLOAT32_MAX
    return float(_RANGES[column.dtype] - 1) if column.dtype in _RANGES else math.inf


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
    limit = _limit(column)
    gaps = False
    for i, value in enumerate(values):
        if value is None or value != value:
            out[i], gaps = math.nan, True
        elif type(value) not in (int, float):
            raise _wrong(column, i, "a number", value)
        elif not abs(value) <= min(limit, 1.7976931348623157e308):
            raise _wrong(column, i, f"a finite number in the range of {column.dtype}", value)
        else:
            out[i] = value
    return out, gaps


def _integers(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values), "int64")
    limit = _RANGES[column.dtype]
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


def _absent(column: Column, count: int) -> tuple[Array, bool]:
    """An optional column that was not sent."""
    if column.dtype == "string":
        return np.full(count, None, object), True
    if column.dtype == "datetime":
        return np.full(count, np.datetime64("NaT"), "datetime64[ns]"), True
    return np.full(count, math.nan), True


def _check_scalars(name: str, values: Sequence[Any]) -> None:
    for i, value in enumerate(values):
        if isinstance(value, (dict, list)):
            raise Problem(
                f"column {name!r}, row {i}: expected a number, text, boolean or null, got {kind_of(value)}"
            )
        if isinstance(value, float) and math.isinf(value):
            raise Problem(f"column {name!r}, row {i}: expected a finite number, got {value}")
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise Problem(f"column {name!r}, row {i}: expected a whole number of at most 64 bits")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


_READERS: dict[str, Callable[[Column, Sequence[Any]], tuple[Array, bool]]] = {
    "float": _floats,
    "double": _floats,
    "integer": _integers,
    "long": _integers,
    "boolean": _booleans,
    "string": _texts,
    "datetime": _times,
}
