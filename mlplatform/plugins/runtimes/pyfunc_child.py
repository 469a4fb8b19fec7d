"""The process that runs a model's own code: loads an MLflow model of any flavor, then answers tables, one by one.

Started by `mlplatform.plugins.runtimes.pyfunc`. It gives up network, writing, programs and unlimited memory before
anything of the model is opened.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlplatform.plugins.runtimes import frames
from mlplatform.sandbox import Limits, enter
from mlplatform.stats.batch import Array, Batch, Outputs


class PyfuncModel:
    """A model as `mlflow.pyfunc` loads it. Loading runs its code."""

    def __init__(self, folder: Path) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(folder))
        self._schema = self._model.metadata.get_input_schema()

    def predict(self, batch: Batch) -> Outputs:
        given = self._given(batch.columns())
        return as_outputs(self._model.predict(given, params=_params(batch) or None))

    def _given(self, columns: Mapping[str, Array]) -> Any:
        """The rows as MLflow's own server hands them to a model: arrays for tensors, else a data frame."""
        schema = self._schema
        if schema is None or not schema.is_tensor_spec():
            return self._frame(columns)
        if not schema.has_input_names():
            ((_, values),) = columns.items()
            return np.array(values, dtype=schema.inputs[0].type)
        types = dict(zip(schema.input_names(), schema.input_types(), strict=True))
        return {name: np.array(values, dtype=types[name]) for name, values in columns.items()}

    def _frame(self, columns: Mapping[str, Array]) -> Any:
        import pandas

        named = self._schema.input_dict() if self._schema and self._schema.has_input_names() else {}
        given = {}
        for name, values in columns.items():
            wanted = named[name].type.to_numpy() if name in named else values.dtype
            if wanted.kind in "iub" and values.dtype.kind == "f" and np.isnan(values).all():
                continue  # an optional column that was not sent
            given[name] = values.astype(wanted) if wanted.kind in "iufb" else values
        return pandas.DataFrame(given)


def _params(batch: Batch) -> dict[str, Any]:
    """As MLflow's own server hands them on: it fills in defaults and reads times itself."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in batch.params}


def as_outputs(raw: Any) -> Outputs:
    """What a model returned, whichever kind of table, list or dictionary it is. TypeError for anything else."""
    if isinstance(raw, np.ndarray | list | tuple):
        return Outputs(_column(raw))
    if hasattr(raw, "to_frame"):  # a Series; MLflow's server shows it as a table
        raw = raw.to_frame()
    if hasattr(raw, "columns") and hasattr(raw, "to_numpy"):
        named = {str(name): _column(raw[name].to_numpy()) for name in raw.columns}
        return _several(named, "records")
    if hasattr(raw, "toarray"):  # a sparse matrix
        return Outputs(_column(raw.toarray()))
    if isinstance(raw, Mapping):
        return _several({str(name): _column(values) for name, values in raw.items()}, "dict")
    raise TypeError(f"the model answers with a {type(raw).__name__}, not one entry a row")


def _several(named: dict[str, Array], form: Any) -> Outputs:
    if not named:
        raise TypeError("the model answers nothing")
    (name, first), *others = named.items()
    return Outputs(first, None, dict(others), name, form)


def _column(values: Any) -> Array:
    """Numbers and booleans as they are; text, bytes and nested values as objects, times as text."""
    if isinstance(values, list | tuple):
        kinds = {type(value) for value in values}
        if kinds & {bytes, dict, type(None)} or kinds <= {str}:
            return _objects(list(values))
        try:
            values = np.array(values)
        except ValueError:  # rows of several lengths
            return _objects(list(values))
    found = np.asarray(values)
    if found.dtype.kind in "biuf":
        return found
    if found.dtype.kind == "M":
        return _objects(found.astype("datetime64[us]").tolist()).reshape(found.shape)
    return _objects(found.ravel().tolist()).reshape(found.shape)


def _objects(values: list[Any]) -> Array:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        missing = value is None or (isinstance(value, float) and value != value)
        out[i] = None if missing else value.isoformat() if hasattr(value, "isoformat") else value
    return out


# --- the process ----------------------------------------------------------------------------------------------------


def main() -> int:
    requests, replies = sys.stdin.buffer, _keep_stdout()
    model: PyfuncModel | None = None
    while True:
        try:
            head, arrays = frames.decode(lambda size: _exactly(requests, size))
        except EOFError:
            return 0
        try:
            if model is None:
                given_up = enter(Path(head["folder"]), Limits(**head["limits"]))
                model = PyfuncModel(Path(head["model"]))
                parts = frames.encode({"ok": True, "given_up": given_up}, {})
            else:
                params = tuple(head.get("params", {}).items())
                parts = _reply(model.predict(Batch(tuple(arrays), arrays=arrays, params=params)))
        except BaseException as error:  # also what a model's code calls to end its process
            if isinstance(error, SystemExit | KeyboardInterrupt):
                raise
            parts = frames.encode({"ok": False, "cause": _one_line(error)}, {})
        for part in parts:
            replies.write(part)
        replies.flush()
        if model is None:
            return 1


def _reply(outputs: Outputs) -> list[bytes]:
    head = {"ok": True, "name": outputs.name, "form": outputs.form, "several": outputs.others is not None}
    return frames.encode(head, {outputs.name: outputs.predictions, **(outputs.others or {})})


def _exactly(stream: IO[bytes], size: int) -> bytes:
    raw = stream.read(size)
    if len(raw) < size:
        raise EOFError
    return raw


def _keep_stdout() -> IO[bytes]:
    """The pipe to the worker; what a model prints goes to stderr, where it cannot be mistaken for an answer."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def _one_line(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "it needs more memory than it may have"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"


if __name__ == "__main__":
    sys.exit(main())
