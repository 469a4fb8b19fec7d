"""What is wrong with a bundle's answers to its own sample. Pure: the child answers, this judges."""

from __future__ import annotations

import numpy as np

from mlplatform.domain.bundle import Task
from mlplatform.stats.batch import Array, Outputs
from mlplatform.stats.labels import to_codes

LEAST_ROWS = 3
"""Fewer rows may answer alike."""
LEAST_ROWS_LABELS = 20
"""Fewer rows may have one label: a rare class is rare."""
TOLERANCE = 0.05
"""Of the spread of the answers. Dynamic INT8 scales by the batch, so a row alone answers a little differently."""
DIFFERING_ROWS = 0.1


def problems(task: Task, rows: int, batch: Outputs, alone: Outputs) -> tuple[str, ...]:
    """One sentence per fault. `batch`: the sample as one batch; `alone`: its first rows, each asked by itself."""
    if shape := _shape(task, rows, batch):
        return (shape,)
    found = [_kind(task, batch.predictions), _finite(batch), _scores(task, batch)]
    if not any(found):
        found = [_constant(task, rows, batch), _differing(batch, alone)]
    return tuple(sentence for sentence in found if sentence)


def _shape(task: Task, rows: int, batch: Outputs) -> str:
    shape = batch.predictions.shape
    width = 1 if len(shape) == 1 else shape[1] if len(shape) == 2 else 0
    if not shape or shape[0] != rows:
        return f"{rows} rows gave predictions of shape {shape}"
    allowed = {1, max(len(task.classes), 1)} if task.output in ("probabilities", "logits") else {1}
    if task.output in ("probabilities", "logits") and not task.classes:
        return "" if width else f"predictions have shape {shape}"
    return "" if width in allowed else f"predictions have shape {shape}, the task has {task.output} of {allowed} columns"


def _kind(task: Task, predictions: Array) -> str:
    if task.output != "label":
        return "" if predictions.dtype.kind in "biuf" else f"predictions are {predictions.dtype}, not numbers"
    if not task.classes:
        return ""
    unknown = to_codes(predictions.reshape(-1), np.asarray(task.classes, dtype=object)) < 0
    return f"{predictions.reshape(-1)[unknown][0]!r} is none of the task's classes" if unknown.any() else ""


def _finite(batch: Outputs) -> str:
    for name, values in (("predictions", batch.predictions), ("scores", batch.scores)):
        if values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
            return f"{name} of {bad} of {len(values)} sample rows are not finite"
    return ""


def _scores(task: Task, batch: Outputs) -> str:
    scores = batch.predictions if task.output == "probabilities" else batch.scores
    if scores is None:
        return ""
    if scores.dtype.kind != "f" or len(scores) != len(batch.predictions) or scores.ndim > 2:
        return f"scores are {scores.dtype} of shape {scores.shape}"
    if scores.ndim == 2 and scores.shape[1] > 1:
        if task.classes and scores.shape[1] != len(task.classes):
            return f"scores have {scores.shape[1]} columns for {len(task.classes)} classes"
        if not np.allclose(scores.sum(axis=1), 1.0, atol=1e-2):
            return "the probabilities of a row do not add up to 1"
    return "" if (scores >= -1e-6).all() and (scores <= 1 + 1e-6).all() else "probabilities are outside 0 to 1"


def _constant(task: Task, rows: int, batch: Outputs) -> str:
    values = batch.scores if batch.scores is not None else batch.predictions
    labels_only = batch.scores is None and task.output == "label"
    if rows < (LEAST_ROWS_LABELS if labels_only else LEAST_ROWS):
        return ""
    same = all(np.array_equal(row, values[0]) for row in values[1:])
    return f"all {rows} rows get the same answer" if same else ""


def _differing(batch: Outputs, alone: Outputs) -> str:
    rows = len(alone.predictions)
    pair = (batch.scores, alone.scores) if alone.scores is not None else (batch.predictions, alone.predictions)
    whole, single = pair
    if whole is None or single is None or single.shape != whole[:rows].shape:
        return f"a row alone answers with another shape than in a batch of {len(batch.predictions)}"
    if whole.dtype.kind == "f":
        spread = max(float(np.ptp(whole)), 1e-6)
        differs = (np.abs(whole[:rows] - single) > TOLERANCE * spread).reshape(rows, -1).any(axis=1)
    else:
        differs = (whole[:rows] != single).reshape(rows, -1).any(axis=1)
    count = int(differs.sum())
    return f"{count} of {rows} rows answer differently alone and in a batch" if count > DIFFERING_ROWS * rows else ""
