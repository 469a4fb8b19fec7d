"""Exported PyTorch programs (`.pt2`): graph and weights without the Python code that made them.

An archive can hide pickles, operators by dotted name and shapes that sympy evaluates. `Trust.inspect` refuses
those when a version is registered, and its digest is checked ever after: what arrives here is what was
inspected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, UnsafeArtifact
from mlplatform.stats.batch import Array, Batch, Outputs


@dataclass(frozen=True)
class TorchRuntime:
    """Answers the program's raw output; the task says whether it is logits, probabilities or a value. Several outputs
    are answered under the names of `manifest.options["outputs"]`, else as the program calls them."""

    safe: ClassVar[bool] = True

    def load(self, bundle: Path, manifest: Manifest) -> TorchPredictor:
        """Raises UnsafeArtifact for an archive that torch does not load, or that wants other inputs."""
        try:
            import torch
        except ImportError as error:
            raise MissingPackage(what="a PyTorch model", package="torch") from error
        path = bundle / manifest.model_path
        if path.is_dir():
            path = next(iter(sorted(path.rglob("model.pt2"))), path / "model.pt2")
        torch.set_num_threads(1)
        try:
            return TorchPredictor(torch.export.load(path), manifest)
        except UnsafeArtifact:
            raise
        except Exception as error:  # torch raises whatever the damaged part runs into
            why = f"torch does not load it: {' '.join(str(error).split())[:300]}"
            raise UnsafeArtifact(path=manifest.model_path, why=why) from error


class _Input(NamedTuple):
    """A tensor that the program takes."""

    name: str
    shape: tuple[int, ...]
    """Of one row; -1 where any length will do."""
    dtype: str


class TorchPredictor:
    """An exported program, as `program`. One tensor in gets the rows of numbers in the shape it was exported with;
    several get a column each: by their names, else in their order.
    """

    def __init__(self, program: Any, manifest: Manifest) -> None:
        self.program = program
        inputs, self.fixed_rows = _inputs_of(program, manifest.model_path)
        self._columns = _columns(inputs, manifest)
        self.shape, self.dtype = inputs[0].shape, inputs[0].dtype
        self._names = tuple(manifest.options.get("outputs", ()))
        self._module = program.module()

    @property
    def takes_columns(self) -> bool:
        """Whether it takes a tensor for each column, and not one matrix."""
        return bool(self._columns)

    def predict(self, batch: Batch) -> Outputs:
        given = self._given(batch)
        if not self.fixed_rows:
            return self._outputs(self._answer(given))
        parts = [
            self._answer_some([values[i : i + self.fixed_rows] for values in given])
            for i in range(0, batch.rows, self.fixed_rows)
        ]
        return self._outputs({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _given(self, batch: Batch) -> list[Array]:
        if not self._columns:
            return [batch.as_matrix(self.dtype).reshape(-1, *self.shape)]
        columns = batch.columns()
        given = []
        for name, wanted in self._columns.items():
            values = columns[name]
            whole = np.dtype(wanted.dtype).kind in "iub"
            if whole and values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(
                    f"column {name!r} holds missing values, and the program takes {wanted.dtype}"
                )
            fits = values.ndim == len(wanted.shape) + 1
            shape = values.shape if fits else (len(values), *wanted.shape)
            given.append(np.array(values, dtype=wanted.dtype).reshape(shape))
        return given

    def _answer(self, given: Sequence[Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            answer = self._module(*map(torch.from_numpy, given))
        return {name: np.asarray(value.numpy()) for name, value in _leaves(answer, self._names)}

    def _answer_some(self, given: Sequence[Array]) -> dict[str, Array]:
        """A program exported for a fixed number of rows gets that many; the rest is filled up and cut off."""
        rows = len(given[0])
        missing = self.fixed_rows - rows
        filled = [np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) for values in given]
        return {name: values[:rows] for name, values in self._answer(filled).items()}

    def _outputs(self, answers: dict[str, Array]) -> Outputs:
        (name, first), *others = answers.items()
        if not others and not self._names:
            return Outputs(first)
        return Outputs(first, None, dict(others), name, "dict")


def _leaves(answer: Any, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The tensors of an answer by name: as given, else by the keys of a dictionary, else by number."""
    found: list[tuple[str, Any]] = []
    _gather("", answer, found)
    if names and len(names) != len(found):
        raise ValueError(f"the program answers {len(found)} tensors, {len(names)} are named")
    if names:
        yield from zip(names, (value for _, value in found), strict=True)
    elif len(found) == 1:
        yield "predictions", found[0][1]
    else:
        yield from found


def _gather(name: str, value: Any, into: list[tuple[str, Any]]) -> None:
    if isinstance(value, tuple | list):
        value = {f"output_{i}": item for i, item in enumerate(value)}
    if isinstance(value, dict):
        for key, item in value.items():
            _gather(f"{name}.{key}" if name else str(key), item, into)
    else:
        into.append((name, value))


def _columns(inputs: Sequence[_Input], manifest: Manifest) -> dict[str, _Input]:
    """Which column goes into which input; empty where all of them make one matrix."""
    tensors = any(column.shape for column in manifest.inputs)
    if len(inputs) == 1 and not tensors:
        return {}
    names = manifest.input_names
    if len(names) != len(inputs):
        raise UnsafeArtifact(
            path=manifest.model_path,
            why=f"the program takes {len(inputs)} inputs, the signature has {len(names)}",
            hint="Export a model whose forward() takes one tensor with all features, or one for each column.",
        )
    by_name = {one.name: one for one in inputs}
    if set(by_name) == set(names):
        if [*by_name] != [*names]:
            return {one.name: one for one in inputs}
        return by_name
    return dict(zip(names, inputs, strict=True))


def _inputs_of(program: Any, name: str) -> tuple[list[_Input], int]:
    """The tensors it takes, in their order, and the number of rows if it is fixed (0: any)."""
    wanted = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in wanted]
    values = [node.meta["val"] for node in nodes]
    least = 2 if len(values) == 1 else 1
    if not values or any(not hasattr(v, "shape") or len(v.shape) < least for v in values):
        raise UnsafeArtifact(
            path=name,
            why=f"the program takes {len(values)} inputs; wanted are tensors of shape (rows, ...)",
            hint="Export a model whose forward() takes one tensor with all features, or one for each column.",
        )
    rows = {v.shape[0] if type(v.shape[0]) is int else 0 for v in values}
    if len(rows) > 1:
        raise UnsafeArtifact(path=name, why=f"its inputs have different numbers of rows: {sorted(rows)}")
    inputs = [
        _Input(
            node.name,
            tuple(n if type(n) is int else -1 for n in v.shape[1:]),
            str(v.dtype).removeprefix("torch."),
        )
        for node, v in zip(nodes, values, strict=True)
    ]
    return inputs, rows.pop()
