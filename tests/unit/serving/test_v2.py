"""Bodies of the Open Inference Protocol: every datatype and form gives the rows that were meant, answers come in the
form that was asked for, and whatever is wrong is named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Column
from mlplatform.serving.calls import Call, Payload
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.problems import Problem, UnsupportedMediaType
from mlplatform.serving.protocols.v2 import InferCodec
from mlplatform.serving.protocols.v2_request import Wanted, quick_request
from mlplatform.stats.batch import Outputs

NUMBERS = [Column("a", "double"), Column("b", "double"), Column("c", "float")]
EVERY_TYPE = [
    Column("amount", "double"),
    Column("rate", "float"),
    Column("age", "long"),
    Column("level", "integer"),
    Column("vip", "boolean"),
    Column("city", "string"),
    Column("seen", "datetime"),
    Column("note", "string", required=False),
]
GOOD: dict[str, tuple[str, list[Any]]] = {
    "amount": ("FP64", [1.5, 2.5]),
    "rate": ("FP32", [0.5, 0.25]),
    "age": ("INT64", [2**60 + 1, -3]),
    "level": ("INT32", [-(2**31), 7]),
    "vip": ("BOOL", [True, False]),
    "city": ("BYTES", ["Wien", "Zürich"]),
    "seen": ("BYTES", ["2026-01-31T12:00:00Z", "2026-02-01"]),
}
WHOLE = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
ANSWER = Outputs(np.array([1, 0]), np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))


def codec(columns: list[Column], context: tuple[str, ...] = ()) -> InferCodec:
    return InferCodec(RowDecoder(columns, context), "m", "3")


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(data)], "data": data}


def packed(datatype: str, data: list[Any]) -> bytes:
    """As the specification writes it, without our code."""
    if datatype == "BYTES":
        return b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in data)
    kinds = {"BOOL": "?", "F": "<f", "I": "<i", "U": "<u"}
    if datatype == "BOOL":
        return np.array(data, kinds["BOOL"]).tobytes()
    bits = int("".join(c for c in datatype if c.isdigit()))
    return np.array(data, f"{kinds[datatype[0]]}{bits // 8}").tobytes()


def as_json(*inputs: dict[str, Any], **more: Any) -> Call:
    return Call(json.dumps({"inputs": inputs, **more}).encode())


def as_binary(*inputs: dict[str, Any], **more: Any) -> Call:
    buffers = [packed(item["datatype"], item["data"]) for item in inputs]
    heads = [
        {**{k: v for k, v in item.items() if k != "data"}, "parameters": {"binary_data_size": len(raw)}}
        for item, raw in zip(inputs, buffers, strict=True)
    ]
    return with_head(json.dumps({"inputs": heads, **more}).encode(), b"".join(buffers))


def with_head(head: bytes, buffers: bytes, length: bytes | None = None) -> Call:
    call = Call(head + buffers)
    call.json_length = str(len(head)).encode() if length is None else length
    return call


FORMS = [as_json, as_binary]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("upright", [False, True])
def test_one_input_a_column_of_every_type(form: Any, upright: bool) -> None:
    inputs = [tensor(n, d, v, [len(v), 1] if upright else None) for n, (d, v) in GOOD.items()]
    rows, _ = codec(EVERY_TYPE).decode(form(*inputs))
    columns = rows.batch.columns()
    assert columns["amount"].tolist() == [1.5, 2.5]
    assert columns["rate"].tolist() == [0.5, 0.25]
    assert columns["age"].tolist() == [2**60 + 1, -3]
    assert columns["level"].tolist() == [-(2**31), 7]
    assert columns["vip"].tolist() == [True, False]
    assert columns["city"].tolist() == ["Wien", "Zürich"]
    assert columns["seen"].astype(str).tolist()[0].startswith("2026-01-31T12:00:00")
    assert columns["note"].tolist() == [None, None]
    assert [columns[c.name].dtype.kind for c in EVERY_TYPE] == list("ffiibOMO")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("datatype", [*WHOLE, "FP16", "FP32", "FP64"])
def test_every_datatype_of_numbers_as_a_matrix(form: Any, datatype: str) -> None:
    sent = tensor("anything", datatype, [1, 2, 3, 4, 5, 6], [2, 3])
    rows, _ = codec(NUMBERS).decode(form(sent))
    assert rows.batch.matrix is not None
    assert rows.batch.matrix.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert rows.batch.matrix.dtype == np.float64


def test_nested_data_is_read_like_flat_data() -> None:
    sent = tensor("x", "FP32", [[1, 2, 3], [4, 5, 6]], [2, 3])
    rows, _ = codec(NUMBERS).decode(as_json(sent))
    assert rows.batch.matrix is not None
    assert rows.batch.matrix.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("name", ["x", "anything"])
def test_a_model_of_one_column_takes_it_by_any_name(name: str) -> None:
    rows, _ = codec([Column("x", "double")]).decode(as_binary(tensor(name, "FP64", [1.0, 2.0], [2, 1])))
    assert rows.batch.as_matrix("float64").tolist() == [[1.0], [2.0]]


def test_missing_values_are_nan_in_floats_and_null_in_text() -> None:
    numbers = codec([Column("x", "double")])
    for call in (as_binary(tensor("x", "FP32", [1.0, np.nan])), as_json(tensor("x", "FP64", [1.0, None]))):
        rows, _ = numbers.decode(call)
        assert rows.missing
        assert np.isnan(rows.batch.columns()["x"]).tolist() == [False, True]
    rows, _ = codec([Column("t", "string")]).decode(as_json(tensor("t", "BYTES", ["a", None])))
    assert rows.missing
    assert rows.batch.columns()["t"].tolist() == ["a", None]


@pytest.mark.parametrize(("datatype", "bits"), [("FP16", "<u2"), ("FP32", "<u4"), ("FP64", "<u8")])
def test_a_nan_of_any_bits_is_a_missing_value(datatype: str, bits: str) -> None:
    size = np.dtype(bits).itemsize
    signalling = {2: 0x7C01, 4: 0x7F800001, 8: 0x7FF0000000000001}[size]
    call = lying(2 * size, np.array([signalling, 0], bits).tobytes(), datatype, (2, 1))
    for columns in ([Column("x", "float")], [Column("x", "double")]):
        rows, _ = codec(columns).decode(call)
        assert rows.missing
        assert np.isnan(rows.batch.as_matrix("float64")).tolist() == [[True], [False]]


def test_whole_numbers_beyond_the_exact_ones_of_a_float_stay_whole() -> None:
    exact = codec([Column("p", "long"), Column("q", "long")])
    rows, _ = exact.decode(as_binary(tensor("x", "INT64", [2**53 + 1, 2**62 + 1], [1, 2])))
    assert [v.tolist() for v in rows.batch.columns().values()] == [[2**53 + 1], [2**62 + 1]]


def test_columns_beside_the_features_are_kept_apart() -> None:
    sent = [tensor("x", "FP64", [1.0]), tensor("ts", "BYTES", ["2026"])]
    rows, _ = codec([Column("x", "double")], ("ts",)).decode(as_json(*sent))
    assert rows.context == {"ts": ["2026"]}
    assert rows.batch.names == ("x",)


@pytest.mark.parametrize(
    "sent",
    [
        as_json(tensor("x", "FP64", [0.5, 1.5, 2.5], [1, 3])),
        as_json(tensor("x", "FP64", [0.5, 1.5, 2.5], [1, 3]), id="k"),
        as_json(tensor("x", "FP32", [0.5, 1.5, 2.5], [1, 3])),
        as_json(*(tensor(n, "FP64", [v]) for n, v in zip("cab", [2.5, 0.5, 1.5], strict=True))),
    ],
)
def test_the_quick_way_reads_what_the_careful_one_reads(sent: Call) -> None:
    careful = Call(sent.body.replace(b'"inputs"', b'"unknown": 1, "inputs"'))
    quick_rows, quick_wanted = codec(NUMBERS).decode(sent)
    rows, wanted = codec(NUMBERS).decode(careful)
    assert quick_rows.batch.as_matrix("float64").tolist() == rows.batch.as_matrix("float64").tolist()
    assert rows.batch.as_matrix("float64").tolist() == [[0.5, 1.5, 2.5]]
    assert quick_wanted == wanted


def test_a_tensor_of_floats_is_read_the_quick_way() -> None:
    values = [0.1 * n for n in range(12)]
    sent = as_json(tensor("x", "FP32", values, [2, 1, 2, 3]))
    request = quick_request(sent.body)
    assert request is not None and request[0][0].plain
    rows, _ = codec([Column("x", "float", shape=(1, 2, 3))]).decode(sent)
    array = rows.batch.columns()["x"]
    assert array.dtype == np.float32
    assert array.tolist() == np.array(values, "float32").reshape(2, 1, 2, 3).tolist()


def test_a_float_beyond_fp32_is_named_on_the_quick_way_too() -> None:
    with pytest.raises(Problem, match=r"input 'x', element 1: expected a number in the range of FP32"):
        codec(NUMBERS).decode(as_json(tensor("x", "FP32", [0.5, 1e39, 2.5], [1, 3])))


def test_a_remembered_json_part_reads_other_bytes() -> None:
    ours = codec(NUMBERS)
    for values in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        rows, _ = ours.decode(as_binary(tensor("x", "FP32", values, [1, 3])))
        assert rows.batch.as_matrix("float64").tolist() == [values]


# --- answers ------------------------------------------------------------------------------------------------


def answered(wanted: Wanted, outputs: Outputs = ANSWER) -> tuple[dict[str, Any], Payload]:
    payload = codec(NUMBERS).encode(wanted, outputs, "our-id")
    head = payload.body[: payload.json_length or None]
    return json.loads(head), payload


def test_an_answer_in_json() -> None:
    said, payload = answered(Wanted())
    assert payload.json_length == 0
    assert said == {
        "model_name": "m",
        "model_version": "3",
        "id": "our-id",
        "outputs": [
            {"name": "predictions", "datatype": "INT64", "shape": [2], "data": [1, 0]},
            {"name": "scores", "datatype": "FP32", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]},
        ],
    }


def test_an_answer_in_bytes_and_in_both() -> None:
    said, payload = answered(Wanted("k", binary=True))
    assert said["id"] == "k"
    assert [o["parameters"]["binary_data_size"] for o in said["outputs"]] == [16, 16]
    assert payload.body[payload.json_length :] == ANSWER.predictions.tobytes() + ANSWER.scores.tobytes()  # type: ignore[union-attr]
    said, payload = answered(Wanted(outputs=(("scores", True), ("predictions", False))))
    assert [o["name"] for o in said["outputs"]] == ["scores", "predictions"]
    assert said["outputs"][1]["data"] == [1, 0]
    assert payload.body[payload.json_length :] == ANSWER.scores.tobytes()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("values", "datatype", "data", "raw"),
    [
        (np.array(["a", "ü"], object), "BYTES", ["a", "ü"], b"\1\0\0\0a\2\0\0\0\xc3\xbc"),
        (np.array(["a", "b"]), "BYTES", ["a", "b"], b"\1\0\0\0a\1\0\0\0b"),
        (np.array([True, False]), "BOOL", [True, False], b"\1\0"),
        (np.array([1.5], ">f8"), "FP64", [1.5], np.array([1.5], "<f8").tobytes()),
        (np.array([1.5], "float16"), "FP16", [1.5], np.array([1.5], "<f2").tobytes()),
        (np.array([7], "uint8"), "UINT8", [7], b"\7"),
        (np.array(["2026-01-31"], "datetime64[D]"), "BYTES", ["2026-01-31"], b"\x0a\0\0\x002026-01-31"),
    ],
)
def test_answers_of_every_type(values: Any, datatype: str, data: list[Any], raw: bytes) -> None:
    said, _ = answered(Wanted(), Outputs(values))
    assert (said["outputs"][0]["datatype"], said["outputs"][0]["data"]) == (datatype, data)
    _, payload = answered(Wanted(binary=True), Outputs(values))
    assert payload.body[payload.json_length :] == raw


# --- what is wrong ------------------------------------------------------------------------------------------

X = tensor("a", "FP64", [1.0])
REST = [tensor("b", "FP64", [1.0]), tensor("c", "FP64", [1.0])]


def changed(**fields: Any) -> Call:
    return as_json({**X, **fields}, *REST)


def without(name: str) -> Call:
    return as_json({k: v for k, v in X.items() if k != name}, *REST)


WRONG: list[tuple[Call, str]] = [
    (Call(b""), "not JSON"),
    (Call(b"\xff"), "not UTF-8"),
    (Call(b"7"), "expected an object with 'inputs', got a number"),
    (Call(b"{}"), "field 'inputs': expected a list of tensors, got null"),
    (Call(b'{"inputs": []}'), "got an empty list"),
    (Call(b'{"inputs": [], "inputs": []}'), "'inputs' is given twice"),
    (Call(b'{"inputs": [7]}'), "input 0: expected an object"),
    (Call(b"[" * 100_000), "nested too deeply"),
    (as_json(X, X, *REST), "input 'a' is given twice"),
    (as_json(X), "missing column 'b', 'c'"),
    (as_json(X, *REST, tensor("d", "FP64", [1.0])), "unknown column 'd'"),
    (as_json(X, *REST, id=7), "field 'id': expected text, got a number"),
    (as_json(X, *REST, parameters=[]), "expected 'parameters' as an object, got a list"),
    (as_json(X, *REST, parameters={"binary_data_output": 1}), "'binary_data_output' as true or false, got 1"),
    (as_json(X, *REST, outputs={}), "field 'outputs': expected a list"),
    (as_json(X, *REST, outputs=[{}]), "output 0: expected an object with a 'name'"),
    (as_json(X, *REST, outputs=[{"name": "p"}, {"name": "p"}]), "output 'p' is asked for twice"),
    (
        as_json(X, *REST, outputs=[{"name": "p", "parameters": {"classification": 2}}]),
        "'classification' is not supported",
    ),
    (
        as_json(X, *REST, outputs=[{"name": "p", "parameters": {"binary_data": "yes"}}]),
        "output 'p': expected the parameter 'binary_data' as true or false, got text",
    ),
    (without("name"), "input 0: expected 'name' as text, got null"),
    (without("datatype"), "input 'a': expected 'datatype' one of BOOL, INT8"),
    (
        without("shape"),
        "input 'a': expected 'shape' as [rows], [rows, columns] or that of the tensor, got null",
    ),
    (without("data"), "input 'a': expected either 'data' or the parameter 'binary_data_size'"),
    (changed(parameters={"binary_data_size": 8}), "expected either 'data' or"),
    (changed(parameters={"shared_memory_region": "r"}), "shared memory is not supported"),
    (changed(datatype="BF16"), "got 'BF16'"),
    (changed(datatype="BYTES", data=["1"]), "input 'a': expected datatype FP64, INT8, INT16"),
    (changed(datatype="BOOL", data=[True]), "input 'a': expected datatype FP64"),
    (changed(shape=[-1]), "got [-1]"),
    (changed(shape=[1.0]), "expected 'shape'"),
    (changed(shape=[True]), "expected 'shape'"),
    (changed(shape=[]), "expected 'shape'"),
    (changed(shape=[1, 1, 1]), "expected shape [rows] or [rows, 1]"),
    (changed(shape=[1] * 9), "expected 'shape'"),
    (changed(shape=[2**62, 2**62]), "expected 'shape'"),
    (changed(shape=[2**30, 2**30]), "expected 1152921504606846976 values"),
    (changed(shape=[2]), "expected 2 values for shape [2], got 1"),
    (changed(shape=[0], data=[]), "values"),
    (changed(shape=[1, 2], data=[1.0, 2.0]), "expected shape [rows] or [rows, 1]"),
    (changed(data=7), "expected 'data' as a list, got a number"),
    (changed(data=[[1.0]]), "element 0: expected a number in the range of FP64, got a list"),
    (changed(data=["1"]), "element 0: expected a number in the range of FP64, got text"),
    (changed(data=[True]), "got a boolean"),
    (changed(datatype="FP32", data=[1e39]), "expected a number in the range of FP32, got 1e+39"),
    (changed(datatype="FP16", data=[70000]), "range of FP16"),
    (changed(datatype="INT8", data=[300]), "expected a whole number from -128 to 127 for INT8"),
    (changed(datatype="INT64", data=[None]), "got null"),
    (changed(datatype="UINT8", data=[1.5]), "expected a whole number from 0 to 255 for UINT8, got 1.5"),
    (changed(datatype="FP64", data=[2**2000]), "range of FP64"),
    (as_json(tensor("x", "FP64", [1.0, 2.0], [1, 2])), "expected shape [rows, 3] for the columns a, b, c"),
    (as_json(tensor("x", "FP64", [], [0, 3])), "the request has no rows"),
    (as_json(tensor("x", "FP64", [[1, 2, 3], [1, 2]], [2, 3])), "row 1: expected a list of 3 values, got 2"),
    (
        as_json(tensor("x", "FP64", [[1, 2, 3], 4], [2, 3])),
        "row 1: expected a list of 3 values, got a number",
    ),
    (as_json(tensor("x", "FP64", [[1, 2, 3]], [2, 3])), "expected 2 rows of data, got 1"),
    (
        as_json(tensor("x", "BYTES", ["1", "2", "3"], [1, 3])),
        "a matrix needs columns and datatype of numbers",
    ),
    (
        as_binary(tensor("x", "FP32", [1.0, np.inf, 2.0], [1, 3])),
        "column 'b', row 0: expected a finite number",
    ),
    (as_binary(tensor("x", "FP64", [1.0, 2.0, 1e300], [1, 3])), "column 'c', row 0"),
    (with_head(b"{}", b"", b"-1"), "header Inference-Header-Content-Length: expected 0 to 2"),
    (with_head(b"{}", b"", b"3"), "expected 0 to 2, the bytes of the body, got '3'"),
    (with_head(b"{}", b"", b"two"), "got 'two'"),
    (with_head(b"{}", b"", "²".encode("latin-1")), "got '²'"),
    (with_head(b"{}", b"", b"9" * 99), "expected 0 to 2"),
    (with_head(b"", b"", b"0"), "not JSON"),
]


@pytest.mark.parametrize(("call", "said"), WRONG)
def test_whatever_is_wrong_is_named(call: Call, said: str) -> None:
    with pytest.raises(Problem) as caught:
        codec(NUMBERS).decode(call)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 600


def lying(size: Any, raw: bytes, datatype: str = "FP64", shape: tuple[int, ...] = (1, 3)) -> Call:
    head = {"name": "x", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}
    return with_head(json.dumps({"inputs": [head]}).encode(), raw)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lying(-8, b""), "expected 'binary_data_size' as a number of bytes, got -8"),
        (lying(True, bytes(24)), "expected 'binary_data_size' as a number of bytes"),
        (lying(24, bytes(8)), "name 24 bytes of binary data, 8 follow"),
        (lying(24, bytes(32)), "name 24 bytes of binary data, 32 follow"),
        (lying(2**70, bytes(24)), "expected 'binary_data_size' as a number of bytes"),
        (lying(2**62, bytes(24)), "bytes of binary data, 24 follow"),
        (lying(8, bytes(8)), "expected 'binary_data_size' 24 for FP64 of shape [1, 3], got 8"),
        (lying(0, b"", shape=(2**31 - 1, 3)), "expected 'binary_data_size' 51539607528"),
        (lying(3, b"\0\1\2", "BOOL"), "expected bytes 0 and 1 for BOOL, got 2"),
        (lying(4, b"\5\0\0\0", "BYTES", (1,)), "element 0: 5 bytes are announced, 0 are there"),
        (lying(4, b"\xff\xff\xff\xff", "BYTES", (1,)), "4294967295 bytes are announced"),
        (lying(5, b"\1\0\0\0\xff", "BYTES", (1,)), "element 0: expected UTF-8"),
        (lying(5, b"\0\0\0\0x", "BYTES", (1,)), "got 1 and 1 bytes more"),
        (lying(2, b"\0\0", "BYTES", (1,)), "expected 1 texts for shape [1], got 0 and 2 bytes more"),
        (lying(4, b"\0\0\0\0", "BYTES", (2**31 - 1,)), "got 1 and 0 bytes more"),
    ],
)
def test_lying_lengths_are_named(call: Call, said: str) -> None:
    with pytest.raises(Problem) as caught:
        codec(NUMBERS).decode(call)
    assert said in str(caught.value)


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(Problem, match="output 'logits' is not there: expected one of predictions, scores"):
        answered(Wanted(outputs=(("logits", False),)))


@pytest.mark.parametrize(
    "content_type", [b"text/csv", b"application/json; charset=latin-1", b"multipart/form-data"]
)
def test_other_content_types_are_refused(content_type: bytes) -> None:
    with pytest.raises(UnsupportedMediaType, match="expected application/json in UTF-8"):
        codec(NUMBERS).decode(Call(as_json(X, *REST).body, content_type))


@pytest.mark.parametrize(
    "content_type", [b"", b"application/octet-stream", b"application/json; charset=UTF-8"]
)
def test_clients_that_name_no_json_are_answered(content_type: bytes) -> None:
    found: tuple[Rows, Wanted] = codec(NUMBERS).decode(Call(as_json(X, *REST).body, content_type))
    assert found[0].batch.rows == 1
