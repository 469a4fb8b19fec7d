"""Tables between a worker and the process that runs a model's code: a JSON head, then the bytes of the arrays.

Neither side trusts the other with more than that: nothing is unpickled, and whoever reads knows beforehand how much
is to come. Numbers and times are their own bytes, text and whatever else JSON knows is JSON, bytes have their lengths
before them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlplatform.stats.batch import Array

MOST_BYTES = 2 << 30
_SIZES = struct.Struct("<IQ")
_LENGTH = struct.Struct("<q")
_PLAIN = "biufM"

Read = Callable[[int], bytes]
"""Exactly so many bytes."""


def encode(head: Mapping[str, Any], arrays: Mapping[str, Array]) -> list[bytes]:
    """The parts of a frame, to be written one after the other. TypeError for objects that JSON does not know."""
    described, parts = [], []
    for name, values in arrays.items():
        kind, raw = _packed(values)
        described.append([name, kind, values.dtype.str, values.shape, len(raw)])
        parts.append(raw)
    written = json.dumps({**head, "arrays": described}, default=_plain).encode()
    return [_SIZES.pack(len(written), sum(map(len, parts))), written, *parts]


def decode(read: Read) -> tuple[dict[str, Any], dict[str, Array]]:
    """The next frame; ValueError for one that is none."""
    head_bytes, size = _SIZES.unpack(read(_SIZES.size))
    if head_bytes + size > MOST_BYTES:
        raise ValueError(f"a frame of {head_bytes + size} bytes")
    try:
        head = json.loads(read(head_bytes))
        described = head.pop("arrays")
        raw = memoryview(read(size))
        arrays, at = {}, 0
        for name, kind, dtype, shape, length in described:
            arrays[str(name)] = _unpacked(kind, dtype, tuple(shape), raw[at : at + length])
            at += length
    except (KeyError, TypeError, AttributeError, RecursionError, struct.error, OverflowError) as error:
        raise ValueError(f"a frame that is none: {type(error).__name__}: {error}") from error
    return head, arrays


def _packed(values: Array) -> tuple[str, bytes]:
    if values.dtype.kind in _PLAIN:
        return "plain", np.ascontiguousarray(values).tobytes()
    flat = values.ravel().tolist()
    if not any(type(value) is bytes for value in flat):
        return "json", json.dumps(flat, default=_plain).encode()
    lengths = (-1 if value is None else len(value) for value in flat)
    return "bytes", b"".join([*map(_LENGTH.pack, lengths), *(value or b"" for value in flat)])


def _unpacked(kind: str, dtype: str, shape: tuple[int, ...], raw: memoryview) -> Array:
    if kind == "plain":
        wanted = np.dtype(dtype)
        if wanted.kind not in _PLAIN:
            raise ValueError(f"an array of {dtype}")
        return np.frombuffer(raw, wanted).reshape(shape)
    flat = json.loads(bytes(raw)) if kind == "json" else _byte_strings(raw, int(np.prod(shape)))
    out = np.empty(len(flat), object)
    for i, value in enumerate(flat):  # a list of lists would become an array of its own
        out[i] = value
    return out.reshape(shape)


def _byte_strings(raw: memoryview, count: int) -> list[bytes | None]:
    at = count * _LENGTH.size
    if not 0 <= at <= len(raw):
        raise ValueError("fewer bytes than lengths")
    out: list[bytes | None] = []
    for (length,) in _LENGTH.iter_unpack(raw[:at]):
        out.append(None if length < 0 else bytes(raw[at : at + length]))
        at += max(length, 0)
    return out


def _plain(value: Any) -> Any:
    """What is no JSON yet: NumPy's scalars and arrays."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"an answer holds a {type(value).__name__}")
