"""Model folders in MLflow's own format, always in a safe one and always with stated requirements.

Requirements are never inferred: MLflow would start a process that loads the model again, for seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Manifest, Task
from mlplatform.domain.trusted import SKLEARN_TYPES
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.tracking.client import one_line, quiet

_PACKAGES = {
    "sklearn": ("scikit-learn", "numpy", "scipy", "skops"),
    "torch": ("torch", "numpy"),
    "onnx": ("onnxruntime",),
}
_OUTPUTS = {"f": "double", "i": "long", "u": "long", "b": "boolean"}


@dataclass(frozen=True)
class Saved:
    """What is saved besides the model: its signature's two sides and an example."""

    inputs: Sequence[Column]
    answers: Array
    """What the model answers to the example: labels or values (n,), scores (n, k)."""
    example: Any
    """A few rows as the model takes them: the user's kind of table, or a matrix."""
    requirements: Mapping[str, str]


def requirements(runtime: str, frames: bool = False) -> dict[str, str]:
    """Versions of the packages that the model was made with, without local parts such as `+cpu`."""
    names = (*_PACKAGES[runtime], *(("pandas",) if frames else ()))
    return {name: version(name).partition("+")[0] for name in names}


def save_sklearn(folder: Path, model: Any, saved: Saved) -> None:
    """A skops file; UsageError names types that are not on our list of what may be rebuilt."""
    import mlflow.sklearn
    from mlflow.exceptions import MlflowException

    try:
        with quiet():
            mlflow.sklearn.save_model(
                model,
                str(folder),
                signature=_signature(saved),
                input_example=saved.example,
                pip_requirements=_pins(saved.requirements),
                serialization_format="skops",
                skops_trusted_types=list(SKLEARN_TYPES),
            )
    except MlflowException as error:
        raise UsageError(
            what=f"{type(model).__name__} cannot be saved safely: {_untrusted(error)}",
            hint="Use scikit-learn's own estimators, without lambdas, own functions or own classes inside.",
        ) from None  # MLflow's own words advise a format that no server of ours reads


def save_torch(folder: Path, model: Any, tensors: Sequence[Array], saved: Saved) -> None:
    """An exported program with a free number of rows; takes a matrix, a table of the signature's columns, tensors."""
    import mlflow.pytorch
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    few = len(tensors[0]) < 2  # one row would fix the number of rows
    example = [values.repeat(2, axis=0) if few else values for values in tensors]
    written = Model()
    names = [column.name for column in saved.inputs] if len(tensors) > 1 else [None]
    specs: list[Any] = [
        TensorSpec(v.dtype, (-1, *v.shape[1:]), name) for v, name in zip(tensors, names, strict=True)
    ]
    try:
        with quiet(), torch.no_grad():
            mlflow.pytorch.save_model(
                model,
                str(folder),
                mlflow_model=written,
                signature=ModelSignature(inputs=Schema(specs)),
                input_example=example if len(example) > 1 else example[0],
                pip_requirements=_pins(saved.requirements),
                serialization_format="pt2",
            )
            program = torch.export.load(str(folder / "data" / "model.pt2")).module()
            program(*(torch.from_numpy(values[:1]) for values in tensors))
            program(*(torch.from_numpy(values.repeat(2, axis=0)) for values in example))
    except Exception as error:
        raise UsageError(
            what=f"{type(model).__name__} cannot be exported for any number of rows: {one_line(error)}",
            hint="Let `forward` take one (rows, columns) tensor, or one (rows, ...) for each input, and treat every row"
            " alike; see torch.export.",
        ) from error
    # MLflow wants tensors while it exports; callers send named columns.
    written.signature = _signature(saved)
    written.save(str(folder / "MLmodel"))


def save_onnx(folder: Path, proto: Any, saved: Saved) -> None:
    """The graph in one file, with the weights inside."""
    _save_graph(folder, proto, _signature(saved))


def save_derived(folder: Path, model: Path, manifest: Manifest) -> None:
    """A compressed child: ONNX in MLflow's format, a folder that is in it already as it is, else the bare file."""
    import shutil

    if manifest.runtime == "onnx":
        import onnx

        _save_graph(
            folder, onnx.load(str(model)), _schema_signature(manifest.inputs, _outputs(manifest.task))
        )
    elif (model / "MLmodel").exists():
        shutil.copytree(model, folder)
        folder.chmod(0o755)
    else:
        _save_bare(folder, model, manifest)


def stamp(folder: Path, model_id: str, run_id: str) -> None:
    """Write into MLmodel which LoggedModel and run the folder belongs to."""
    from mlflow.models import Model

    path = folder / "MLmodel"
    path.chmod(0o644)
    model = Model.load(str(path))
    model.model_id, model.model_uuid, model.run_id = model_id, model_id, run_id
    model.save(str(path))


def _save_graph(folder: Path, proto: Any, signature: Any) -> None:
    import mlflow.onnx

    with quiet():
        mlflow.onnx.save_model(
            proto,
            str(folder),
            signature=signature,
            pip_requirements=_pins(requirements("onnx")),
            save_as_external_data=False,
        )


def _save_bare(folder: Path, model: Path, manifest: Manifest) -> None:
    import shutil

    from mlflow.models import Model

    folder.mkdir(parents=True)
    shutil.copy(model, folder / model.name) if model.is_file() else shutil.copytree(
        model, folder / model.name
    )
    written = Model(signature=_schema_signature(manifest.inputs, _outputs(manifest.task)))
    written.add_flavor("mlplatform", runtime=manifest.runtime, path=model.name)
    written.save(str(folder / "MLmodel"))


def _outputs(task: Task) -> str:
    """MLflow's type of what the model predicts."""
    if task.output in ("probabilities", "logits", "value"):
        return "double"
    kinds = {type(c) for c in task.classes}
    return "string" if str in kinds or not kinds else ("boolean" if kinds == {bool} else "long")


def _signature(saved: Saved) -> Any:
    import numpy as np

    answers = np.asarray(saved.answers)
    kind = _OUTPUTS.get(answers.dtype.kind, "string")
    return _schema_signature(saved.inputs, kind, answers.shape[1] if answers.ndim == 2 else None)


def _schema_signature(inputs: Sequence[Column], output: str, width: int | None = None) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    if any(column.shape for column in inputs):  # MLflow knows no schema of both; one tensor needs no name
        named = len(inputs) > 1
        columns = Schema([_tensor_spec(column, named) for column in inputs])
    else:
        columns = Schema([ColSpec(DataType[c.dtype], c.name, required=c.required) for c in inputs])
    if width is not None:
        import numpy as np

        return ModelSignature(columns, Schema([TensorSpec(np.dtype("float32"), (-1, width))]))
    return ModelSignature(columns, Schema([ColSpec(DataType[output], "prediction")]))


def _tensor_spec(column: Column, named: bool) -> Any:
    import numpy as np
    from mlflow.types import TensorSpec

    kind = np.dtype(NUMPY_DTYPES[column.dtype])
    return TensorSpec(kind, (-1, *column.shape), column.name if named else None)


def _pins(requirements: Mapping[str, str]) -> list[str]:
    return [f"{name}=={number}" for name, number in sorted(requirements.items())]


def _untrusted(error: Exception) -> str:
    """skops says it best, and MLflow keeps that as the cause."""
    return one_line(error.__cause__ or error)
