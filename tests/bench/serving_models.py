"""The models and bodies of the server's benchmarks: each as MLflow logs it, as ONNX, as our bundle, and rows to send.

`logistic`: scikit-learn, 30 columns, scaled. `forest`: the same columns, 50 trees of depth 6. `mlp`: PyTorch,
784-1024-512-10, 1.3 million parameters. `linear`: 784-10.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, FileEntry, Manifest, Task

PIXELS, HIDDEN, CLASSES = 784, (1024, 512), 10


@dataclass(frozen=True)
class Made:
    """One model in all its forms. `bodies`: files by rows and form (`split`, `inputs`, `rows`, `v2`, `binary`)."""

    name: str
    mlflow: Path
    onnx: Path
    bundle: Path
    digest: str
    bodies: Path

    @property
    def script(self) -> Path:
        """As TorchScript; networks have it."""
        return self.bodies.parent / "script.pt"

    def body(self, form: str, rows: int = 1) -> Path:
        return self.bodies / f"{form}-{rows}"

    def json_bytes(self, rows: int) -> int:
        """How much of the binary body is JSON."""
        return int((self.bodies / f"binary-{rows}.json-bytes").read_text())


def logistic(folder: Path) -> Made:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _sklearn(folder, make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)))


def forest(folder: Path) -> Made:
    from sklearn.ensemble import RandomForestClassifier

    return _sklearn(folder, RandomForestClassifier(n_estimators=50, max_depth=6, random_state=0))


def _sklearn(folder: Path, model: Any) -> Made:
    import mlflow
    from skl2onnx import to_onnx
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True)
    model = model.fit(data.data, data.target)
    signature = mlflow.models.infer_signature(data.data, model.predict(data.data))
    mlflow.sklearn.save_model(
        model,
        folder / "mlflow",
        signature=signature,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
    )
    rows = data.data.to_numpy()
    proto = to_onnx(model, rows[:1].astype(np.float32), options={"zipmap": False}, target_opset=15)
    names = list(data.data.columns)
    task = Task("classification", "label", (0, 1))
    outputs = {"predictions": proto.graph.output[0].name, "scores": proto.graph.output[1].name}
    return _made(folder, proto.SerializeToString(), names, "double", task, outputs, rows[:64])


def mlp(folder: Path) -> Made:
    return _network(folder, HIDDEN)


def linear(folder: Path) -> Made:
    """As many columns as the MLP and next to no work for the model: what is left is bringing the rows in."""
    return _network(folder, ())


def _network(folder: Path, hidden: Sequence[int]) -> Made:
    import mlflow
    import torch

    torch.manual_seed(0)
    layers: list[Any] = []
    for before, after in pairwise((PIXELS, *hidden, CLASSES)):
        layers += [torch.nn.Linear(before, after), torch.nn.ReLU()]
    model = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1)).eval()
    rows = torch.rand(64, PIXELS)
    if hidden:
        signature = mlflow.models.infer_signature(rows.numpy(), model(rows).detach().numpy())
        mlflow.pytorch.save_model(
            model,
            folder / "mlflow",
            signature=signature,
            serialization_format="pickle",
            pip_requirements=["torch"],
        )
        torch.jit.trace(model, rows[:1]).save(folder / "script.pt")
    names = [f"p{i}" for i in range(PIXELS)]
    task = Task("classification", "probabilities", tuple(range(CLASSES)))
    values = np.round(rows.numpy().astype(float), 4)
    return _made(folder, _graph(layers), names, "float", task, {"predictions": "probabilities"}, values)


def _graph(layers: Sequence[Any]) -> bytes:
    """The same weights as an ONNX graph: matrix products, as any exporter writes them."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, at = [], [], "X"
    products = layers[::2]
    for i, layer in enumerate(products):
        for kind in ("weight", "bias"):
            values = getattr(layer, kind).detach().numpy()
            weights.append(numpy_helper.from_array(values, f"{kind}{i}"))
        nodes.append(helper.make_node("Gemm", [at, f"weight{i}", f"bias{i}"], [f"sum{i}"], transB=1))
        last = i == len(products) - 1
        at = "probabilities" if last else f"hidden{i}"
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"sum{i}"], [at]))
    given = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, PIXELS])
    answer = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, CLASSES])
    graph = helper.make_graph(nodes, "mlp", [given], [answer], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    return bytes(model.SerializeToString())


def _made(
    folder: Path,
    onnx: bytes,
    names: Sequence[str],
    dtype: Any,
    task: Task,
    outputs: dict[str, str],
    rows: Any,
) -> Made:
    bundle, bodies = folder / "bundle", folder / "bodies"
    (bundle / "model").mkdir(parents=True)
    bodies.mkdir()
    sample = {name: rows[:4, i].tolist() for i, name in enumerate(names)}
    contents = {"model/model.onnx": onnx, "sample.json": json.dumps(sample).encode()}
    for path, content in contents.items():
        (bundle / path).write_bytes(content)
    files = {path: FileEntry(hashlib.sha256(c).hexdigest(), len(c)) for path, c in contents.items()}
    inputs = tuple(Column(name, dtype) for name in names)
    options = {"layout": "matrix", "outputs": outputs}
    manifest = Manifest("onnx", "model/model.onnx", inputs, task, files, options=options)
    (bundle / "manifest.json").write_bytes(manifest.encode())
    made = Made(
        folder.name, folder / "mlflow", bundle / "model" / "model.onnx", bundle, manifest.digest, bodies
    )
    for count in (1, 64):
        _write_bodies(made, names, rows[:count])
    return made


def _write_bodies(made: Made, names: Sequence[str], rows: Any) -> None:
    count, listed = len(rows), rows.tolist()
    tensor = {"name": "X", "shape": list(rows.shape), "datatype": "FP32"}
    raw = rows.astype("<f4").tobytes()
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    forms = {
        "split": {"dataframe_split": {"columns": list(names), "data": listed}},
        "inputs": {"inputs": listed},
        "rows": {"data": listed},
        "v2": {"inputs": [{**tensor, "datatype": "FP64", "data": rows.ravel().tolist()}]},
    }
    for form, body in forms.items():
        made.body(form, count).write_text(json.dumps(body))
    made.body("binary", count).write_bytes(head + raw)
    (made.bodies / f"binary-{count}.json-bytes").write_text(str(len(head)))
