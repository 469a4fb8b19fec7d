"""Asking a fitted model, as a server will: one finite answer a row, or an error that says what to change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.batch import Array
from mlplatform.tracking.client import one_line

ASKED_BYTES = 16_000_000
"""Of the rows that a torch model is asked at once."""


def ask(model: Any, rows: Any) -> Array:
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
    return one_each(answers, len(rows))


def ask_torch(model: Any, tensors: Sequence[Array]) -> Array:
    """In parts: thousands of pictures at once may take more memory than there is."""
    import torch

    rows, parts = len(tensors[0]), []
    step = max(1, ASKED_BYTES * rows // max(1, sum(values.nbytes for values in tensors)))
    try:
        with torch.no_grad():
            for start in range(0, rows, step):
                some = [torch.from_numpy(values[start : start + step]) for values in tensors]
                parts.append(one_each(np.asarray(model(*some)), len(some[0])))
        return np.concatenate(parts)
    except Exception as error:
        raise error if isinstance(error, UsageError) else _fails(error) from error


def _fails(error: Exception) -> UsageError:
    return UsageError(
        what=f"the model fails on its own sample: {type(error).__name__}: {one_line(error)}",
        hint="Pass the columns it was fitted on, in their order and types; put encoders and model into one Pipeline.",
    )


def one_each(answers: Array, rows: int) -> Array:
    if answers.ndim not in (1, 2) or len(answers) != rows:
        raise UsageError(
            what=f"the model answers {rows} rows with shape {answers.shape}", hint="One answer per row."
        )
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        raise UsageError(what="the model answers its own sample with NaN or infinity", hint="Train it again.")
    return answers


def flat(answers: Array) -> Array:
    """Of shape (n, 1) as (n,), the way a server answers."""
    return answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers


def demand_same(given: Array, served: Array) -> None:
    same = np.allclose(given, served) if given.dtype.kind == "f" else np.array_equal(given, served)
    if not same:
        raise UsageError(
            what="the model answers differently once its rows have been plain numbers and text",
            hint="Categories and other special column types are lost on the way: encode them in a Pipeline.",
        )
