"""What a fitted model is: its task, what it answers, and whether it will answer the same in service."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mlplatform.domain.bundle import Column, Dtype, Task
from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.stats.labels import to_codes
from mlplatform.tracking import flavors, graphs, parts, saved
from mlplatform.tracking.asking import ask, ask_torch, demand_same, flat, one_each
from mlplatform.tracking.user_rows import TENSOR, UserRows, rebuild

Kind = Literal["classification", "regression"]
_FLOATS = ("float", "double", "float16")


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

    def tensors(self, table: UserRows) -> list[Array]:
        """The rows as torch takes them: a tensor for each input, or one float32 matrix of all columns."""
        columns = list(table.cast(self.inputs).values())
        if self.reference.layout == "tensors":
            return [np.array(values) for values in columns]  # torch warns of arrays that it may not write to
        return [np.column_stack(columns).astype(np.float32)]

    def taken_by(self, model: Any) -> TrainingData:
        """With the inputs in the model's own order and types. UsageError where they are not its inputs."""
        if isinstance(model, saved.SavedModel):
            return replace(self, inputs=model.inputs(self.inputs))
        if isinstance(model, graphs.Graph) and self.reference.layout == "tensors":
            return replace(self, inputs=model.typed(self.inputs))
        if self.reference.layout == "tensors" and framework(model) == "torch":
            return replace(self, inputs=_torch_inputs(model, self.inputs))
        return self


def describe(
    model: Any, data: TrainingData, kind: Kind | None = None, classes: Sequence[Any] | None = None
) -> parts.Description:
    """Task, runtime, options and requirements; UsageError for a model that does not fit its data."""
    describers = {
        "onnx": _describe_onnx,
        "torch": _describe_torch,
        "sklearn": _describe_sklearn,
        saved.RUNTIME: _describe_saved,
    }
    return describers[framework(model)](model, data, kind, classes)


def answer(model: Any, data: TrainingData, table: UserRows) -> Array:
    """What the model says to rows, as in service. UsageError when it fails."""
    if framework(model) == "torch":
        return ask_torch(model, data.tensors(table))
    if isinstance(model, graphs.Graph):
        return one_each(flat(model.ask(table.cast(data.inputs))[0]), table.rows)
    return ask(model, data.feed(table))


def framework(model: Any) -> Literal["sklearn", "torch", "onnx", "pyfunc"]:
    """How we know to log it; UsageError for others."""
    if isinstance(model, saved.SavedModel):
        return "pyfunc"
    if isinstance(model, graphs.Graph):
        return "onnx"
    names = {f"{c.__module__}.{c.__qualname__}" for c in type(model).__mro__}
    if "torch.nn.modules.module.Module" in names:
        return "torch"
    if "sklearn.base.BaseEstimator" in names:
        return "sklearn"
    raise UsageError(
        what=f"{type(model).__module__}.{type(model).__qualname__} is not a model that can be logged",
        hint="Pass a fitted scikit-learn estimator (or Pipeline), a torch.nn.Module, an ONNX ModelProto, or the"
        " path of a model of any other kind, saved by MLflow.",
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
    if data.reference.layout == "tensors":
        raise UsageError(
            what=f"{type(model).__name__} takes tables, and X holds tensors: "
            + ", ".join(f"{c.name} {list(c.shape)}" for c in data.inputs),
            hint="Fit it on X.reshape(len(X), -1), and pass that; or pass a torch.nn.Module.",
        )
    as_given, as_served = ask(model, data.sample.original), ask(model, data.feed(data.sample))
    demand_same(as_given, as_served)
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
    answers = ask_torch(model, data.tensors(data.sample))
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
    tensors = data.reference.layout == "tensors"
    options = {"layout": "tensors"} if tensors else {"layout": "matrix", "dtype": "float32"}
    return parts.Description("torch", data.inputs, task, flavors.requirements("torch"), options)


def _describe_onnx(
    model: graphs.Graph, data: TrainingData, kind: Kind | None, classes: Sequence[Any] | None
) -> parts.Description:
    first, *others = model.ask(data.sample.cast(data.inputs))
    answers = one_each(flat(first), data.sample.rows)
    truth = np.concatenate([data.reference_truth, data.holdout_truth])
    kind = kind or ("regression" if truth.dtype.kind == "f" else "classification")
    outputs = {"predictions": model.outputs[0]}
    if kind == "regression":
        _numeric_truth(data, "the graph")
        task = Task("regression", "value", (), data.target)
    elif answers.dtype.kind == "f":
        width = answers.shape[1] if answers.ndim == 2 else 1
        sums = answers.sum(axis=1) if answers.ndim == 2 else np.zeros(1)
        sure = width > 1 and bool((answers >= 0).all() and np.allclose(sums, 1, atol=1e-3))
        named = _torch_classes(truth, width, classes)
        task = Task("classification", "probabilities" if sure else "logits", named, data.target)
    else:
        named = tuple(_plain(np.asarray(list(classes)) if classes is not None else np.unique(truth)))
        task = Task("classification", "label", named, data.target)
        if others and others[0].dtype.kind == "f" and others[0].shape == (len(answers), len(named)):
            outputs["scores"] = model.outputs[1]
    if task.kind == "classification":
        _labels_known(data.holdout_truth, np.array(task.classes))
    named_inputs = data.reference.layout == "tensors" or len(model.inputs) > 1
    options = {"layout": "named" if named_inputs else "matrix", "outputs": outputs}
    return parts.Description("onnx", data.inputs, task, {}, options)


def _describe_saved(
    model: saved.SavedModel, data: TrainingData, kind: Kind | None, classes: Sequence[Any] | None
) -> parts.Description:
    answers = ask(model, data.feed(data.sample))
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
    return parts.Description(saved.RUNTIME, data.inputs, task, model.requirements(), params=model.params())


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


def _torch_inputs(model: Any, inputs: Sequence[Column]) -> tuple[Column, ...]:
    """Floats as the model computes with them, for arrays are double where nobody took care; several by their names."""
    kind = _float_of(model)
    typed = {c.name: replace(c, dtype=kind) if c.dtype in _FLOATS else c for c in inputs}
    if len(typed) == 1:
        return tuple(typed.values())
    wanted = _parameters(model)
    if set(wanted) != set(typed):
        raise UsageError(
            what=f"forward of {type(model).__name__} takes {', '.join(wanted)}; X has {', '.join(typed)}",
            hint="Name the arrays of X as the arguments of forward.",
        )
    return tuple(typed[name] for name in wanted)


def _float_of(model: Any) -> Dtype:
    kinds = [str(p.dtype) for p in model.parameters() if p.is_floating_point()]
    return (
        "double"
        if kinds[:1] == ["torch.float64"]
        else "float16"
        if kinds[:1] == ["torch.float16"]
        else "float"
    )


def _parameters(model: Any) -> list[str]:
    """Names of what `forward` takes."""
    named = inspect.signature(model.forward).parameters.values()
    return [one.name for one in named if one.kind is one.POSITIONAL_OR_KEYWORD]


def tensor_name(model: Any) -> str:
    """What the model calls its one tensor; a name of ours where it does not say."""
    if isinstance(model, saved.SavedModel):
        return model.only_input or TENSOR
    if isinstance(model, graphs.Graph):
        return model.inputs[0] if len(model.inputs) == 1 else TENSOR
    names = _parameters(model) if framework(model) == "torch" else []
    return names[0] if names else TENSOR


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
