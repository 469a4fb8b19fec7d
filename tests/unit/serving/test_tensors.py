"""Columns that are tensors or bytes: what is taken, as what, and where a value that does not fit stands."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.routes import Route
from mlplatform.serving.calls import Call
from mlplatform.serving.decode import RowDecoder
from mlplatform.serving.openapi import column_schema
from mlplatform.serving.problems import Problem
from mlplatform.serving.protocols.mlflow import InvocationCodec
from mlplatform.serving.protocols.v2 import InferCodec
from mlplatform.serving.values import read
from mlplatform.stats.batch import Outputs

WIDE = Column("x", "float", shape=(2, -1))
SMALL = Column("x", "uint8", shape=(2,))


@pytest.mark.parametrize(
    ("column", "given", "dtype"),
    [
        (WIDE, [[[1, 2.5, 3], [4, 5, 6]]], "float32"),
        (WIDE, np.ones((3, 2, 7), np.float64), "float32"),
        (SMALL, [[0, 255], [1, 2]], "uint8"),
        (SMALL, np.array([[0, 255]], np.int64), "uint8"),
        (Column("x", "boolean", shape=(2,)), [[True, False]], "bool"),
        (Column("x", "string", shape=(2,)), [["a", "ü"]], "object"),
        (Column("x", "uint64", shape=(1,)), [[2**64 - 1]], "uint64"),
        (Column("x", "float16", shape=(1,)), [[65504.0]], "float16"),
        (Column("x", "double", shape=(2,)), [[1, float("nan")]], "float64"),
    ],
)
def test_tensors_are_taken_in_their_own_type(column: Column, given: Any, dtype: str) -> None:
    values, gaps = read(column, given)
    assert (values.dtype, gaps) == (np.dtype(dtype), False)
    np.testing.assert_array_equal(values, np.asarray(given, dtype))


@pytest.mark.parametrize(
    ("column", "given", "said"),
    [
        (WIDE, [[[1.0], [2.0, 3.0]]], "row 0: expected a tensor of shape [-1, 2, -1]"),
        (WIDE, [[[1.0], [2.0]], [[1.0]]], "row 1: expected a tensor of shape [-1, 2, -1]"),
        (WIDE, [1.0], "got a number"),
        (WIDE, [[[], []]], "which holds no values"),
        (WIDE, np.ones((1, 3, 2)), "got [1, 3, 2]"),
        (WIDE, np.ones((2, 2, 0)), "which holds no values"),
        (WIDE, [[[1.0], [1e39]]], "row 0, element 1: expected a finite number in the range of float"),
        (WIDE, [[[1.0], [float("inf")]]], "row 0, element 1"),
        (
            SMALL,
            [[1, 2], [3, -1]],
            "row 1, element 1: expected a whole number in the range of uint8 (8 bits)",
        ),
        (SMALL, [[1, True]], "row 0, element 1: expected a whole number, got the boolean true"),
        (SMALL, [[1, None]], "row 0, element 1: expected a whole number, got null"),
        (SMALL, [[1, 2**70]], "row 0, element 1"),
        (Column("x", "float16", shape=(1,)), [[1e6]], "range of float16"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_its_place(column: Column, given: Any, said: str) -> None:
    with pytest.raises(Problem) as caught:
        read(column, given)
    assert said in str(caught.value) and "column 'x'" in str(caught.value)


def test_bytes_are_base64_in_json_and_themselves_elsewhere() -> None:
    column = Column("x", "binary", required=False)
    values, gaps = read(column, ["Ynl0\nZXM=\n", "", None, b"raw"])
    assert (values.tolist(), gaps) == ([b"bytes", b"", None, b"raw"], True)
    for wrong in ("Ynl0ZXM", "Ynl0!ZXM", "ü", 7, ["Ynl0"]):
        with pytest.raises(Problem, match="column 'x', row 0: expected bytes in base64"):
            read(column, [wrong])
    with pytest.raises(Problem, match="expected bytes in base64, got null"):
        read(Column("x", "binary"), [None])


def body(form: str, value: Any) -> Call:
    return Call(json.dumps({form: value}).encode(), b"application/json")


@pytest.mark.parametrize("form", ["inputs", "instances"])
def test_a_signature_of_one_column_needs_no_name(form: str) -> None:
    text = InvocationCodec(RowDecoder([Column("t", "string")]))
    rows, _ = text.decode(body(form, ["a", "b"]))
    assert rows.batch.columns()["t"].tolist() == ["a", "b"]
    tensor = InvocationCodec(RowDecoder([SMALL]))
    rows, _ = tensor.decode(body(form, [[1, 2], [3, 4]]))
    assert rows.batch.columns()["x"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(Problem, match="no rows"):
        tensor.decode(body(form, []))


def test_a_table_is_taken_for_one_matrix_and_for_nothing_else() -> None:
    matrix = InvocationCodec(RowDecoder([Column("x", "float", shape=(2,))]))
    rows, _ = matrix.decode(body("dataframe_split", {"columns": ["a", "b"], "data": [[1, 2]]}))
    assert rows.batch.columns()["x"].tolist() == [[1, 2]]
    with pytest.raises(Problem, match="unknown column 'a'"):
        matrix.decode(body("dataframe_split", {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}))


def infer(column: Column, **tensor: Any) -> Any:
    said = {"name": "x", **tensor}
    rows, _ = InferCodec(RowDecoder([column]), "m", "1").decode(Call(json.dumps({"inputs": [said]}).encode()))
    return rows.batch.columns()["x"]


def test_tensors_in_the_open_inference_protocol() -> None:
    data: Any = [[1.0, 2.0], [3.0, 4.0]]
    assert infer(WIDE, datatype="FP32", shape=[1, 2, 2], data=[data]).tolist() == [data]
    assert infer(WIDE, datatype="FP32", shape=[1, 2, 2], data=[1, 2, 3, 4]).tolist() == [data]
    texts = Column("x", "string", shape=(2,))
    assert infer(texts, datatype="BYTES", shape=[1, 2], data=["a", "b"]).tolist() == [["a", "b"]]
    assert infer(Column("x", "binary"), datatype="BYTES", shape=[1], data=["Ynl0ZXM="]).tolist() == [b"bytes"]
    for shape, values in (([1, 3, 2], [0.0] * 6), ([4], [0.0] * 4), ([1, 2, 1, 1], [0.0, 0.0])):
        with pytest.raises(Problem, match=r"expected shape \[-1, 2, -1\] with the rows first"):
            infer(WIDE, datatype="FP32", shape=shape, data=values)
    with pytest.raises(Problem, match="row 0: expected a list of 2 values, got 1"):
        infer(WIDE, datatype="FP32", shape=[1, 2, 1], data=[[[1.0]]])


def test_several_outputs_keep_their_names() -> None:
    first, other = np.array([1.5, 2.5]), np.array([b"a", None], object)
    outputs = Outputs(first, None, {"raw": other}, "score", "dict")
    mlflow, v2 = InvocationCodec(RowDecoder([SMALL])), InferCodec(RowDecoder([SMALL]), "m", "1")
    said = json.loads(mlflow.encode(None, outputs, "r")[0])
    assert said == {"predictions": {"score": [1.5, 2.5], "raw": ["YQ==\n", None]}}
    rows = Outputs(first, None, {"raw": other}, "score", "records")
    said = json.loads(mlflow.encode(None, rows, "r")[0])
    assert said["predictions"] == [{"score": 1.5, "raw": "YQ==\n"}, {"score": 2.5, "raw": None}]
    request = {"inputs": [{"name": "x", "datatype": "UINT8", "shape": [1, 2], "data": [1, 2]}]}
    _, wanted = v2.decode(Call(json.dumps(request).encode()))
    shown = json.loads(v2.encode(wanted, outputs, "r").body)["outputs"]
    assert [(o["name"], o["datatype"], o["data"]) for o in shown] == [
        ("score", "FP64", [1.5, 2.5]),
        ("raw", "BYTES", ["YQ==", None]),
    ]
    part = outputs.part(1, 2)
    assert part.named()["raw"].tolist() == [None] and (part.name, part.form) == ("score", "dict")


def test_a_manifest_keeps_shapes_and_its_digest_where_there_are_none() -> None:
    task = Task("regression", "value")
    made = Manifest("onnx", "m", (WIDE, Column("b", "binary", required=False)), task, {})
    assert Manifest.decode(made.encode()) == made
    plain = Manifest("onnx", "m", (Column("a", "double"),), task, {})
    assert b"shape" not in plain.encode() and Manifest.decode(plain.encode()).digest == plain.digest


def test_the_schema_of_a_tensor_says_how_it_is_nested() -> None:
    schema = column_schema(Column("x", "uint8", shape=(2, -1)))
    assert (schema["minItems"], schema["maxItems"]) == (2, 2)
    assert schema["items"]["minItems"] == 1 and "maxItems" not in schema["items"]
    assert schema["items"]["items"] == {"type": "integer", "minimum": 0, "maximum": 255}


def test_a_route_permits_no_code_unless_it_says_so() -> None:
    assert Route("m", 1, "d", "/nowhere").runs_code is False


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=20)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 2**31 - 1, 2**40, -1]), max_size=9)


@given(form=st.sampled_from(["inputs", "instances"]), value=NESTED, named=st.booleans())
@settings(max_examples=2000, deadline=None)
def test_whatever_is_nested_is_taken_or_refused(form: str, value: Any, named: bool) -> None:
    codec = InvocationCodec(RowDecoder([WIDE]))
    try:
        rows, _ = codec.decode(body(form, {"x": value} if named else value))
    except Problem:
        return
    assert rows.batch.columns()["x"].shape[1] == 2


@given(
    shape=SHAPES,
    value=NESTED,
    datatype=st.sampled_from(["FP32", "UINT8", "BYTES", "BOOL"]),
    raw=st.binary(max_size=64),
)
@settings(max_examples=2000, deadline=None)
def test_whatever_a_tensor_claims_is_taken_or_refused(
    shape: Any, value: Any, datatype: str, raw: bytes
) -> None:
    for column in (WIDE, SMALL, Column("x", "string", shape=(2,)), Column("x", "binary")):
        codec = InferCodec(RowDecoder([column]), "m", "1")
        tensor = {"name": "x", "datatype": datatype, "shape": shape}
        head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
        binary = Call(head + raw)
        binary.json_length = str(len(head)).encode()
        for call in (binary, Call(json.dumps({"inputs": [{**tensor, "data": value}]}).encode())):
            try:
                rows, _ = codec.decode(call)
            except Problem:
                continue
            assert len(rows.batch.columns()["x"]) == rows.batch.rows > 0
