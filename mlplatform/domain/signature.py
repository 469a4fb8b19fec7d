"""The signature that MLflow keeps beside a model, in MLflow's own JSON: what of it no runtime here takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

_TENSOR = "Give it as a tensor (mlflow.types.TensorSpec, rows first), or flatten it into columns of one value a row."
_NESTED = "Flatten it into columns of one value a row, or let the model take it as JSON in a string column."
_HINTS = {
    "array": _TENSOR,
    "sparkml_vector": _TENSOR,
    "object": _NESTED,
    "map": _NESTED,
    "any": "Give it a type: MLflow infers AnyType where a column of the example holds no values.",
}
_NAMES = {"any": "AnyType", "object": "Object", "sparkml_vector": "SparkMLVector"}


def foreign_column(inputs: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Of the first input whose type is not served: what is wrong, and what to do. ValueError where inputs are none."""
    for i, spec in enumerate(inputs):
        if (hint := _HINTS.get(_kind(spec))) is not None:
            where = f"column {spec.get('name', i)} of the model's signature"
            return f"{where} is of MLflow's type {_type(spec)}, which is not served", hint
    return None


def foreign_parameter(params: Iterable[Mapping[str, Any]]) -> tuple[str, str] | None:
    """Of the first parameter that is not served: what is wrong, and what to do. ValueError where they are none."""
    for spec in params:
        known = _kind(spec) not in _HINTS
        where = f"parameter {spec.get('name')} of the model's signature"
        if not known:
            return (
                f"{where} is of MLflow's type {_type(spec)}, which is not served",
                "Let it be text that holds JSON.",
            )
        default = spec.get("default")
        values = default if isinstance(default, list) else [default]
        if any(isinstance(value, float) and not math.isfinite(value) for value in values):
            return (
                f"{where} has the default {default}, which JSON does not know",
                "Give it a finite default, or null.",
            )
    return None


def _type(spec: Mapping[str, Any]) -> str:
    """As MLflow writes it: `Array(long)`, `Map(string -> double)`."""
    kind = _kind(spec)
    if kind == "array":
        return f"Array({_type(spec.get('items', {}))})"
    if kind == "map":
        return f"Map(string -> {_type(spec.get('values', {}))})"
    return _NAMES.get(kind, kind)


def _kind(spec: Any) -> str:
    if not isinstance(spec, Mapping):
        raise ValueError("an input is no object")
    return str(spec.get("type", "unknown"))
