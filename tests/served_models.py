"""Bundles of models with unusual signatures, and a server for one: tensors, bytes, several inputs and outputs."""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, FileEntry, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.store.documents import FolderDocuments

VALUE = Task("regression", "value")


def freeze(folder: Path, manifest: Manifest, sample: Mapping[str, Any]) -> Manifest:
    """The bundle in `folder`, whose model is there already."""
    (folder / "sample.json").write_text(json.dumps(sample))
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"]
    files = {str(path.relative_to(folder)): _entry(path.read_bytes()) for path in paths}
    made = replace(manifest, files=files)
    (folder / "manifest.json").write_bytes(made.encode())
    return made


def _entry(raw: bytes) -> FileEntry:
    return FileEntry(hashlib.sha256(raw).hexdigest(), len(raw))


@contextmanager
def served(
    root: Path,
    folder: Path,
    manifest: Manifest,
    runs_code: bool = False,
    capture: CaptureRule = CaptureRule(),  # noqa: B008
) -> Iterator[ServerState]:
    """A server with one model, `m`."""
    documents = FolderDocuments(root)
    route = Route("m", 1, manifest.digest, str(folder), runs_code=runs_code)
    documents.publish(Routes("e", 0, (route,), capture=capture))
    place = documents.folder("e")
    state = LocalTarget().apply(ServerSpec("e", place))
    try:
        yield state
    finally:
        LocalTarget().stop(place)


def pixels(folder: Path) -> Manifest:
    """ONNX: pictures (2, 3, 3) of bytes and a factor; their brightness times the factor, and the pictures as floats."""
    from onnx import TensorProto, helper

    single = TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["image"], ["light"], to=single),
        helper.make_node("ReduceMean", ["light"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "factor"], ["brightness"]),
        helper.make_node("Identity", ["light"], ["picture"]),
        helper.make_node("Greater", ["mean", "limit"], ["bright"]),
    ]
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, [None, 2, 3, 3]),
        helper.make_tensor_value_info("factor", single, [None]),
    ]
    outputs = [
        helper.make_tensor_value_info("brightness", single, [None]),
        helper.make_tensor_value_info("picture", single, [None, 2, 3, 3]),
        helper.make_tensor_value_info("bright", TensorProto.BOOL, [None]),
    ]
    limit = helper.make_tensor("limit", single, [1], [100.0])
    graph = helper.make_graph(nodes, "pixels", inputs, outputs, [limit])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(model.SerializeToString())
    columns = (Column("image", "uint8", shape=(2, 3, 3)), Column("factor", "float"))
    options = {"layout": "named", "outputs": ["brightness", "picture", "bright"]}
    sample = {"image": [[[[7] * 3] * 3] * 2, [[[200] * 3] * 3] * 2], "factor": [1.0, 2.0]}
    manifest = Manifest("onnx", "model/model.onnx", columns, VALUE, {}, options=options)
    return freeze(folder, manifest, sample)


def lengths(folder: Path) -> Manifest:
    """ONNX: waves of any length with two channels; their sum."""
    from onnx import TensorProto, helper

    single = TensorProto.FLOAT
    node = helper.make_node("ReduceSum", ["wave", "axes"], ["sum"], keepdims=0)
    given = [helper.make_tensor_value_info("wave", single, [None, None, 2])]
    sums = [helper.make_tensor_value_info("sum", single, [None])]
    axes = helper.make_tensor("axes", TensorProto.INT64, [2], [1, 2])
    graph = helper.make_graph([node], "lengths", given, sums, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(model.SerializeToString())
    columns = (Column("wave", "float", shape=(-1, 2)),)
    manifest = Manifest("onnx", "model/model.onnx", columns, VALUE, {}, options={"layout": "named"})
    return freeze(folder, manifest, {"wave": [[[1.0, 2.0]], [[3.0, -1.0]]]})


def pair(folder: Path) -> Manifest:
    """PyTorch: a matrix (2, 3) and a vector of 3; their product, and the sum of the vector."""
    import torch

    class Pair(torch.nn.Module):
        def forward(self, left: Any, right: Any) -> Any:
            return {"product": (left @ right.unsqueeze(-1)).squeeze(-1), "total": right.sum(dim=1)}

    rows = torch.export.Dim("rows", min=1, max=100_000)
    raw = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own internals
        shapes = {"left": {0: rows}, "right": {0: rows}}
        example = (torch.zeros(2, 2, 3), torch.zeros(2, 3))
        torch.export.save(torch.export.export(Pair().eval(), example, dynamic_shapes=shapes), raw)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.pt2").write_bytes(raw.getvalue())
    columns = (Column("right", "double", shape=(3,)), Column("left", "float", shape=(2, 3)))
    sample = {"left": [[[1.0, 2.0, 3.0]] * 2] * 2, "right": [[1.0, 0.0, 1.0]] * 2}
    return freeze(folder, Manifest("torch", "model/model.pt2", columns, VALUE, {}), sample)


def spam(folder: Path) -> Manifest:
    """scikit-learn: text in, label and probabilities out."""
    import skops.io
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts = ["win money now", "see you at noon", "money prize win", "noon is fine"]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts * 5, ["spam", "ham"] * 10)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.skops").write_bytes(skops.io.dumps(model))
    task = Task("classification", "label", ("ham", "spam"))
    manifest = Manifest("sklearn", "model/model.skops", (Column("text", "string"),), task, {})
    return freeze(folder, manifest, {"text": texts})


def saved(
    folder: Path, code: str, columns: tuple[Column, ...], sample: Mapping[str, Any], **options: Any
) -> Manifest:
    """A model of MLflow's own kind from the code of its class `M`, in the runtime that runs it."""
    save_code_model(folder / "model", code, columns)
    return freeze(folder, Manifest("pyfunc", "model", columns, VALUE, {}, options=options), sample)


def save_code_model(
    folder: Path,
    code: str,
    columns: tuple[Column, ...],
    named: bool = True,
    params: Any = None,
    inputs: Any = None,
) -> None:
    """A model with a signature of columns, or of tensors where one of them has a shape; `named`: by their names.
    `params`: MLflow's own schema of parameters; `inputs`: its schema of inputs, in place of `columns`."""
    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    def spec(column: Column) -> Any:
        if not column.shape:
            return ColSpec(column.dtype, column.name, required=column.required)
        shape = (-1, *column.shape)
        return TensorSpec(np.dtype(NUMPY_DTYPES[column.dtype]), shape, column.name if named else None)

    folder.parent.mkdir(parents=True, exist_ok=True)
    source = folder.parent.parent / f"{folder.parent.name}_source.py"
    source.write_text(f"import mlflow\n{code}\nmlflow.models.set_model(M())\n")
    signature = ModelSignature(inputs or Schema([spec(column) for column in columns]), params=params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing examples and type hints
        mlflow.pyfunc.save_model(
            folder, python_model=str(source), signature=signature, pip_requirements=["mlflow"]
        )


NUMBERS = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return (model_input["a"] + model_input["b"] > 0).astype(int).to_numpy()
"""


def numbers(folder: Path) -> Manifest:
    """Code: two numbers in, a label out."""
    columns, task = (Column("a", "double"), Column("b", "double")), Task("classification", "label", (0, 1))
    save_code_model(folder / "model", NUMBERS, columns)
    manifest = Manifest("pyfunc", "model/MLmodel", columns, task, {})
    return freeze(folder, manifest, {"a": [1.0, -1.0, 0.5], "b": [0.5, 0.5, -1.0]})
