"""Good requests of both protocols, and others made of them by small harm: cheap, and near to what is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

from mlplatform.serving.calls import Call

Sent = tuple[str, Call]
JSON = b"application/json"
MODELS = ("numbers", "mixed", "lengths", "pixels", "spam")
ROWS = [[0.5, -1.25, 3.0], [1.0, 2.0, -0.0]]
RECORD = {"amount": 45.0, "age": 6, "vip": True, "city": "Wien", "note": None, "ts": "2026-01-31T12:00:00Z"}
WAVES = [[[0.5, -1.0], [2.0, 3.0]], [[1.0, 0.0], [-1.0, 4.0]]]
PICTURES = [[[[7] * 3] * 3] * 2, [[[200] * 3] * 3] * 2]
COLUMNS = {"amount": "FP64", "age": "INT64", "vip": "BOOL", "city": "BYTES", "ts": "BYTES"}
JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 255, 2**31, 2**63, -(2**63), 2**70, 1.5, 1e308, 5e-324, -0.0),
    *(float("nan"), float("inf"), "", "x", "a", "é", "NaN", "FP64", "BYTES", "2026-02-30", "\x00", "\ud800"),
    *([], [[]], [[], []], [None], [1, "x"], {}, {"a": 1}, {"name": "a"}, {"columns": [], "data": []}),
)
BYTES = (
    b"",
    b"\x00",
    b"\xff",
    b'"',
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b"-",
    b"e9999",
    b"9" * 400,
    b"\xef\xbb\xbf",
)
LENGTHS = (
    b"",
    b"0",
    b"1",
    b"-1",
    b"+5",
    b" 7",
    b"1e3",
    b"0x10",
    b"\xb2",
    b"9" * 400,
    b"18446744073709551617",
)


def good() -> list[Sent]:
    """Requests that are answered."""
    split = {"columns": list("abc"), "data": ROWS}
    columns = {name: [row[i] for row in ROWS] for i, name in enumerate("abc")}
    made: list[Any] = [
        *({"dataframe_split": form} for form in (split, {**split, "index": [7, 8]})),
        {"dataframe_records": [dict(zip("abc", row, strict=True)) for row in ROWS]},
        *({form: ROWS} for form in ("instances", "inputs")),
        {"inputs": columns},
    ]
    sent = [("mlflow", call(json.dumps(body).encode(), "numbers", JSON)) for body in made]
    sent.append(("mlflow", call(json.dumps({"dataframe_records": [RECORD, RECORD]}).encode(), "mixed", JSON)))
    sent.append(("mlflow", call(b"a,b,c\n0.5,1,2\n1,-2,3\n", "numbers", b"text/csv")))
    sent.append(("mlflow", call(b'amount,age,vip,city\n45,6,true,"Wi,en"\n', "mixed", b"text/csv")))
    for model, body in {
        "lengths": {"inputs": WAVES},
        "pixels": {"inputs": {"image": PICTURES, "factor": [1.0, 0.5]}},
        "spam": {"dataframe_records": [{"text": "win money"}, {"text": "at noon"}]},
    }.items():
        sent.append(("mlflow", call(json.dumps(body).encode(), model, JSON)))
    for binary in (False, True):
        sent.append(("v2", tensors("numbers", {"x": ("FP32", np.array(ROWS))}, binary)))
        sent.append(
            ("v2", tensors("numbers", {n: ("FP64", np.array(v)) for n, v in columns.items()}, binary))
        )
        values = {n: (d, np.array([RECORD[n]] * 2, object)) for n, d in COLUMNS.items()}
        sent.append(("v2", tensors("mixed", values, binary)))
        sent.append(("v2", tensors("lengths", {"wave": ("FP32", np.array(WAVES))}, binary)))
        seen = {"image": ("UINT8", np.array(PICTURES)), "factor": ("FP32", np.array([1.0, 0.5]))}
        sent.append(("v2", tensors("pixels", seen, binary, "brightness")))
        sent.append(("v2", tensors("spam", {"text": ("BYTES", np.array(["win", "noon"], object))}, binary)))
    return sent


def call(body: bytes, model: str, content_type: bytes = b"", json_length: bytes | None = None) -> Call:
    made = Call(body, content_type)
    made.model, made.json_length = model, json_length
    return made


def tensors(
    model: str, inputs: dict[str, tuple[str, Any]], binary: bool, output: str = "predictions"
) -> Call:
    forms, buffers = [], b""
    for name, (datatype, values) in inputs.items():
        form: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            raw = packed(datatype, values)
            form["parameters"] = {"binary_data_size": len(raw)}
            buffers += raw
        else:
            form["data"] = values.ravel().tolist()
        forms.append(form)
    body: dict[str, Any] = {"id": "k", "inputs": forms, "outputs": [{"name": output}]}
    head = json.dumps({**body, "parameters": {"binary_data_output": binary}}).encode()
    return call(head + buffers, model, JSON, str(len(head)).encode() if binary else None)


def packed(datatype: str, values: Any) -> bytes:
    if datatype == "BYTES":
        texts = [str(v).encode() for v in values.ravel()]
        return b"".join(len(t).to_bytes(4, "little") + t for t in texts)
    kinds = {"FP64": "<f8", "FP32": "<f4", "INT64": "<i8", "BOOL": "?", "UINT8": "u1"}
    return bytes(values.astype(kinds[datatype]).tobytes())


def harmed(random: Random, sent: Sent) -> Sent:
    """The same request, with one to three things wrong that may well cancel each other."""
    protocol, given = sent
    made = call(given.body, given.model, given.content_type, given.json_length)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        random.choice(HARMS)(random, made)
    if random.random() < 0.02:
        protocol = random.choice(("mlflow", "v2"))
    return protocol, made


def _cut(random: Random, made: Call) -> None:
    made.body = made.body[: random.randrange(len(made.body) + 1)]


def _bytes(random: Random, made: Call) -> None:
    at, width = random.randrange(len(made.body) + 1), random.choice((0, 0, 1, 1, 4))
    made.body = made.body[:at] + random.choice((*BYTES, random.randbytes(3))) + made.body[at + width :]


def _repeat(random: Random, made: Call) -> None:
    at = random.randrange(len(made.body) + 1)
    made.body = made.body[:at] + made.body[at : at + random.randrange(40)] + made.body[at:]


def _length(random: Random, made: Call) -> None:
    near = str(int(made.json_length or 0) + random.choice((-1, 1, 8))).encode() if _is_whole(made) else b"3"
    made.json_length = random.choice((*LENGTHS, near, near, near, None))


def _address(random: Random, made: Call) -> None:
    made.model = random.choice((*MODELS, "other", "é/.."))
    made.version = random.choice(("", "1", "2", "-1", "1e0", "٣"))
    made.content_type = random.choice((JSON, JSON, b"", b"text/csv", b"application/octet-stream", b"\xff;;="))


def _value(random: Random, made: Call) -> None:
    """One value somewhere in the JSON becomes another; lengths are put right again."""
    length = int(made.json_length) if _is_whole(made) and made.json_length else len(made.body)
    try:
        body = json.loads(made.body[:length])
    except (ValueError, RecursionError):
        return
    holders = [holder for holder in _holders(body) if holder]
    if not holders:
        return
    holder = random.choice(holders)
    key = random.choice(list(holder)) if isinstance(holder, dict) else random.randrange(len(holder))
    what = random.random()
    if what < 0.1:
        del holder[key]
    elif what < 0.2 and isinstance(holder, list):
        holder.append(holder[key])
    else:
        holder[key] = random.choice(JUNK)
    head = json.dumps(body).encode()
    made.body = head + made.body[length:]
    made.json_length = str(len(head)).encode() if made.json_length is not None else None


def _extra(random: Random, made: Call) -> None:
    """A field that nobody asked for, at the end of the JSON."""
    at = made.body.rfind(b"}", 0, int(made.json_length or 0) if _is_whole(made) else len(made.body))
    if at > 0:
        more = b', "more": %d' % random.randrange(1000)
        made.body = made.body[:at] + more + made.body[at:]
        if _is_whole(made) and made.json_length:
            made.json_length = str(int(made.json_length) + len(more)).encode()


def _is_whole(made: Call) -> bool:
    return made.json_length is not None and made.json_length.isdigit() and len(made.json_length) < 9


def _holders(value: Any) -> list[Any]:
    if not isinstance(value, (dict, list)):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(found for item in inner for found in _holders(item))]


HARMS: tuple[Callable[[Random, Call], None], ...] = (
    _cut,
    _bytes,
    _bytes,
    _repeat,
    _length,
    _address,
    *[_value] * 6,
    *[_extra] * 3,
)
