"""An exported PyTorch program as ONNX, with any number of rows and the weights inside the file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path
from typing import Any

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import Refused


def export(parent: Any, manifest: Manifest, path: Path) -> dict[str, Any]:
    """Write the graph of a loaded program; the ONNX runtime's options. Raises Refused."""
    import torch

    if any(column.shape for column in manifest.inputs) or parent.takes_columns:
        raise Refused(
            what="the program takes tensors of its own, not one matrix of columns",
            hint="Export it to ONNX where it is trained, and log that; or serve the program natively.",
        )
    program = _flat_program(parent, len(manifest.inputs))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with _quiet():
            # 2 GB is the largest file protobuf writes; below it one file is what a bundle wants.
            torch.onnx.export(
                program, (), str(path), dynamo=True, external_data=False, verbose=False, optimize=True
            )
    except Exception as error:  # the exporter raises a type of its own for each of its steps
        raise Refused(
            what=f"the program has no ONNX form: {' '.join(str(error).split())[:200]}",
            hint="Replace the operator it names, or serve the program natively.",
        ) from error
    return {"layout": "matrix", "outputs": {"predictions": _first_output(path)}}


def _flat_program(parent: Any, width: int) -> Any:
    """The program with rows of `width` numbers in; one that wants another shape is exported anew around a
    reshape.
    """
    import torch

    if parent.fixed_rows:
        raise Refused(
            what=f"the program was exported for exactly {parent.fixed_rows} rows",
            hint="Export it with a dynamic first dimension; `mlplatform.log_candidate` does.",
        )
    if parent.shape == (width,):
        return parent.program
    inner, shape = parent.program.module(), parent.shape

    class Rows(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, rows: Any) -> Any:
            return self.inner(rows.reshape(-1, *shape))

    example = torch.zeros(3, width, dtype=getattr(torch, parent.dtype))
    with _quiet():
        # No .eval(): an exported program knows one mode only, and refuses to be asked for another.
        return torch.export.export(Rows(), (example,), dynamic_shapes=[{0: torch.export.Dim.AUTO}])


def _first_output(path: Path) -> str:
    import onnx

    return str(onnx.load(str(path), load_external_data=False).graph.output[0].name)


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter reports each step on stdout and warns of its own internals."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
