"""ONNX graphs that a script hands over: what they take, and what they answer to rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Dtype
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.tracking.client import one_line

_TYPES: dict[str, Dtype] = {
    "tensor(float)": "float",
    "tensor(double)": "double",
    "tensor(int32)": "integer",
    "tensor(int64)": "long",
    "tensor(bool)": "boolean",
    **{f"tensor({name})": cast(Dtype, name) for name in NUMPY_DTYPES if "int" in name and name[-1].isdigit()},
    "tensor(float16)": "float16",
}


@dataclass(frozen=True)
class Graph:
    """A graph that answers."""

    proto: Any
    session: Any

    @property
    def inputs(self) -> list[str]:
        return [node.name for node in self.session.get_inputs()]

    @property
    def outputs(self) -> list[str]:
        return [node.name for node in self.session.get_outputs()]

    def typed(self, columns: Sequence[Column]) -> tuple[Column, ...]:
        """Tensors in the graph's own types and order. UsageError where they are not its inputs."""
        nodes = {node.name: node for node in self.session.get_inputs()}
        found = {column.name: column for column in columns}
        if set(nodes) != set(found):
            raise UsageError(
                what=f"the graph takes {', '.join(nodes)}; X has {', '.join(found)}",
                hint="Name the arrays of X as the inputs of the graph.",
            )
        unknown = [f"{node.name} is a {node.type}" for node in nodes.values() if node.type not in _TYPES]
        if unknown:
            raise UsageError(
                what=f"the graph takes other things than numbers: {', '.join(unknown)}",
                hint="Let it take tensors of numbers, or log it as a model that MLflow saved.",
            )
        return tuple(replace(found[name], dtype=_TYPES[node.type]) for name, node in nodes.items())

    def ask(self, columns: Mapping[str, Array]) -> list[Array]:
        """Every output, one entry a row. UsageError when it fails."""
        feed: dict[str, Array] = {}
        for node in self.session.get_inputs():
            kind = NUMPY_DTYPES[_TYPES.get(node.type, "float")]
            if columns.keys() == {node.name}:
                feed[node.name] = np.ascontiguousarray(columns[node.name], kind)
            elif node.name in columns:
                values = columns[node.name]
                one = values.ndim == 1 and len(node.shape) == 2
                feed[node.name] = np.ascontiguousarray(values.reshape(-1, 1) if one else values, kind)
            else:
                feed[node.name] = np.column_stack(list(columns.values())).astype(kind)
        try:
            answers: list[Array] = self.session.run(None, feed)
        except Exception as error:  # its exceptions have no common class
            raise UsageError(
                what=f"the graph fails on its own sample: {one_line(error)}",
                hint="Let its first dimension be the rows, of any number, and pass X as it takes it.",
            ) from error
        if any(not isinstance(answer, np.ndarray) for answer in answers[:2]):
            raise UsageError(
                what="the graph answers maps and lists, not tensors", hint="Export it with zipmap=False."
            )
        return answers


def load(proto: Any) -> Graph:
    """Raises UsageError for what ONNX Runtime does not take."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        raw = proto.SerializeToString()
        return Graph(proto, onnxruntime.InferenceSession(raw, options, providers=["CPUExecutionProvider"]))
    except Exception as error:  # its exceptions have no common class
        raise UsageError(
            what=f"ONNX Runtime does not load the graph: {one_line(error)}",
            hint="Check it with onnx.checker.check_model; its weights must be inside.",
        ) from error


def is_graph(model: Any) -> bool:
    return any(
        f"{c.__module__}.{c.__qualname__}".startswith("onnx.") for c in type(model).__mro__
    ) and hasattr(model, "graph")
