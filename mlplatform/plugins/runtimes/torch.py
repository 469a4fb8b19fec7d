"""Exported PyTorch programs (`.pt2`): graph and weights without the Python code that made them.

An archive can hide pickles, operators by dotted name and shapes that sympy evaluates. `Trust.inspect` refuses
those when a version is registered, and its digest is checked ever after: what arrives here is what was
inspected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, UnsafeArtifact
from mlplatform.stats.batch import Array, Batch, Outputs


@dataclass(frozen=True)
class TorchRuntime:
    """Answers the program's raw output; the task says whether it is logits, probabilities or a value."""

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
            return TorchPredictor(torch.export.load(path), manifest.model_path)
        except UnsafeArtifact:
            raise
        except Exception as error:  # torch raises whatever the damaged part runs into
            why = f"torch does not load it: {' '.join(str(error).split())[:300]}"
            raise UnsafeArtifact(path=manifest.model_path, why=why) from error


class TorchPredictor:
    """An exported program with one tensor in, as `program`. Rows of numbers get the shape it was exported
    with.
    """

    def __init__(self, program: Any, name: str) -> None:
        self.program = program
        self.shape, self.dtype, self.fixed_rows = _input_of(program, name)
        self._module = program.module()

    def predict(self, batch: Batch) -> Outputs:
        rows = batch.as_matrix(self.dtype).reshape(-1, *self.shape)
        if not self.fixed_rows:
            return Outputs(self._answer(rows))
        answers = [
            self._answer_some(rows[i : i + self.fixed_rows]) for i in range(0, len(rows), self.fixed_rows)
        ]
        return Outputs(np.concatenate(answers))

    def _answer(self, rows: Array) -> Array:
        import torch

        with torch.inference_mode():
            answer = self._module(torch.from_numpy(rows))
        while isinstance(answer, tuple | list | dict):
            answer = next(iter(answer.values() if isinstance(answer, dict) else answer))
        return np.asarray(answer.numpy())

    def _answer_some(self, rows: Array) -> Array:
        """A program exported for a fixed number of rows gets that many; the rest is filled up and cut off."""
        missing = self.fixed_rows - len(rows)
        return self._answer(np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]))[: len(rows)]


def _input_of(program: Any, name: str) -> tuple[tuple[int, ...], str, int]:
    """Shape of one row, dtype, and the number of rows if it is fixed (0: any)."""
    inputs = set(program.graph_signature.user_inputs)
    tensors = [
        node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in inputs
    ]
    if len(tensors) != 1 or len(tensors[0].shape) < 2:
        raise UnsafeArtifact(
            path=name,
            why=f"the program takes {len(tensors)} inputs; wanted is one tensor of shape (rows, ...)",
            hint="Export a model whose forward() takes one tensor with all features.",
        )
    rows, *shape = tensors[0].shape
    dtype = str(tensors[0].dtype).removeprefix("torch.")
    return tuple(int(n) for n in shape), dtype, rows if type(rows) is int else 0
