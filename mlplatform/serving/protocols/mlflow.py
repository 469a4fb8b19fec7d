"""`/invocations` bodies as MLflow's own model server takes and answers them.

JSON with one of `dataframe_split`, `dataframe_records`, `instances`, `inputs` (rows, records, or one list a
column; tensors nested as their shape, bytes in base64), and `params` beside it, or CSV with a header. A body of plain
numbers is decoded by a parser that is typed by the signature; everything else, and everything that is wrong, takes the
careful way, which can tell what is wrong.
"""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.serving.bodies import essence_of, parse, text_of
from mlplatform.serving.calls import Call
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.problems import Problem, UnsupportedMediaType
from mlplatform.serving.values import kind_of
from mlplatform.stats.batch import Array, Outputs

FORMATS = ("dataframe_split", "dataframe_records", "instances", "inputs")
HEADS, HEAD_BYTES = 64, 100_000
"""How many heads of bodies are remembered, and how long one may be."""
_KNOWN_TYPES = {b"application/json": "json", b"application/json; charset=utf-8": "json", b"text/csv": "csv"}
_encode = msgspec.json.Encoder().encode


class InvocationCodec:
    """Bodies of `/invocations` for one signature."""

    def __init__(self, rows: RowDecoder) -> None:
        self._rows = rows
        self._typed = _typed_decoder(rows.names) if rows.numeric else None
        self._data = msgspec.json.Decoder(list[list[float]]).decode
        self._orders: dict[bytes, Array | None] = {}
        """Where the columns stand, by everything that a `dataframe_split` body has before its data."""

    def decode(self, call: Call) -> tuple[Rows, None]:
        """Checked rows; Problem says what is wrong."""
        body = call.body
        if (_KNOWN_TYPES.get(call.content_type) or media_type(call.content_type)) == "csv":
            return self._csv(body), None
        return self._quick(body) or self._careful(body), None

    def encode(self, wanted: None, outputs: Outputs, request_id: str) -> tuple[bytes, int]:
        """The answer, as MLflow's server writes it."""
        if outputs.form == "list":
            return _encode({"predictions": _listed(outputs.predictions)}), 0
        named = {name: _listed(values) for name, values in outputs.named().items()}
        if outputs.form == "dict":
            return _encode({"predictions": named}), 0
        rows = zip(*named.values(), strict=True)
        return _encode({"predictions": [dict(zip(named, row, strict=True)) for row in rows]}), 0

    def _quick(self, body: bytes) -> Rows | None:
        if self._typed is None:
            return None
        try:
            if rows := self._after_known_head(body):
                return rows
            request = self._typed(body)
        except (ValueError, RecursionError):
            return None
        quotes = body.count(b'"')
        if (split := request.dataframe_split) is not None:
            # A key that is written twice has quotes that no field accounts for.
            expected = 6 + 2 * len(split.columns) + (0 if split.index is None else 2)
            return self._in_order(split, body) if quotes == expected else None
        if (records := request.dataframe_records) is not None:
            if quotes != 2 + 2 * len(records) * len(self._rows.names):
                return None
            return self._rows.matrix([msgspec.structs.astuple(record) for record in records])
        rows = request.instances if request.instances is not None else request.inputs
        return self._rows.matrix(rows) if rows is not None and quotes == 2 else None

    def _after_known_head(self, body: bytes) -> Rows | None:
        """Clients send the same columns again and again: then only the numbers are decoded. ValueError if not."""
        head = body[: body.find(b'"data":')]
        if head not in self._orders or not body.endswith(b"}}"):
            return None
        return self._rows.matrix(self._data(body[len(head) + 7 : -2]), self._orders[head])

    def _in_order(self, split: Any, body: bytes) -> Rows | None:
        names = tuple(split.columns)
        if sorted(names) != sorted(self._rows.names):
            return None
        order = None
        if names != self._rows.names:
            places = {name: i for i, name in enumerate(names)}
            order = np.array([places[name] for name in self._rows.names])
        if split.index is not None:
            return self._rows.matrix(split.data, order) if len(split.index) == len(split.data) else None
        at = body.find(b'"data":')
        if 0 < at < HEAD_BYTES and len(self._orders) < HEADS:
            self._orders[body[:at]] = order
        return self._rows.matrix(split.data, order)

    def _careful(self, body: bytes) -> Rows:
        request = parse(body)
        if not isinstance(request, dict):
            raise Problem(f"expected an object with one of {', '.join(FORMATS)}, got {kind_of(request)}")
        params = self._rows.params.read(request.pop("params", None))
        if len(request) != 1 or next(iter(request)) not in FORMATS:
            given = ", ".join(map(repr, list(request)[:8])) or "none"
            raise Problem(f"expected exactly one of {', '.join(FORMATS)}, got {given}")
        ((form, value),) = request.items()
        return self._table(form, value).beside(params)

    def _table(self, form: str, value: Any) -> Rows:
        if form == "dataframe_split":
            return self._split(value)
        if form == "inputs" and isinstance(value, dict):
            return self._rows.columns(value)
        if not isinstance(value, list):
            raise Problem(f"field {form!r}: expected a list of rows, got {kind_of(value)}")
        if form == "dataframe_records" or (value and isinstance(value[0], dict)):
            return self._rows.records(value)
        return self._rows.rows(value)

    def _split(self, split: Any) -> Rows:
        if not isinstance(split, dict) or not {"columns", "data"} <= set(split) <= {
            "columns",
            "data",
            "index",
        }:
            raise Problem("field 'dataframe_split': expected an object with 'columns' and 'data'")
        index, data = split.get("index"), split["data"]
        if index is not None and not (
            isinstance(index, list) and isinstance(data, list) and len(index) == len(data)
        ):
            raise Problem("field 'dataframe_split': expected 'index' as a list with an entry for each row")
        columns, only = split["columns"], self._rows.only
        if not isinstance(columns, list):
            raise Problem(f"field 'columns': expected a list of names, got {kind_of(columns)}")
        if only and only.shape == (len(columns),) and only.name not in columns:
            return self._rows.rows(data)  # as MLflow: a table for a model that takes one matrix
        return self._rows.rows(data, columns)

    def _csv(self, body: bytes) -> Rows:
        try:
            header, *lines = [
                line for line in csv.reader(io.StringIO(text_of(body), newline=""), strict=True) if line
            ]
        except (csv.Error, ValueError) as error:
            reason = "it has no header" if isinstance(error, ValueError) else str(error)
            raise Problem(f"the body is not CSV: {reason}") from None
        dtypes = {column.name: column for column in self._rows.inputs}
        for i, line in enumerate(lines):
            if len(line) != len(header):
                raise Problem(f"row {i} has {len(line)} values, expected {len(header)} as in the header")
        rows = [[_csv_value(dtypes.get(n), v) for n, v in zip(header, line, strict=True)] for line in lines]
        return self._rows.rows(rows, header)


def _listed(values: Array) -> list[Any]:
    if values.dtype.kind in "Mm":
        values = values.astype(str)
    listed: list[Any] = values.tolist()
    if values.dtype != object:
        return listed
    # MLflow's own way with bytes, line breaks included.
    return [base64.encodebytes(v).decode() if type(v) is bytes else v for v in listed]


def media_type(content_type: bytes) -> str:
    """ "json" or "csv"; UnsupportedMediaType names the two that are taken."""
    essence = essence_of(content_type)
    if essence in ("application/json", "text/csv"):
        return essence.rpartition("/")[2]
    shown = content_type.decode("latin-1")[:80] or "none"
    raise UnsupportedMediaType(f"content type {shown}: expected application/json or text/csv, in UTF-8")


def _typed_decoder(names: Sequence[str]) -> Any:
    """A decoder that takes only requests of plain numbers, and knows the columns of records."""
    fields = [(f"f{i}", float) for i in range(len(names))]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    record = msgspec.defstruct("Record", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    split = msgspec.defstruct(
        "Split",
        [("columns", list[str]), ("data", list[list[float]]), ("index", list[int] | None, None)],
        forbid_unknown_fields=True,
    )
    rows = list[list[float]] | None
    request = msgspec.defstruct(
        "Request",
        [
            ("dataframe_split", split | None, None),
            ("dataframe_records", list[record] | None, None),  # type: ignore[valid-type]
            ("instances", rows, None),
            ("inputs", rows, None),
        ],
        forbid_unknown_fields=True,
    )
    return msgspec.json.Decoder(request).decode


def _csv_value(column: Column | None, text: str) -> Any:
    """What a field means in its column; what cannot be read stays text, and is refused with its place."""
    if text == "":
        return None
    if column is None or column.dtype in ("string", "datetime", "binary"):
        return text
    if column.dtype == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return text
    return None if math.isnan(number) else number
