"""Subjects for gates: an ordinary one, and every awkward one that a gate has to survive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, FileEntry, Manifest, Task
from mlplatform.domain.version import Version
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.ports.extensions import Subject
from mlplatform.stats.batch import Array
from mlplatform.stats.labels import Answers

_MEASURED = (
    "answers",
    "incumbent_answers",
    "serving",
    "cost",
    "incumbent_cost",
    "latency",
    "rows_offered",
    "seen_in_training",
    "seen_by_incumbent",
    "newest_row",
    "trained_at",
    "now",
)


def make_subject(
    rows: int = 400, seed: int = 0, skill: float = 0.85, incumbent_skill: float = 0.85
) -> Subject:
    """A two-class subject, fully measured. `skill`: the share of rows that are answered right, more or
    less.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, rows)
    manifest = Manifest(
        "onnx",
        "model/model.onnx",
        (Column("x", "double"),),
        Task("classification", "label", (0, 1)),
        {"model/model.onnx": FileEntry("0" * 64, 2_000_000)},
    )
    return Subject(
        version=make_version(2),
        manifest=manifest,
        incumbent=make_version(1),
        incumbent_manifest=manifest,
        data="holdout of run 1a2b",
        seed=seed,
        columns={"x": rng.normal(size=rows), "group": _groups(rows)},
        truth=truth,
        answers=_answers(rng, truth, skill),
        incumbent_answers=_answers(rng, truth, incumbent_skill),
        serving=ServingReport((), 200.0, 0.05, 60_000_000),
        cost=Cost(10.0, 60_000_000),
        incumbent_cost=Cost(12.0, 70_000_000),
        latency=Latency(0.2, 0.15, 0.3, 2000, 0.0),
        rows_offered=rows,
        seen_in_training=0,
        seen_by_incumbent=0,
        newest_row=datetime(2026, 1, 9, tzinfo=UTC),
        trained_at=datetime(2026, 1, 1, tzinfo=UTC),
        now=datetime(2026, 1, 10, tzinfo=UTC),
    )


def _groups(rows: int) -> Array:
    """Two groups, and a few rows whose group is not known; no feature of the model."""
    names: Array = np.array(["blue", "red", "red"], dtype=object)[np.arange(rows) % 3]
    names[::100] = None
    return names


def make_version(number: int) -> Version:
    return Version(
        "churn",
        number,
        f"{number:064x}",
        "onnx",
        f"run{number}",
        datetime(2026, 1, 1, tzinfo=UTC),
        "os:ada",
        2_000_000,
    )


def awkward_subjects() -> Mapping[str, Subject]:
    """By what is awkward about them."""
    whole = make_subject()
    answers = whole.answers
    assert answers is not None and answers.scores is not None
    holes = np.where(np.arange(len(answers.scores))[:, None] % 50 == 0, np.nan, answers.scores)
    subjects: dict[str, Subject] = {f"{rows} rows": make_subject(rows) for rows in (0, 1, 2, 3, 30)}
    subjects["no incumbent"] = replace(
        whole, incumbent=None, incumbent_manifest=None, incumbent_answers=None, incumbent_cost=None
    )
    subjects["one class"] = replace(whole, truth=np.zeros_like(whole.truth))
    subjects["scores that are not numbers"] = replace(whole, answers=Answers(answers.labels, holes))
    subjects["no scores"] = replace(
        whole, answers=Answers(answers.labels), incumbent_answers=Answers(answers.labels)
    )
    nothing: dict[str, Any] = dict.fromkeys(_MEASURED)
    subjects["nothing measured"] = replace(whole, **nothing)
    subjects["an incumbent that was not measured"] = replace(
        whole, incumbent_answers=None, incumbent_cost=None
    )
    subjects["constant answers"] = replace(
        whole, answers=Answers(np.zeros_like(answers.labels), np.full_like(answers.scores, 0.5))
    )
    subjects["a label that nobody declared"] = replace(
        whole, truth=np.where(np.arange(len(whole.truth)) == 0, 7, whole.truth)
    )
    subjects["text labels"] = _renamed(whole)
    subjects["a group for each row"] = replace(
        whole, columns={**whole.columns, "group": np.arange(len(whole.truth)).astype(str).astype(object)}
    )
    subjects["no group that is known"] = replace(
        whole, columns={**whole.columns, "group": np.full(len(whole.truth), None, object)}
    )
    subjects["no column to group by"] = replace(whole, columns={"x": whole.columns["x"]})
    subjects["an incumbent of another kind"] = replace(
        whole, incumbent_manifest=replace(whole.manifest, inputs=(), task=Task("regression", "value"))
    )
    subjects["a regression"] = _regression(whole)
    subjects["a model that does not load"] = replace(
        whole, serving=ServingReport(("an error: it is broken",), 0.0, 0.0, 0)
    )
    return subjects


def _answers(rng: np.random.Generator, truth: Array, skill: float) -> Answers:
    right = rng.random(len(truth)) < skill
    labels = np.where(right, truth, 1 - truth)
    sure = 0.5 + rng.random(len(truth)) / 2
    positive = np.where(labels == 1, sure, 1 - sure)
    return Answers(labels, np.column_stack([1 - positive, positive]))


def _renamed(subject: Subject) -> Subject:
    """The same with "no" and "yes" as object arrays, as tables hand them over."""
    names = np.array(["no", "yes"], dtype=object)
    changes: dict[str, Any] = {"truth": names[subject.truth]}
    for field in ("answers", "incumbent_answers"):
        answers = getattr(subject, field)
        changes[field] = Answers(names[answers.labels], answers.scores)
    task = Task("classification", "label", ("no", "yes"))
    manifest = replace(subject.manifest, task=task)
    return replace(subject, manifest=manifest, incumbent_manifest=manifest, **changes)


def _regression(subject: Subject) -> Subject:
    rng = np.random.default_rng(1)
    truth = rng.normal(size=len(subject.truth))
    noisy = [Answers(truth + rng.normal(scale=0.1, size=len(truth))) for _ in range(2)]
    manifest = replace(subject.manifest, task=Task("regression", "value"))
    return replace(
        subject,
        manifest=manifest,
        incumbent_manifest=manifest,
        truth=truth,
        answers=noisy[0],
        incumbent_answers=noisy[1],
    )
