"""What the serving check calls a problem."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.domain.bundle import Task
from mlplatform.evaluation.serving_check import problems
from mlplatform.stats.batch import Array, Outputs

LABELS = Task("classification", "label", ("no", "yes"))
VALUE = Task("regression", "value")
LOGITS = Task("classification", "logits", (0, 1, 2))
ROWS = 30


def healthy(rows: int = ROWS) -> Outputs:
    positive = np.linspace(0.1, 0.9, rows)
    labels = np.where(positive > 0.5, "yes", "no").astype(object)
    return Outputs(labels, np.column_stack([1 - positive, positive]))


def found(task: Task, batch: Outputs, alone: Outputs | None = None) -> str:
    return "; ".join(problems(task, len(batch.predictions), batch, alone or batch))


def test_a_healthy_model_has_no_problems() -> None:
    assert found(LABELS, healthy()) == ""
    assert found(VALUE, Outputs(np.arange(5.0))) == ""
    assert found(LOGITS, Outputs(np.random.default_rng(0).normal(size=(9, 3)))) == ""


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_answers_that_are_not_finite_are_a_problem(bad: float) -> None:
    values = np.arange(5.0)
    values[2] = bad
    assert "predictions of 1 of 5 sample rows are not finite" in found(VALUE, Outputs(values))
    scores = np.full((5, 2), 0.5)
    scores[1, 0] = bad
    assert "not finite" in found(LABELS, Outputs(healthy(5).predictions, scores))


@pytest.mark.parametrize(
    ("task", "predictions"),
    [
        (VALUE, np.zeros((4, 3))),
        (LOGITS, np.zeros((4, 2))),
        (LABELS, np.full((4, 2), "no", dtype=object)),
        (VALUE, np.zeros((4, 2, 2))),
    ],
)
def test_another_shape_than_declared_is_a_problem(task: Task, predictions: Array) -> None:
    assert "shape" in found(task, Outputs(predictions))


def test_fewer_answers_than_rows_are_a_problem() -> None:
    assert "4 rows gave predictions of shape (3,)" in problems(
        VALUE, 4, Outputs(np.zeros(3)), Outputs(np.zeros(3))
    )


def test_labels_outside_the_classes_and_text_for_numbers_are_problems() -> None:
    strange = healthy()
    strange.predictions[3] = "maybe"
    assert "'maybe' is none of the task's classes" in found(LABELS, strange)
    assert "not numbers" in found(VALUE, Outputs(np.array(["a", "b"])))


def test_scores_that_are_no_probabilities_are_a_problem() -> None:
    labels = healthy().predictions
    assert "add up to 1" in found(LABELS, Outputs(labels, np.random.default_rng(0).random((ROWS, 2))))
    assert "3 columns for 2 classes" in found(LABELS, Outputs(labels, np.full((ROWS, 3), 1 / 3)))
    assert "outside 0 to 1" in found(LABELS, Outputs(labels, np.tile([1.5, -0.5], (ROWS, 1))))


def test_a_constant_is_a_problem_unless_the_rows_are_few() -> None:
    assert "same answer" in found(VALUE, Outputs(np.ones(3)))
    assert found(VALUE, Outputs(np.ones(2))) == ""
    rare = Outputs(np.full(8, "no", dtype=object))
    assert found(LABELS, rare) == "", "eight rows of one label may be chance"
    assert "same answer" in found(LABELS, Outputs(np.full(20, "no", dtype=object)))


def test_rows_that_are_no_numbers_only_when_alone_are_a_problem() -> None:
    whole, alone = np.arange(5.0), np.full(5, np.nan)
    assert "5 of 5 rows answer differently alone" in found(VALUE, Outputs(whole), Outputs(alone))


def test_rows_that_answer_differently_alone_are_a_problem() -> None:
    whole = healthy()
    assert whole.scores is not None
    mixed = Outputs(whole.predictions[::-1], whole.scores[::-1])
    assert "answer differently alone" in found(LABELS, whole, mixed)
    nearly = Outputs(whole.predictions, whole.scores + 0.01)
    assert found(LABELS, whole, nearly) == "", "dynamic INT8 scales by the batch"
