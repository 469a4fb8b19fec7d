"""Tensors of the Open Inference Protocol: datatypes, values as JSON and as bytes (little-endian, row by row)."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.serving.problems import Problem
from mlplatform.serving.values import FLOAT32_MAX, kind_of
from mlplatform.stats.batch import Array

NUMPY = {
    "BOOL": "bool",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BYTES": "object",
}
_DTYPES = {name: np.dtype(dtype) for name, dtype in NUMPY.items()}
_NAMES = {dtype.newbyteorder("="): name for name, dtype in _DTYPES.items()}
COLUMN_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
    "string": "BYTES",
    "binary": "BYTES",
    "datetime": "BYTES",
    "float16": "FP16",
    **{name: name.upper() for name in ("int8", "int16", "uint8", "uint16", "uint32", "uint64")},
}
"""How a column of a signature is announced; a column of numbers takes every datatype of numbers."""
Values = Array | list[Any]
"""Numbers and booleans as an array; text as a list, where None is a missing value, or as the bytes that came."""


class Described(NamedTuple):
    """A tensor without its values."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


class Tensor(NamedTuple):
    """One input."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values

    def column(self, column: Column | None) -> Values:
        """The values of one column; the shape is [rows] or [rows, 1], or the tensor's own."""
        values = self.values
        if isinstance(values, np.ndarray):
            return values if column is not None and column.shape else values.reshape(-1)
        if column is None or column.dtype != "binary":
            values = [self._text(i, value) for i, value in enumerate(values)]
        return _nested(values, self.shape) if column is not None and column.shape else values

    def _text(self, i: int, value: Any) -> Any:
        if type(value) is not bytes:
            return value
        try:
            return str(value, "utf-8")
        except UnicodeDecodeError as error:
            raise Problem(
                f"input {self.name!r}, element {i}: expected UTF-8, byte {error.start} is none"
            ) from None


def from_bytes(given: Described, raw: memoryview) -> Tensor:
    """The binary form. Problem when the bytes are not those of the shape."""
    name, datatype, shape = given.name, given.datatype, given.shape
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _strings(given, raw))
    wanted = given.elements * _DTYPES[datatype].itemsize
    if len(raw) != wanted:
        raise Problem(
            f"input {name!r}: expected 'binary_data_size' {wanted} for {datatype} of shape {list(shape)},"
            f" got {len(raw)}"
        )
    if datatype == "BOOL":
        bits = np.frombuffer(raw, np.uint8)
        if bits.size and bits.max() > 1:
            raise Problem(f"input {name!r}: expected bytes 0 and 1 for BOOL, got {bits.max()}")
        return Tensor(name, datatype, shape, bits.astype(bool).reshape(shape))
    return Tensor(name, datatype, shape, np.frombuffer(raw, _DTYPES[datatype]).reshape(shape))


def from_floats(given: Described, data: list[float]) -> Tensor:
    """Finite floats for FP32 or FP64, as many as the shape says. Problem names one that FP32 does not hold."""
    values = np.array(data, np.float64)
    if given.datatype == "FP32" and not bool((np.abs(values) <= FLOAT32_MAX).all()):
        return from_json(given, data)
    values = values.astype(_DTYPES[given.datatype], copy=False)
    return Tensor(given.name, given.datatype, given.shape, values.reshape(given.shape))


def from_json(given: Described, data: Any) -> Tensor:
    """`data`, flat or nested as the shape says. Problem names the element that does not fit the datatype."""
    flat = _flat(given, data)
    if len(flat) != given.elements:
        raise Problem(
            f"input {given.name!r}: expected {given.elements} values for shape {list(given.shape)}, got {len(flat)}"
        )
    kinds = set(map(type, flat))
    if given.datatype == "BYTES":
        _check_all(given, flat, kinds <= {str, type(None)}, _is_text, "text")
        return Tensor(given.name, given.datatype, given.shape, flat)
    if given.datatype == "BOOL":
        _check_all(given, flat, kinds <= {bool}, lambda v: type(v) is bool, "true or false")
        return Tensor(given.name, given.datatype, given.shape, np.array(flat, bool).reshape(given.shape))
    return Tensor(given.name, given.datatype, given.shape, _numbers(given, flat, kinds).reshape(given.shape))


def to_json(values: Array) -> list[Any]:
    """All values, row by row; bytes in base64."""
    listed: list[Any] = as_sent(values).ravel().tolist()
    return list(map(_in_json, listed)) if values.dtype == object else listed


def to_bytes(values: Array) -> bytes:
    """The binary form; texts are four bytes with their length and UTF-8, bytes likewise."""
    values = as_sent(values)
    if values.dtype.kind not in "OU":
        return values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    encoded = [_in_bytes(value) for value in values.ravel().tolist()]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))


def as_sent(values: Array) -> Array:
    """Times become text: the protocol has no type for them."""
    return values.astype(str) if values.dtype.kind in "Mm" else values


def _in_json(value: Any) -> Any:
    return base64.b64encode(value).decode() if type(value) is bytes else value


def _in_bytes(value: Any) -> bytes:
    if type(value) is bytes:
        return value
    return json.dumps(value).encode() if isinstance(value, (dict, list)) else str(value).encode()


def datatype_of(values: Array) -> str:
    if found := _NAMES.get(values.dtype):
        return found
    return "BYTES" if values.dtype.kind in "OUSMm" else _NAMES[values.dtype.newbyteorder("=")]


def _strings(given: Described, raw: memoryview) -> list[Any]:
    out: list[Any] = []
    at, end = 0, len(raw)
    for i in range(min(given.elements, end // 4)):
        size = int.from_bytes(raw[at : at + 4], "little")
        at += 4
        if at + size > end:
            raise Problem(
                f"input {given.name!r}, element {i}: {size} bytes are announced, {end - at} are there"
            )
        out.append(bytes(raw[at : at + size]))
        at += size
    if len(out) != given.elements or at != end:
        raise Problem(
            f"input {given.name!r}: expected {given.elements} texts for shape {list(given.shape)},"
            f" got {len(out)} and {end - at} bytes more"
        )
    return out


def _nested(flat: list[Any], shape: Sequence[int]) -> list[Any]:
    for width in reversed(shape[1:]):
        flat = [flat[i : i + width] for i in range(0, len(flat), width)] if width else flat
    return flat


def _flat(given: Described, data: Any) -> list[Any]:
    if not isinstance(data, list):
        raise Problem(f"input {given.name!r}: expected 'data' as a list, got {kind_of(data)}")
    if len(given.shape) < 2 or not any(isinstance(row, list) for row in data):
        return data
    if len(data) != given.shape[0]:
        raise Problem(f"input {given.name!r}: expected {given.shape[0]} rows of data, got {len(data)}")
    flat, rows = data, len(data)
    for width in given.shape[1:]:
        for i, part in enumerate(flat):
            if not isinstance(part, list) or len(part) != width:
                found = f"{len(part)}" if isinstance(part, list) else kind_of(part)
                row = i * rows // len(flat)
                raise Problem(
                    f"input {given.name!r}, row {row}: expected a list of {width} values, got {found}"
                )
        flat = list(chain.from_iterable(flat))
    return flat


def _numbers(given: Described, flat: list[Any], kinds: set[type]) -> Array:
    dtype = _DTYPES[given.datatype]
    if dtype.kind == "f":
        limit = float(np.finfo(dtype).max)
        fits = kinds <= {int, float} and all(abs(v) <= limit for v in flat)

        def may_be(value: Any) -> bool:
            return value is None or (type(value) in (int, float) and abs(value) <= limit)

        _check_all(given, flat, fits, may_be, f"a number in the range of {given.datatype}")
        if not fits:
            flat = [math.nan if value is None else value for value in flat]
        return np.array(flat, np.float64).astype(dtype)
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    fits = kinds <= {int} and (not flat or (min(flat) >= low and max(flat) <= high))

    def is_one(value: Any) -> bool:
        return type(value) is int and low <= value <= high

    _check_all(given, flat, fits, is_one, f"a whole number from {low} to {high} for {given.datatype}")
    return np.array(flat, dtype)


def _is_text(value: Any) -> bool:
    return value is None or type(value) is str


def _check_all(given: Described, flat: Sequence[Any], fits: bool, is_one: Any, expected: str) -> None:
    """`fits` spares the look at each value."""
    if fits:
        return
    for i, value in enumerate(flat):
        if not is_one(value):
            shown = f"{value}"[:40] if type(value) is float else kind_of(value)
            raise Problem(f"input {given.name!r}, element {i}: expected {expected}, got {shown}")
