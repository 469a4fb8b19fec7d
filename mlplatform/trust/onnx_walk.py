"""An ONNX file, read as the protocol buffer that it is: known operator domains, no tensors in other files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO

from mlplatform.trust.limits import Unsafe

DOMAINS = frozenset({b"", b"ai.onnx", b"ai.onnx.ml", b"com.microsoft"})
_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH, _OPSETS, _FUNCTIONS = 7, 8, 25
_NODE, _INITIALIZER, _SPARSE = 1, 5, 15
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_MAX_DEPTH = 32


def check(file: IO[bytes]) -> bool:
    """Whether it is an ONNX model at all; Unsafe when it is one that may not be loaded."""
    raw = memoryview(file.read())
    try:
        fields = list(_fields(raw))
        if not fields or {number for number, _ in fields} - _MODEL_FIELDS:
            return False
        graphs = [value for number, value in fields if number == _GRAPH and isinstance(value, memoryview)]
        if len(graphs) != 1:
            return False
        for number, value in fields:
            if isinstance(value, memoryview) and number == _OPSETS:
                _check_domain(value, 1)
            elif isinstance(value, memoryview) and number == _FUNCTIONS:
                _check_nodes(value, 7, 0)
        _check_graph(graphs[0], 0)
    except ValueError:
        return False
    return True


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise Unsafe("graphs are nested too deep")
    for number, value in _fields(graph):
        if isinstance(value, memoryview) and number == _INITIALIZER:
            _check_tensor(value)
        elif isinstance(value, memoryview) and number == _SPARSE:
            _check_sparse(value)
    _check_nodes(graph, _NODE, depth)


def _check_nodes(owner: memoryview, field: int, depth: int) -> None:
    for number, node in _fields(owner):
        if number != field or not isinstance(node, memoryview):
            continue
        _check_domain(node, 7)
        for part, attribute in _fields(node):
            if part == 5 and isinstance(attribute, memoryview):
                _check_attribute(attribute, depth)


def _check_attribute(attribute: memoryview, depth: int) -> None:
    """Tensors (t, tensors), graphs (g, graphs) and sparse tensors of an attribute."""
    for number, value in _fields(attribute):
        if not isinstance(value, memoryview):
            continue
        if number in (5, 10):
            _check_tensor(value)
        elif number in (6, 11):
            _check_graph(value, depth + 1)
        elif number in (22, 23):
            _check_sparse(value)


def _check_sparse(sparse: memoryview) -> None:
    for number, value in _fields(sparse):
        if number in (1, 2) and isinstance(value, memoryview):
            _check_tensor(value)


def _check_tensor(tensor: memoryview) -> None:
    for number, value in _fields(tensor):
        if number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0):
            raise Unsafe("a tensor lies in another file")


def _check_domain(message: memoryview, field: int) -> None:
    for number, value in _fields(message):
        if number == field and isinstance(value, memoryview) and bytes(value) not in DOMAINS:
            raise Unsafe(f"it uses operators of {bytes(value)[:60].decode(errors='replace')!r}")


def _fields(raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message; ValueError where it is not one."""
    position = 0
    while position < len(raw):
        key, position = _varint(raw, position)
        number, kind = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if kind == 0:
            value, position = _varint(raw, position)
            yield number, value
            continue
        if kind == 2:
            size, position = _varint(raw, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(raw):
            raise ValueError("a field is longer than its message")
        yield number, raw[position : position + size]
        position += size


def _varint(raw: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(raw):
            break
        byte = raw[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number without end")
