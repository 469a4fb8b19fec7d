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
"""Of the spread of the answers. Dynamic INT8 scales by the batch, so a row alone answers a little
differently.
"""
DIFFERING_ROWS = 0.1


def problems(task: Task, rows: int, batch: Outputs, alone: Outputs) -> tuple[str, ...]:
    """One sentence per fault. `batch`: the sample as one batch; `alone`: its first rows, each asked by
    itself.
    """
    if shape := _shape(task, rows, batch):
        return (shape,)
    found = [_kind(task, batch.predictions), _finite(batch), _scores(task, batch)]
    if not any(found):
        found = [_constant(task, rows, batch), _differing(batch, alone)]
    return tuple(sentence for sentence in found if sentence)


def _shape(task: Task, rows: int, batch: Outputs) -> str:
    shape = batch.predictions.shape
    if not shape or shape[0] != rows:
        return f"{rows} rows gave predictions of shape {shape}"
    width = 1 if len(shape) == 1 else shape[1] if len(shape) == 2 else 0
    wide = task.output in ("probabilities", "logits")
    fits = (width > 0 if not task.classes else width in (1, len(task.classes))) if wide else width == 1
    return "" if fits else f"predictions of kind {task.output} have shape {shape}"


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
            bad = int((~np.isfinite(values.reshape(len(values), -1))).any(axis=1).sum())
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
    within = (scores >= -1e-6).all() and (scores <= 1 + 1e-6).all()
    return "" if within else "probabilities are outside 0 to 1"


def _constant(task: Task, rows: int, batch: Outputs) -> str:
    values = batch.scores if batch.scores is not None else batch.predictions
    labels_only = batch.scores is None and task.output == "label"
    if rows < (LEAST_ROWS_LABELS if labels_only else LEAST_ROWS):
        return ""
    same = all(np.array_equal(row, values[0]) for row in values[1:])
    return f"all {rows} rows get the same answer" if same else ""


def _differing(batch: Outputs, alone: Outputs) -> str:
    rows = len(alone.predictions)
    whole, single = batch.predictions, alone.predictions
    if batch.scores is not None and alone.scores is not None:
        whole, single = batch.scores, alone.scores
    if single.shape != whole[:rows].shape:
        return f"a row alone answers with another shape than in a batch of {len(batch.predictions)}"
    if whole.dtype.kind == "f":
        spread = max(float(np.ptp(whole)), 1e-6)
        alike = np.abs(whole[:rows] - single) <= TOLERANCE * spread  # never so for what is no number
        differs = ~alike.reshape(rows, -1).all(axis=1)
    else:
        differs = (whole[:rows] != single).reshape(rows, -1).any(axis=1)
    count = int(differs.sum())
    if count <= DIFFERING_ROWS * rows:
        return ""
    return f"{count} of {rows} rows answer differently alone and in a batch"
