"""What a fitted model is: its task, what it answers, and whether it will answer the same in service."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mlplatform.domain.bundle import Column, Task
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.stats.labels import to_codes
from mlplatform.tracking import flavors, parts, saved
from mlplatform.tracking.client import one_line
from mlplatform.tracking.user_rows import UserRows, rebuild

Kind = Literal["classification", "regression"]


@dataclass(frozen=True)
class TrainingData:
    """Everything that was passed beside the model, in one signature's types."""

    inputs: tuple[Column, ...]
    target: str
    sample: UserRows
    holdout: UserRows
    holdout_truth: Array
    reference: UserRows
    reference_truth: Array
    trained_on: UserRows

    def feed(self, table: UserRows) -> Any:
        """The rows as a server will hand them to an estimator."""
        return rebuild(self.reference.original, table.cast(self.inputs))

    def matrix(self, table: UserRows) -> Array:
        """The rows as a float32 matrix, for torch."""
        return np.column_stack(list(table.cast(self.inputs).values())).astype(np.float32)


def describe(
    model: Any, data: TrainingData, kind: Kind | None = None, classes: Sequence[Any] | None = None
) -> parts.Description:
    """Task, runtime, options and requirements; UsageError for a model that does not fit its data."""
    describers = {"torch": _describe_torch, "sklearn": _describe_sklearn, saved.RUNTIME: _describe_saved}
    return describers[framework(model)](model, data, kind, classes)


def answer(model: Any, data: TrainingData, table: UserRows) -> Array:
    """What the model says to rows, as in service. UsageError when it fails."""
    if framework(model) == "torch":
        return _ask_torch(model, data.matrix(table))
    return _ask(model, data.feed(table))


def framework(model: Any) -> Literal["sklearn", "torch", "pyfunc"]:
    """How we know to log it; UsageError for others."""
    if isinstance(model, saved.SavedModel):
        return "pyfunc"
    names = {f"{c.__module__}.{c.__qualname__}" for c in type(model).__mro__}
    if "torch.nn.modules.module.Module" in names:
        return "torch"
    if "sklearn.base.BaseEstimator" in names:
        return "sklearn"
    raise UsageError(
        what=f"{type(model).__module__}.{type(model).__qualname__} is not a model that can be logged",
        hint="Pass a fitted scikit-learn estimator (or Pipeline), a torch.nn.Module, or the path of a model of any"
        " other kind, saved by MLflow.",
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """torch's dropout and batch norm behave as in service, and as before afterwards."""
    training = getattr(model, "training", None)
    if training is not True:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _describe_sklearn(
    model: Any, data: TrainingData, kind: Kind | None, classes: Sequence[Any] | None
) -> parts.Description:
    as_given, as_served = _ask(model, data.sample.original), _ask(model, data.feed(data.sample))
    _same_answers(as_given, as_served)
    found: Kind = "classification" if hasattr(model, "classes_") else "regression"
    if kind not in (None, found):
        raise UsageError(
            what=f"kind={kind!r}, but {type(model).__name__} is a {found} model", hint="Leave kind out."
        )
    if found == "regression":
        _numeric_truth(data, type(model).__name__)
        task = Task("regression", "value", (), data.target)
    else:
        known = model.classes_
        if isinstance(known, list):
            raise UsageError(what="the model has several outputs", hint="Log one model for each target.")
        task = Task("classification", "label", tuple(_plain(known)), data.target)
        _labels_known(data.holdout_truth, known)
    frames = data.reference.layout == "frame"
    pins = flavors.requirements("sklearn", frames)
    return parts.Description("sklearn", data.inputs, task, pins, {"layout": data.reference.layout})


def _describe_torch(
    model: Any, data: TrainingData, kind: Kind | None, classes: Sequence[Any] | None
) -> parts.Description:
    if text := [c.name for c in data.inputs if c.dtype in ("string", "datetime")]:
        raise UsageError(
            what=f"torch models take numbers; {text[0]} is {_dtype_of(data, text[0])}", hint="Encode it."
        )
    answers = _ask_torch(model, data.matrix(data.sample))
    whole = np.concatenate([data.reference_truth, data.holdout_truth])
    kind = kind or ("regression" if whole.dtype.kind == "f" else "classification")
    width = answers.shape[1] if answers.ndim == 2 else 1
    if kind == "regression":
        _numeric_truth(data, type(model).__name__)
        if width != 1:
            raise UsageError(
                what=f"the model gives {width} outputs per row for a number to predict",
                hint='Whole-number labels mean classes: pass them as integers, or kind="classification".',
            )
        task = Task("regression", "value", (), data.target)
    else:
        task = Task("classification", "logits", _torch_classes(whole, width, classes), data.target)
        _labels_known(data.holdout_truth, np.array(task.classes))
    options = {"layout": "matrix", "dtype": "float32"}
    return parts.Description("torch", data.inputs, task, flavors.requirements("torch"), options)


def _describe_saved(
    model: saved.SavedModel, data: TrainingData, kind: Kind | None, classes: Sequence[Any] | None
) -> parts.Description:
    answers = _ask(model, data.feed(data.sample))
    truth = np.concatenate([data.reference_truth, data.holdout_truth])
    kind = kind or ("regression" if truth.dtype.kind == "f" else "classification")
    if kind == "regression":
        _numeric_truth(data, "the model")
        task = Task("regression", "value", (), data.target)
    else:
        named = tuple(_plain(np.asarray(list(classes)) if classes is not None else np.unique(truth)))
        wide = answers.ndim == 2 and answers.shape[1] > 1
        if wide and answers.shape[1] != len(named):
            raise UsageError(
                what=f"the model answers {answers.shape[1]} numbers a row, y holds {len(named)} classes",
                hint="Pass classes=[...], in the order of the model's outputs.",
            )
        task = Task("classification", "probabilities" if wide else "label", named, data.target)
        _labels_known(data.holdout_truth, np.array(named))
    return parts.Description(saved.RUNTIME, data.inputs, task, model.requirements())


def _torch_classes(truth: Array, width: int, classes: Sequence[Any] | None) -> tuple[Any, ...]:
    outputs = max(width, 2)
    if classes is not None:
        named = tuple(_plain(np.asarray(list(classes))))
    else:
        seen = sorted(set(_plain(truth)))
        indexes = all(isinstance(v, int) and 0 <= v < outputs for v in seen)
        named = tuple(range(outputs)) if indexes and not isinstance(seen[0], bool) else tuple(seen)
    if len(named) != outputs:
        raise UsageError(
            what=f"the model tells {outputs} classes apart, y has {len(named)}: {list(named)[:10]}",
            hint="Pass classes=[...], in the order of the model's outputs.",
        )
    return named


def _ask(model: Any, rows: Any) -> Array:
    if not hasattr(model, "predict"):
        raise UsageError(
            what=f"{type(model).__name__} cannot predict", hint="Pass an estimator with `predict`."
        )
    try:
        answers = np.asarray(model.predict(rows))
    except Exception as error:
        if type(error).__name__ == "NotFittedError":
            raise UsageError(
                what=f"{type(model).__name__} is not fitted", hint="Call fit before logging it."
            ) from error
        raise _fails(error) from error
    return _one_each(answers, len(rows))


def _ask_torch(model: Any, matrix: Array) -> Array:
    import torch

    try:
        with torch.no_grad():
            answers = model(torch.from_numpy(matrix))
        return _one_each(np.asarray(answers), len(matrix))
    except Exception as error:
        raise error if isinstance(error, UsageError) else _fails(error) from error


def _fails(error: Exception) -> UsageError:
    return UsageError(
        what=f"the model fails on its own sample: {type(error).__name__}: {one_line(error)}",
        hint="Pass the columns it was fitted on, in their order and types; put encoders and model into one Pipeline.",
    )


def _one_each(answers: Array, rows: int) -> Array:
    if answers.ndim not in (1, 2) or len(answers) != rows:
        raise UsageError(
            what=f"the model answers {rows} rows with shape {answers.shape}", hint="One answer per row."
        )
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        raise UsageError(what="the model answers its own sample with NaN or infinity", hint="Train it again.")
    return answers


def _same_answers(given: Array, served: Array) -> None:
    same = np.allclose(given, served) if given.dtype.kind == "f" else np.array_equal(given, served)
    if not same:
        raise UsageError(
            what="the model answers differently once its rows have been plain numbers and text",
            hint="Categories and other special column types are lost on the way: encode them in a Pipeline.",
        )


def _numeric_truth(data: TrainingData, name: str) -> None:
    for what, truth in (("holdout", data.holdout_truth), ("reference", data.reference_truth)):
        if truth.dtype.kind not in "iuf":
            raise UsageError(
                what=f"{name} predicts numbers, y of {what} holds {_plain(truth)[0]!r}",
                hint="Pass numbers, or log a classifier.",
            )


def _labels_known(truth: Array, classes: Array) -> None:
    if (to_codes(truth, np.asarray(classes)) < 0).all():
        raise UsageError(
            what=f"no label of the holdout ({_plain(truth)[0]!r}) is a class of the model ({_plain(classes)[:5]})",
            hint="Encode y of holdout and reference as it was encoded for fit.",
        )


def _dtype_of(data: TrainingData, name: str) -> str:
    return next(c.dtype for c in data.inputs if c.name == name)


def _plain(values: Any) -> list[Any]:
    listed: list[Any] = np.asarray(values).tolist()
    return listed
