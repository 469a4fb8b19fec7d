"""What the gates that judge quality share: sentences, measurements that can be stored, answers in one
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlplatform.domain.verdict import Measurement, Verdict
from mlplatform.errors import MlplatformError, UnknownName, nearest
from mlplatform.ports.extensions import Subject
from mlplatform.stats.labels import Answers, in_class_order
from mlplatform.stats.metrics import METRICS
from mlplatform.stats.slices import MOST_VALUES, Slice, slices_of

NAMED = 5
"""Slices, groups or columns that a sentence names."""


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


def check_min_n(min_n: int) -> None:
    if min_n < 1:
        raise ValueError(f"min_n must be at least 1, not {min_n}")


def check_bins(bins: int) -> None:
    if bins < 0 or bins == 1 or bins > MOST_VALUES:
        raise ValueError(f"bins must be 0 or 2 to {MOST_VALUES}, not {bins}")


def unready(name: str, subject: Subject) -> tuple[Verdict, str] | None:
    """Why a metric of the candidate cannot be judged at all."""
    if subject.answers is None:
        return Verdict.ERROR, "the candidate's answers were not measured"
    if why := unfit(name, subject):
        return Verdict.ERROR, why
    if bad := not_finite(subject.answers):
        return Verdict.FAIL, f"{bad} of {len(subject.truth)} answers are not finite numbers"
    return None


def uncompared(subject: Subject) -> str:
    """Why there is nothing to compare the candidate with, where there is an incumbent; or ""."""
    before = incumbent_answers(subject)
    if before is None:
        return subject.incumbent_unmeasured or "candidate and incumbent were not both measured"
    bad = not_finite(before)
    return f"{bad} answers of the incumbent are not finite numbers" if bad else ""


def groups(subject: Subject, column: str, bins: int = 0) -> list[Slice]:
    """The subject's rows by a column's values. UnknownName, with the nearest name; ValueError for too many values."""
    if column not in subject.columns:
        raise UnknownName("column of the evaluation rows", column, subject.columns, _hint(subject, column))
    return slices_of(column, np.asarray(subject.columns[column]), bins)


def _hint(subject: Subject, column: str) -> str:
    """Where a column comes from that is no feature of the model."""
    near = nearest(column, subject.columns)
    if near.startswith("Did you mean"):
        return near
    return f"{near} Others come with the holdout (`log_candidate(..., context=...)`) or are captured ([data] context)."


def told(error: Exception) -> str:
    """An error and what to do about it, in one line."""
    hint = error.next_step if isinstance(error, MlplatformError) else ""
    return " ".join(f"{error}. {hint}".split()) if hint else " ".join(str(error).split())


def some(parts: Sequence[str], separator: str = "; ") -> str:
    """The first of many, and how many more there are."""
    more = len(parts) - NAMED
    return separator.join(parts[:NAMED]) + (f"{separator}and {more} more" if more > 0 else "")


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
    if answers is None or manifest is None:
        return answers
    return in_class_order(answers, manifest.task.classes, classes_of(subject) or ())
