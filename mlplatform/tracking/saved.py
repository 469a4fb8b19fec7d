"""Models that MLflow has saved, of any flavor: described and logged by their folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Parameter
from mlplatform.domain.signature import foreign_column, foreign_parameter
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.tracking.client import one_line, quiet

RUNTIME = "pyfunc"
_PIN = re.compile(r"\s*([A-Za-z0-9][\w.\-]*)==([\w.!+\-]+)\s*")


@dataclass(frozen=True)
class SavedModel:
    """A model folder, and the model in it as `mlflow.pyfunc` loads it."""

    folder: Path
    loaded: Any

    def predict(self, rows: Any) -> Array:
        """One entry a row: of several outputs the first."""
        with quiet():
            raw = self.loaded.predict(rows)
        if hasattr(raw, "columns"):
            raw = raw[raw.columns[0]]
        if isinstance(raw, Mapping):
            raw = next(iter(raw.values()))
        return np.asarray(raw)

    @property
    def only_input(self) -> str:
        """The name of a signature's only input; empty where it has several, or no names."""
        schema = self.loaded.metadata.get_input_schema()
        names = schema.input_names() if schema is not None and schema.has_input_names() else []
        return str(names[0]) if len(names) == 1 else ""

    def inputs(self, found: Sequence[Column]) -> tuple[Column, ...]:
        """The signature's own columns; those found in the rows where it has none. UsageError where they differ."""
        schema = self.loaded.metadata.get_input_schema()
        if schema is None:
            return tuple(found)
        given = {column.name: column for column in found}
        if not schema.has_input_names() and len(schema.inputs) == len(given) == 1:
            return (_column(next(iter(given)), schema.inputs[0], True),)
        if not schema.has_input_names():
            raise UsageError(
                what="the model's signature has no names",
                hint="Save it with a signature whose inputs are named.",
            )
        wanted = {spec.name: _column(spec.name, spec, spec.required) for spec in schema.inputs}
        if missing := [name for name, column in wanted.items() if column.required and name not in given]:
            raise UsageError(
                what=f"the model's signature has {', '.join(missing)}, which the rows lack",
                hint="Pass holdout and reference with the columns of the signature.",
            )
        if extra := [name for name in given if name not in wanted]:
            raise UsageError(
                what=f"the rows have {', '.join(extra)}, which the model's signature lacks",
                hint="Pass the features only, without the target; columns beside them belong in context=.",
            )
        return tuple(column for name, column in wanted.items() if name in given)

    def params(self) -> tuple[Parameter, ...]:
        """What the signature lets a caller set."""
        schema = self.loaded.metadata.get_params_schema()
        stored = schema.to_dict() if schema is not None else ()
        return tuple(
            Parameter.of(
                {"name": d["name"], "dtype": d["type"], "default": d["default"], "shape": d["shape"] or ()}
            )
            for d in stored
        )

    def requirements(self) -> dict[str, str]:
        """The packages that it pins, by name."""
        try:
            text = (self.folder / "requirements.txt").read_text()
        except OSError:
            return {}
        pins = filter(None, map(_PIN.fullmatch, text.splitlines()))
        return {pin[1]: pin[2].partition("+")[0] for pin in pins}


def load(path: Path) -> SavedModel:
    """Raises UsageError for a folder that holds no model that MLflow loads, or one whose signature has columns that
    are not served. Runs the model's code."""
    if not (path / "MLmodel").is_file():
        raise UsageError(
            what=f"{path} is no model folder of MLflow: it has no MLmodel",
            hint="Save the model with mlflow.<flavor>.save_model(model, path), and pass the path.",
        )
    try:
        with quiet():
            import mlflow.pyfunc

            loaded = mlflow.pyfunc.load_model(str(path))
    except Exception as error:  # whatever the model's own code runs into
        raise UsageError(
            what=f"MLflow does not load {path}: {type(error).__name__}: {one_line(error)}",
            hint="Load it with mlflow.pyfunc.load_model where it was saved, to see why.",
        ) from error
    schema, params = loaded.metadata.get_input_schema(), loaded.metadata.get_params_schema()
    wrong = (schema and foreign_column(schema.to_dict())) or (params and foreign_parameter(params.to_dict()))
    if wrong:
        raise UsageError(what=wrong[0], hint=wrong[1])
    return SavedModel(path, loaded)


def _column(name: str, spec: Any, required: bool) -> Column:
    kind, shape = spec.type, tuple(getattr(spec, "shape", (-1,)))
    if shape[0] != -1:
        raise UsageError(
            what=f"input {name} of the signature has {shape[0]} rows", hint="Let its first dimension be -1."
        )
    if isinstance(kind, np.dtype):
        text = kind.kind in "OUS"
        known = next((dtype for dtype, numpy in NUMPY_DTYPES.items() if kind == np.dtype(numpy)), None)
        found = "string" if text else known
    else:
        found = getattr(kind, "name", "")
        found = found if found in NUMPY_DTYPES else None
    if found is None:
        raise UsageError(
            what=f"input {name} of the signature is a {kind}",
            hint=f"Known are {', '.join(NUMPY_DTYPES)}, and tensors of them.",
        )
    return Column(name, found, required, tuple(map(int, shape[1:])))  # type: ignore[arg-type]
