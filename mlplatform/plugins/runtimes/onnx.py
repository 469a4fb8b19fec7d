"""ONNX Runtime: the hot path of the model server. Loading parses a graph and runs no code of the bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, UnsafeArtifact
from mlplatform.stats.batch import Array, Batch, Outputs

_ELEMENT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


@dataclass(frozen=True)
class OnnxRuntime:
    """`manifest.options`: `layout` is "matrix" (one (n, k) input) or "named" (one (n, 1) input a column);
    `outputs` names the graph's `predictions` and, where it has them, `scores`."""

    safe: ClassVar[bool] = True

    def load(self, bundle: Path, manifest: Manifest) -> OnnxPredictor:
        """Raises UnsafeArtifact for a file that ONNX Runtime does not take, ValueError for a graph that does not
        fit the manifest."""
        session = _session(bundle, manifest.model_path)
        types = {node.name: _element_type(node.name, node.type) for node in session.get_inputs()}
        outputs = _outputs(manifest, [node.name for node in session.get_outputs()])
        if manifest.options.get("layout", "matrix") == "matrix":
            if len(types) != 1:
                raise ValueError(
                    f"layout 'matrix' takes a graph with one input, this one has {sorted(types)}"
                )
            ((name, dtype),) = types.items()
            return OnnxPredictor(session, outputs, matrix_input=name, matrix_dtype=dtype)
        return OnnxPredictor(session, outputs, named_inputs=_by_column(manifest, types))


class OnnxPredictor:
    """A session with its inputs and outputs by name. One thread: parallelism comes from several workers."""

    def __init__(
        self,
        session: Any,
        outputs: list[str],
        matrix_input: str = "",
        matrix_dtype: str = "float32",
        named_inputs: dict[str, tuple[str, str]] | None = None,
    ) -> None:
        self._run = session.run
        self._outputs = outputs
        self._matrix_input = matrix_input
        self._matrix_dtype = matrix_dtype
        self._named_inputs = named_inputs

    def predict(self, batch: Batch) -> Outputs:
        if self._named_inputs is None:
            feed = {self._matrix_input: batch.as_matrix(self._matrix_dtype)}
        else:
            columns = batch.columns()
            feed = {node: _column(name, columns[name], t) for name, (node, t) in self._named_inputs.items()}
        answers = self._run(self._outputs, feed)
        return Outputs(_flat(answers[0]), answers[1] if len(answers) > 1 else None)


def _session(bundle: Path, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage(what="an ONNX model", package="onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(bundle / name), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class
        why = f"ONNX Runtime does not load it: {' '.join(str(error).split())[:300]}"
        raise UnsafeArtifact(path=name, why=why) from error


def _element_type(name: str, kind: str) -> str:
    if kind not in _ELEMENT_TYPES:
        raise ValueError(f"input {name!r} of the graph is a {kind}; known: {', '.join(_ELEMENT_TYPES)}")
    return _ELEMENT_TYPES[kind]


def _by_column(manifest: Manifest, types: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Graph input and its type by column; exporters write `sepal length` as `sepal_length`."""
    nodes = {name: name if name in types else re.sub(r"\W", "_", name) for name in manifest.input_names}
    if sorted(nodes.values()) != sorted(types):
        raise ValueError(f"inputs of the graph {sorted(types)} are not the manifest's {sorted(nodes)}")
    return {name: (node, types[node]) for name, node in nodes.items()}


def _outputs(manifest: Manifest, known: list[str]) -> list[str]:
    named = manifest.options.get("outputs", {"predictions": known[0]})
    wanted = [named["predictions"], *([named["scores"]] if named.get("scores") else [])]
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(f"the graph has no output {missing[0]!r}; it has {', '.join(known)}")
    return wanted


def _column(name: str, values: Array, dtype: str) -> Array:
    if dtype == "object":
        return np.array(["" if v is None else str(v) for v in values], dtype=object).reshape(-1, 1)
    if values.dtype.kind == "M":
        values = values.astype("datetime64[s]").astype("int64")
    if dtype in ("int64", "int32", "bool") and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"column {name!r} holds missing values, and the graph takes {dtype}")
    return np.ascontiguousarray(values, dtype=dtype).reshape(-1, 1)


def _flat(predictions: Array) -> Array:
    """Labels of shape (n, 1) as (n,), the way scikit-learn answers."""
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        return predictions[:, 0]
    return predictions
