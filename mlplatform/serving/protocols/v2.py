"""`/v2/models/.../infer`: the Open Inference Protocol with the binary tensor extension.

One input a column, of shape [rows] or [rows, 1], or [rows, ...] where the column is a tensor; or one input
[rows, columns] in the signature's order, where all columns are numbers. Bytes are base64 in JSON. With
`Inference-Header-Content-Length` that many bytes of the body are JSON, and the tensors that have a `binary_data_size`
follow in their order. Outputs: `predictions` and, where the model has them, `scores`; a model with outputs of its own
names keeps those. Parameters of the request that the signature names are the model's; others, and fields that are not
of the protocol, are left alone, as it asks for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.serving.bodies import essence_of, parse
from mlplatform.serving.calls import Call, Payload
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.problems import Problem, UnsupportedMediaType
from mlplatform.serving.protocols import tensors
from mlplatform.serving.protocols.tensors import Tensor
from mlplatform.serving.protocols.v2_request import Given, Request, Wanted, quick_request, read_request
from mlplatform.stats.batch import Array, Outputs

HEADS, HEAD_BYTES = 64, 10_000
"""How many JSON parts of binary requests are remembered, and how long one may be."""
_TYPES = {b"", b"application/json", b"application/octet-stream"}
_encode = msgspec.json.Encoder().encode


class InferCodec:
    """Bodies of `infer` for one model version."""

    def __init__(self, rows: RowDecoder, model: str, version: str) -> None:
        self._rows = rows
        self._model, self._version = model, version
        self._columns = {column.name: column for column in rows.inputs}
        self._known: dict[bytes, Request] = {}

    def decode(self, call: Call) -> tuple[Rows, Wanted]:
        """Checked rows and how to answer; Problem says what is wrong."""
        if call.content_type not in _TYPES:
            _check_type(call.content_type)
        if call.json_length is None:
            inputs, wanted = quick_request(call.body) or read_request(parse(call.body))
            buffers = memoryview(b"")
        else:
            length = _length(call.json_length, len(call.body))
            inputs, wanted = self._remembered(call.body[:length])
            buffers = memoryview(call.body)[length:]
        rows = self._to_rows(_tensors(inputs, buffers))
        if wanted.parameters:
            rows = rows.beside(self._rows.params.pick(wanted.parameters))
        return rows, wanted

    def encode(self, wanted: Wanted, outputs: Outputs, request_id: str) -> Payload:
        """The answer in the form that was wanted."""
        shown: list[dict[str, Any]] = []
        buffers: list[bytes] = []
        for name, values, binary in _chosen(outputs, wanted):
            form: dict[str, Any] = {
                "name": name,
                "datatype": tensors.datatype_of(values),
                "shape": values.shape,
            }
            if binary:
                buffers.append(tensors.to_bytes(values))
                form["parameters"] = {"binary_data_size": len(buffers[-1])}
            else:
                form["data"] = tensors.to_json(values)
            shown.append(form)
        head = _encode(
            {
                "model_name": self._model,
                "model_version": self._version,
                "id": wanted.id or request_id,
                "outputs": shown,
            }
        )
        return Payload(b"".join((head, *buffers)), len(head)) if buffers else Payload(head)

    def _remembered(self, head: bytes) -> Request:
        """Clients send the same JSON part again and again."""
        if (known := self._known.get(head)) is not None:
            return known
        request = read_request(parse(head))
        if len(head) < HEAD_BYTES and len(self._known) < HEADS and all(g.data is None for g in request[0]):
            self._known[head] = request
        return request

    def _to_rows(self, given: Sequence[Tensor]) -> Rows:
        if len(given) == 1 and self._is_matrix(given[0]):
            return self._matrix(given[0])
        for tensor in given:
            self._check_column(tensor)
        columns = self._columns
        return self._rows.columns({t.name: t.column(columns.get(t.name)) for t in given})

    def _is_matrix(self, tensor: Tensor) -> bool:
        only = self._rows.only
        if len(tensor.shape) != 2 or (only and only.shape):
            return False
        return tensor.shape[1] != 1 or (tensor.name not in self._rows.names and len(self._rows.names) == 1)

    def _matrix(self, tensor: Tensor) -> Rows:
        names = self._rows.names
        if not self._rows.numeric or not isinstance(tensor.values, np.ndarray) or tensor.datatype == "BOOL":
            raise Problem(
                f"input {tensor.name!r}: a matrix needs columns and datatype of numbers; give one input a column"
            )
        if tensor.shape[1] != len(names):
            raise Problem(
                f"input {tensor.name!r}: expected shape [rows, {len(names)}] for the columns"
                f" {', '.join(names[:8])}, got {list(tensor.shape)}"
            )
        return self._rows.typed_matrix(tensor.values)

    def _check_column(self, tensor: Tensor) -> None:
        column = self._columns.get(tensor.name)
        if column is not None and column.shape:
            wanted = [-1, *column.shape]
            fits = len(tensor.shape) == len(wanted)
            if not fits or any(w not in (-1, n) for w, n in zip(wanted, tensor.shape, strict=True)):
                raise Problem(
                    f"input {tensor.name!r}: expected shape {wanted} with the rows first, got {list(tensor.shape)}"
                )
        elif tensor.shape[1:] not in ((), (1,)):
            raise Problem(
                f"input {tensor.name!r}: expected shape [rows] or [rows, 1] for one of several inputs,"
                f" got {list(tensor.shape)}"
            )
        if column is not None and tensor.datatype not in datatypes(column):
            expected = ", ".join(datatypes(column))
            raise Problem(f"input {tensor.name!r}: expected datatype {expected}, got {tensor.datatype}")


def datatypes(column: Column) -> tuple[str, ...]:
    """Those that a column takes, the announced one first."""
    own = tensors.COLUMN_DATATYPES[column.dtype]
    if own in ("BOOL", "BYTES"):
        return (own,)
    return (own, *(name for name in tensors.NUMPY if name not in (own, "BOOL", "BYTES")))


def error(problem: Problem) -> bytes:
    return json.dumps({"error": str(problem)}).encode()


def _tensors(inputs: Sequence[Given], buffers: memoryview) -> list[Tensor]:
    """The inputs with their values. Every byte of the body belongs to one of them."""
    announced = sum(given.size or 0 for given in inputs)
    if announced != len(buffers):
        raise Problem(
            f"the inputs name {announced} bytes of binary data, {len(buffers)} follow the JSON part;"
            " its length is the header Inference-Header-Content-Length"
        )
    found, at = [], 0
    for given in inputs:
        if given.plain:
            found.append(tensors.from_floats(given.tensor, given.data))
        elif given.size is None:
            found.append(tensors.from_json(given.tensor, given.data))
        else:
            found.append(tensors.from_bytes(given.tensor, buffers[at : at + given.size]))
            at += given.size
    return found


def _chosen(outputs: Outputs, wanted: Wanted) -> list[tuple[str, Array, bool]]:
    there = outputs.named()
    if not wanted.outputs:
        return [(name, values, wanted.binary) for name, values in there.items()]
    for name, _ in wanted.outputs:
        if name not in there:
            raise Problem(f"output {name!r} is not there: expected one of {', '.join(there)}")
    return [(name, there[name], binary) for name, binary in wanted.outputs]


def _length(text: bytes, body_bytes: int) -> int:
    if not text.isdigit() or len(text) > 18 or int(text) > body_bytes:
        shown = text.decode("latin-1")[:40]
        raise Problem(
            f"header Inference-Header-Content-Length: expected 0 to {body_bytes}, the bytes of the body, got {shown!r}"
        )
    return int(text)


def _check_type(content_type: bytes) -> None:
    if essence_of(content_type).encode() not in _TYPES - {b""}:
        shown = content_type.decode("latin-1")[:80]
        raise UnsupportedMediaType(
            f"content type {shown}: expected application/json in UTF-8, or application/octet-stream"
        )
