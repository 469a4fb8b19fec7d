"""Small real bundles for tests: an ONNX model, its manifest and a warm-up sample in a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, Dtype, FileEntry, Manifest, Task

Label = str | int | float | bool


def make_onnx_bundle(
    folder: Path,
    columns: Sequence[str] = ("a", "b", "c"),
    seed: int = 0,
    classes: Sequence[Label] = (0, 1),
    dtype: Dtype = "double",
    layout: str = "matrix",
) -> Manifest:
    """A bundle with a logistic regression over numeric columns; answers class labels and probabilities."""
    inputs = tuple(Column(name, dtype) for name in columns)
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(200, len(columns)))
    if dtype in ("integer", "long"):
        features = np.rint(features * 3)
    options = {"layout": layout, "outputs": {"predictions": "label", "scores": "probabilities"}}
    sample = {name: _plain(features[:4, i], dtype) for i, name in enumerate(columns)}
    task = Task("classification", "label", tuple(classes))
    return _write(
        folder, _logistic(features, list(classes), list(columns), layout, rng), inputs, task, options, sample
    )


def make_mixed_bundle(folder: Path) -> Manifest:
    """A bundle with one column of each type; the answer is 1 where `amount + age > 50`, whatever the others
    hold."""
    inputs = (
        Column("amount", "double"),
        Column("age", "long"),
        Column("vip", "boolean"),
        Column("city", "string"),
        Column("note", "string", required=False),
    )
    options = {"layout": "named", "outputs": {"predictions": "label"}}
    sample: dict[str, list[Any]] = {
        "amount": [1.5, 70.0],
        "age": [30, 40],
        "vip": [True, False],
        "city": ["Wien", "Graz"],
    }
    task = Task("classification", "label", (0, 1))
    return _write(folder, _mixed_model(), inputs, task, options, {**sample, "note": [None, "x"]})


def make_layer_bundle(folder: Path, seed: int, width: int = 8000) -> Manifest:
    """A regression over columns a, b and c with one hidden layer, quick to make; `layer_answer` knows its answers."""
    options = {"layout": "matrix", "outputs": {"predictions": "y"}}
    columns = tuple(Column(name, "double") for name in "abc")
    sample = {name: [0.5, 1.0] for name in "abc"}
    return _write(
        folder,
        _layer_model(*_weights(seed, width), seed),
        columns,
        Task("regression", "value", target="y"),
        options,
        sample,
    )


def layer_answer(seed: int, row: Sequence[float], width: int = 8000) -> float:
    first, second = _weights(seed, width)
    return float((np.maximum(np.asarray(row, "float32") @ first, 0) @ second)[0]) + seed


def make_log_bundle(folder: Path, sample: Sequence[float] = (1.0, 2.0)) -> Manifest:
    """A regression `log(x)`: its answer is not a finite number where x <= 0."""
    options = {"layout": "matrix", "outputs": {"predictions": "y"}}
    task = Task("regression", "value")
    return _write(folder, _log_model(), (Column("x", "double"),), task, options, {"x": list(sample)})


def make_slow_bundle(folder: Path, turns: float = 20_000.0) -> Manifest:
    """A regression that answers x after as many turns of a loop, of about a microsecond each."""
    options = {"layout": "matrix", "outputs": {"predictions": "y"}}
    task = Task("regression", "value")
    return _write(folder, _slow_model(), (Column("x", "double"),), task, options, {"x": [turns, turns]})


def _write(
    folder: Path,
    model: bytes,
    inputs: tuple[Column, ...],
    task: Task,
    options: Mapping[str, Any],
    sample: Mapping[str, Sequence[Any]],
) -> Manifest:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(model)
    (folder / "sample.json").write_text(json.dumps(sample))
    names = ("model/model.onnx", "sample.json")
    files = {name: _entry((folder / name).read_bytes()) for name in names}
    manifest = Manifest("onnx", "model/model.onnx", inputs, task, files, options=dict(options))
    (folder / "manifest.json").write_bytes(manifest.encode())
    return manifest


def _entry(raw: bytes) -> FileEntry:
    return FileEntry(hashlib.sha256(raw).hexdigest(), len(raw))


def _plain(values: Any, dtype: Dtype) -> list[Any]:
    return [int(v) for v in values] if dtype in ("integer", "long") else [float(v) for v in values]


def _logistic(
    features: Any, classes: list[Label], columns: list[str], layout: str, rng: np.random.Generator
) -> bytes:
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    weights = rng.normal(size=(features.shape[1], len(classes)))
    truth = np.asarray(classes)[np.argmax(features @ weights, axis=1)]
    width = features.shape[1]
    model = LogisticRegression()
    if layout == "named":
        model = make_pipeline(ColumnTransformer([("all", "passthrough", list(range(width)))]), model)
    model.fit(features, truth)
    matrix = [("X", FloatTensorType([None, width]))]
    named = [(name, FloatTensorType([None, 1])) for name in columns]
    proto = to_onnx(
        model,
        initial_types=named if layout == "named" else matrix,
        options={"zipmap": False},
        target_opset=15,
    )
    return bytes(proto.SerializeToString())


def _mixed_model() -> bytes:
    from onnx import TensorProto, helper

    double, column = TensorProto.DOUBLE, [None, 1]
    types = {
        "amount": double,
        "age": TensorProto.INT64,
        "vip": TensorProto.BOOL,
        "city": TensorProto.STRING,
        "note": TensorProto.STRING,
    }
    nodes = [
        helper.make_node("Cast", ["age"], ["age_double"], to=double),
        helper.make_node("Add", ["amount", "age_double"], ["total"]),
        helper.make_node("Greater", ["total", "limit"], ["over"]),
        helper.make_node("Cast", ["over"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["wide", "axis"], ["label"]),
        *(helper.make_node("Identity", [name], [f"{name}_seen"]) for name in ("vip", "city", "note")),
    ]
    constants = [
        helper.make_tensor("limit", double, [1], [50.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    outputs = [helper.make_tensor_value_info("label", TensorProto.INT64, [None])]
    outputs += [helper.make_tensor_value_info(f"{n}_seen", types[n], column) for n in ("vip", "city", "note")]
    inputs = [helper.make_tensor_value_info(name, kind, column) for name, kind in types.items()]
    return _model(nodes, inputs, outputs, constants)


def _log_model() -> bytes:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Log", ["X"], ["logs"]),
        helper.make_node("Squeeze", ["logs", "axis"], ["y"]),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    return _model(nodes, [given], [answer], [axis])


def _slow_model() -> bytes:
    from onnx import TensorProto, helper

    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    turn = helper.make_graph(
        [
            helper.make_node("Add", ["before", "one"], ["after"]),
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
        ],
        "turn",
        [
            helper.make_tensor_value_info("turn_number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [1]),
        ],
        [one],
    )
    nodes = [
        helper.make_node("ReduceMax", ["X"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "true", "zero"], ["sum"], body=turn),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Squeeze", ["X", "axis"], ["x"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = [
        helper.make_tensor("true", TensorProto.BOOL, [], [True]),
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 1])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    return _model(nodes, [given], [answer], constants)


def _weights(seed: int, width: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(3, width)).astype("float32"), (rng.normal(size=(width, 1)) / width).astype(
        "float32"
    )


def _layer_model(first: Any, second: Any, seed: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["X", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "second"], ["sums"]),
        helper.make_node("Add", ["sums", "shift"], ["moved"]),
        helper.make_node("Squeeze", ["moved", "axis"], ["y"]),
    ]
    constants = [
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(second, "second"),
        helper.make_tensor("shift", TensorProto.FLOAT, [1], [float(seed)]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])
    answer = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])
    return _model(nodes, [given], [answer], constants)


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: list[Any]) -> bytes:
    from onnx import checker, helper

    graph = helper.make_graph(nodes, "model", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    checker.check_model(model)
    return bytes(model.SerializeToString())
