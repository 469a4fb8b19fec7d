"""ONNX Runtime: the hot path of the model server. Loading parses a graph and runs no code of the bundle."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, UnsafeArtifact
from mlplatform.stats.batch import Array, Batch, Outputs

_ELEMENT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "object",
    **{
        f"tensor({name})": name
        for name in (
            "float16",
            "int8",
            "int16",
            "int32",
            "int64",
            "uint8",
            "uint16",
            "uint32",
            "uint64",
            "bool",
        )
    },
}


class _Node(NamedTuple):
    """An input of the graph."""

    name: str
    dtype: str
    flat: bool
    """Whether it takes (n,) and not (n, 1), where it takes one value a row."""


@dataclass(frozen=True)
class OnnxRuntime:
    """`manifest.options`: `layout` is "matrix" (one (n, k) input), "named" (one input a column, tensors in their
    shape); `outputs` names the graph's `predictions` and, where it has them, `scores`, or lists its outputs,
    which are answered under their own names then."""

    safe: ClassVar[bool] = True

    def load(self, bundle: Path, manifest: Manifest) -> OnnxPredictor:
        """Raises UnsafeArtifact for a file that ONNX Runtime does not take, ValueError for a graph that does not
        fit the manifest."""
        session = _session(bundle, manifest.model_path)
        nodes = {node.name: _node(node) for node in session.get_inputs()}
        outputs, named = _outputs(manifest, [node.name for node in session.get_outputs()])
        if manifest.options.get("layout", "matrix") == "matrix":
            if len(nodes) != 1:
                raise ValueError(
                    f"layout 'matrix' takes a graph with one input, this one has {sorted(nodes)}"
                )
            (node,) = nodes.values()
            return OnnxPredictor(session, outputs, named, matrix_input=node.name, matrix_dtype=node.dtype)
        return OnnxPredictor(session, outputs, named, named_inputs=_by_column(manifest, nodes))


class OnnxPredictor:
    """A session with its inputs and outputs by name. One thread: parallelism comes from several workers."""

    def __init__(
        self,
        session: Any,
        outputs: list[str],
        named: bool = False,
        matrix_input: str = "",
        matrix_dtype: str = "float32",
        named_inputs: dict[str, _Node] | None = None,
    ) -> None:
        self._run = session.run
        self._outputs = outputs
        self._named = named
        self._matrix_input = matrix_input
        self._matrix_dtype = matrix_dtype
        self._named_inputs = named_inputs

    def predict(self, batch: Batch) -> Outputs:
        if self._named_inputs is None:
            feed = {self._matrix_input: batch.as_matrix(self._matrix_dtype)}
        else:
            columns = batch.columns()
            feed = {node.name: _fed(name, columns[name], node) for name, node in self._named_inputs.items()}
        answers = self._run(self._outputs, feed)
        if self._named:
            first, *others = map(np.asarray, answers)
            rest = dict(zip(self._outputs[1:], others, strict=True))
            return Outputs(first, None, rest, self._outputs[0], "dict")
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
    path = bundle / name
    path = path / "model.onnx" if path.is_dir() else path  # a folder is in MLflow's format
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class
        why = f"ONNX Runtime does not load it: {' '.join(str(error).split())[:300]}"
        raise UnsafeArtifact(path=name, why=why) from error


def _node(node: Any) -> _Node:
    if node.type not in _ELEMENT_TYPES:
        known = ", ".join(_ELEMENT_TYPES)
        raise ValueError(f"input {node.name!r} of the graph is a {node.type}; known: {known}")
    return _Node(node.name, _ELEMENT_TYPES[node.type], len(node.shape) == 1)


def _by_column(manifest: Manifest, nodes: dict[str, _Node]) -> dict[str, _Node]:
    """Graph input by column; exporters write `sepal length` as `sepal_length`, and one input needs no name."""
    if binary := [column.name for column in manifest.inputs if column.dtype == "binary"]:
        raise ValueError(f"column {binary[0]!r} holds bytes, which no graph takes")
    if len(nodes) == len(manifest.inputs) == 1:
        return dict(zip(manifest.input_names, nodes.values(), strict=True))
    names = {name: name if name in nodes else re.sub(r"\W", "_", name) for name in manifest.input_names}
    if sorted(names.values()) != sorted(nodes):
        raise ValueError(f"inputs of the graph {sorted(nodes)} are not the manifest's {sorted(names)}")
    return {name: nodes[node] for name, node in names.items()}


def _outputs(manifest: Manifest, known: list[str]) -> tuple[list[str], bool]:
    """Outputs to ask for, and whether they are answered under their own names."""
    named = manifest.options.get("outputs", {"predictions": known[0]})
    if own := isinstance(named, list | tuple):
        wanted = list(named)
    else:
        wanted = [named["predictions"], *([named["scores"]] if named.get("scores") else [])]
    if missing := [name for name in wanted if name not in known]:
        raise ValueError(f"the graph has no output {missing[0]!r}; it has {', '.join(known)}")
    if not wanted:
        raise ValueError(f"option 'outputs' names none of the graph's: {', '.join(known)}")
    return wanted, own


def _fed(name: str, values: Array, node: _Node) -> Array:
    """A column as the graph takes it; tensors keep their shape."""
    shape = values.shape if values.ndim > 1 or node.flat else (-1, 1)
    if node.dtype == "object":
        if values.dtype == object:
            texts = ["" if v is None else str(v) for v in values.ravel()]
            return np.array(texts, dtype=object).reshape(shape)
        return values.astype(str).astype(object).reshape(shape)
    if values.dtype.kind == "M":
        values = values.astype("datetime64[s]").astype("int64")
    if np.dtype(node.dtype).kind in "iub" and values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"column {name!r} holds missing values, and the graph takes {node.dtype}")
    return np.ascontiguousarray(values, dtype=node.dtype).reshape(shape)


def _flat(predictions: Array) -> Array:
    """Labels of shape (n, 1) as (n,), the way scikit-learn answers."""
    if predictions.ndim == 2 and predictions.shape[1] == 1:
        return predictions[:, 0]
    return predictions
