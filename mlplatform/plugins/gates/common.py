"""What the gates that judge quality share: sentences, measurements that can be stored, answers in one
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlplatform.domain.verdict import Measurement
from mlplatform.ports.extensions import Subject
from mlplatform.stats.labels import Answers, to_codes
from mlplatform.stats.metrics import METRICS


def check_metric(name: str) -> None:
    """ValueError that names the option."""
    if name not in METRICS:
        raise ValueError(f"name must be one of {', '.join(METRICS)}, not {name!r}")


def check_confidence(confidence: float) -> None:
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence must be between 0.5 and 1, not {confidence}")


def check_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0, not {value}")


def unfit(name: str, subject: Subject) -> str:
    """Why a metric has no meaning for the task, or ""."""
    kind = "regression" if METRICS[name].needs == "values" else "classification"
    return (
        ""
        if subject.manifest.task.kind == kind
        else f"{name} is for {kind}, the task is {subject.manifest.task.kind}"
    )


def measured(
    name: str,
    value: float,
    low: float = math.nan,
    high: float = math.nan,
    n: int | None = None,
    unit: str = "",
) -> tuple[Measurement, ...]:
    """One measurement, without the bounds that are infinite; none for a value that is not a number."""
    if not math.isfinite(value):
        return ()
    bounds = [float(bound) if math.isfinite(bound) else None for bound in (low, high)]
    return (Measurement(name, float(value), bounds[0], bounds[1], None if n is None else int(n), unit),)


def not_finite(answers: Answers) -> int:
    """Rows whose scores or values are not finite numbers."""
    bad = np.zeros(len(answers.labels), np.bool_)
    for values in (answers.labels, answers.scores):
        if values is not None and np.asarray(values).dtype.kind == "f":
            finite = np.isfinite(values)
            bad |= ~(finite.all(axis=1) if finite.ndim == 2 else finite)
    return int(bad.sum())


def classes_of(subject: Subject) -> list[Any] | None:
    """The candidate's classes in the order of its scores; None for a regression or where none were
    declared.
    """
    return list(subject.manifest.task.classes) or None


def incumbent_answers(subject: Subject) -> Answers | None:
    """The incumbent's answers with its scores in the order of the candidate's classes."""
    answers, manifest = subject.incumbent_answers, subject.incumbent_manifest
    wanted = classes_of(subject)
    own: Sequence[Any] = manifest.task.classes if manifest else ()
    if answers is None or answers.scores is None or wanted is None or not own or list(own) == wanted:
        return answers
    if answers.scores.shape[1] != len(own):
        return answers
    place = to_codes(np.asarray(wanted, dtype=object), np.asarray(own, dtype=object))
    # A class that the incumbent never knew has probability zero there.
    scores = np.where(place >= 0, answers.scores[:, np.maximum(place, 0)], 0.0)
    return Answers(answers.labels, scores)
