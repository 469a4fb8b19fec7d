"""Values of one column -> an array in the column's type, or a Problem that names the column, the row and what
was expected.

Numbers: `null` (or NaN) in a float, double, string or datetime column is a missing value, as MLflow reads
it; integer and boolean columns have none. Infinity, and numbers outside the column's type, are refused. Bytes are
base64 where the format has no bytes of its own, as JSON.
"""

from __future__ import annotations

import binascii
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column
from mlplatform.serving.problems import Problem
from mlplatform.stats.batch import Array

_INTEGERS = ("integer", "long", "int8", "int16", "uint8", "uint16", "uint32", "uint64")
BOUNDS = {
    name: (int(np.iinfo(NUMPY_DTYPES[name]).min), int(np.iinfo(NUMPY_DTYPES[name]).max)) for name in _INTEGERS
}
"""Smallest and largest value of each type of whole numbers."""
FLOATS = ("float", "double", "float16")
FLOAT32_MAX = float(np.finfo("float32").max)
FLOAT64_MAX = float(np.finfo("float64").max)


def read(column: Column, values: Sequence[Any] | Array) -> tuple[Array, bool]:
    """The column, and whether a value of it is missing. Arrays that fit are taken whole; anything else goes value
    by value, which can tell what is wrong."""
    if column.shape:
        return _tensor(column, values)
    if isinstance(values, np.ndarray):
        if (whole := _whole(column, values)) is not None:
            return whole
        return _READERS[column.dtype](column, values.tolist())
    return _READERS[column.dtype](column, values)


def absent(column: Column, count: int) -> tuple[Array, bool]:
    """An optional column that was not sent."""
    if column.shape:
        raise Problem(f"column {column.name!r}: a tensor has no missing values; send it")
    if column.dtype in ("string", "binary"):
        return np.full(count, None, object), True
    if column.dtype == "datetime":
        return np.full(count, np.datetime64("NaT"), "datetime64[ns]"), True
    return np.full(count, math.nan), True


def kind_of(value: Any) -> str:
    """What JSON calls it."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "a boolean", type(None): "null"}
    return kinds.get(type(value), "a number")


def limit_of(column: Column) -> float:
    if column.dtype in BOUNDS:
        return float(BOUNDS[column.dtype][1])
    if column.dtype in FLOATS:
        return float(np.finfo(NUMPY_DTYPES[column.dtype]).max) if column.dtype != "double" else math.inf
    return math.inf


def _wrong(column: Column, row: int, expected: str, value: Any) -> Problem:
    shown = kind_of(value) if not isinstance(value, (str, int, float)) else _short(value)
    place = f"row {row}"
    if column.shape:  # the values stand one after the other
        row, element = divmod(row, math.prod(column.shape))
        place = f"row {row}, element {element}"
    return Problem(f"column {column.name!r}, {place}: expected {expected}, got {shown}")


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
    out = np.empty(len(values), _held(column))
    low, high = BOUNDS[column.dtype]
    bits = 8 * np.dtype(NUMPY_DTYPES[column.dtype]).itemsize
    for i, value in enumerate(values):
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise _wrong(column, i, "a whole number", value)
        if not low <= value <= high:
            raise _wrong(column, i, f"a whole number in the range of {column.dtype} ({bits} bits)", value)
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


def _bytes(column: Column, values: Sequence[Any]) -> tuple[Array, bool]:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        if value is None and not column.required:
            continue
        if type(value) is str:
            value = _from_base64(value)
        if type(value) is not bytes:
            raise _wrong(column, i, "bytes in base64", values[i])
        out[i] = value
    return out, any(value is None for value in values)


def _from_base64(text: str) -> bytes | None:
    """Lines may be broken, as MIME does and MLflow's clients with it."""
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True) if text else b""
    except ValueError:
        return None


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


@np.errstate(invalid="ignore", over="ignore")  # some bit patterns of NaN complain
def _whole(column: Column, values: Array) -> tuple[Array, bool] | None:
    """An array of numbers or booleans at once; None where a value does not fit."""
    kind = values.dtype.kind
    if column.dtype == "boolean":
        return (values, False) if kind == "b" else None
    if column.dtype in BOUNDS and kind in "iu":
        low, high = BOUNDS[column.dtype]
        fits = bool((values >= low).all() and (values <= high).all())
        return (values.astype(_held(column)), False) if fits else None
    if column.dtype not in FLOATS or kind not in "fiu":
        return None
    out = values.astype(_held(column))
    gaps = np.isnan(out)
    fits = bool((gaps | (np.abs(out) <= min(limit_of(column), FLOAT64_MAX))).all())
    return (out, bool(gaps.any())) if fits else None


def _held(column: Column) -> str:
    """NumPy's type of the checked values: the widest one for columns, which share a matrix; a tensor's own."""
    if column.shape:
        return NUMPY_DTYPES[column.dtype]
    if column.dtype in FLOATS:
        return "float64"
    return "int64" if column.dtype in ("integer", "long") else NUMPY_DTYPES[column.dtype]


# --- tensors ------------------------------------------------------------------------------------------------


def _tensor(column: Column, values: Sequence[Any] | Array) -> tuple[Array, bool]:
    """One array of shape (rows, ...); a tensor of numbers may hold NaN, which is no gap."""
    flat, shape = _unfolded(column, values)
    if not all(shape):
        raise Problem(f"column {column.name!r}: the tensor has shape {list(shape)}, which holds no values")
    one = replace(column, shape=shape[1:])
    if isinstance(flat, np.ndarray):
        if (taken := _whole(one, flat)) is not None:
            return taken[0].reshape(shape), False
        flat = flat.tolist()
    elif set(map(type, flat)) <= {int, float} and (taken := _whole(one, np.array(flat))) is not None:
        return taken[0].reshape(shape), False
    read_values, _ = _READERS[column.dtype](one, flat)
    return read_values.astype(_held(one), copy=False).reshape(shape), False


def _unfolded(column: Column, values: Sequence[Any] | Array) -> tuple[Sequence[Any] | Array, tuple[int, ...]]:
    """All values one after the other, and the shape they had; Problem where it is not the column's."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        shape = values.shape
        fits = len(shape) == len(column.shape) + 1
        if not fits or any(w not in (-1, n) for w, n in zip(column.shape, shape[1:], strict=True)):
            raise Problem(
                f"column {column.name!r}: expected a tensor of shape {_shown_shape(column)}, got {list(shape)}"
            )
        return values.reshape(-1), shape
    flat, found = list(values), [len(values)]
    for wanted in column.shape:
        width = len(flat[0]) if flat and type(flat[0]) is list else -1
        for i, part in enumerate(flat):
            if type(part) is not list or len(part) != width or wanted not in (-1, width):
                row = i // math.prod(found[1:]) if len(found) > 1 else i
                got = f"a list of {len(part)}" if type(part) is list else kind_of(part)
                expected = f"lists of {width if wanted == -1 and width >= 0 else wanted}".replace(
                    "-1", "values"
                )
                raise Problem(
                    f"column {column.name!r}, row {row}: expected a tensor of shape {_shown_shape(column)},"
                    f" nested as {expected}, got {got}"
                )
        flat = list(chain.from_iterable(flat))
        found.append(width)
    return flat, tuple(found)


def _shown_shape(column: Column) -> list[int]:
    return [-1, *column.shape]


_READERS: dict[str, Callable[[Column, Sequence[Any]], tuple[Array, bool]]] = {
    **dict.fromkeys(FLOATS, _floats),
    **dict.fromkeys(BOUNDS, _integers),
    "boolean": _booleans,
    "string": _texts,
    "binary": _bytes,
    "datetime": _times,
}
