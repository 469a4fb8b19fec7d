"""Kinds of errors: confusion, calibration, residuals, also where there is little to tell."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.stats.diagnosis import MOST_CLASSES, OTHERS, confusion, reliability, residuals
from mlplatform.stats.labels import Answers


def test_confusion_counts_truth_down_and_answers_across() -> None:
    found = confusion(np.array(["a", "a", "b"]), np.array(["a", "b", "b"]), ["a", "b"])
    assert found.classes == ("a", "b")
    assert found.counts == ((1, 1), (0, 1))


def test_answers_that_are_no_class_are_others() -> None:
    found = confusion(np.array([0, 1]), np.array([0, 7]), [0, 1])
    assert found.classes == ("0", "1", OTHERS)
    assert found.counts == ((1, 0, 0), (0, 0, 1), (0, 0, 0))


def test_of_many_classes_the_most_frequent_are_told_apart() -> None:
    truth = np.repeat(np.arange(30), np.arange(1, 31))
    found = confusion(truth, truth, range(30))
    assert found.classes == (*map(str, range(30 - MOST_CLASSES, 30)), OTHERS)
    assert sum(map(sum, found.counts)) == len(truth)
    assert found.counts[0][0] == 19 and found.counts[-1][-1] == sum(range(1, 19))


def test_honest_probabilities_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    chance = rng.uniform(size=20_000)
    truth = (rng.uniform(size=20_000) < chance).astype(int)
    bins = reliability(truth, Answers(truth, np.column_stack([1 - chance, chance])), (0, 1))
    assert len(bins) == 10 and sum(b.n for b in bins) == 20_000
    assert all(b.observed == pytest.approx(b.predicted, abs=0.04) for b in bins)
    assert all(b.low <= b.observed <= b.high for b in bins)


def test_of_more_classes_the_answered_one_is_looked_at() -> None:
    scores = np.tile([0.6, 0.3, 0.1], (40, 1))
    truth = np.array([0] * 30 + [1] * 10)
    bins = reliability(truth, Answers(np.zeros(40, int), scores), (0, 1, 2))
    assert {round(b.predicted, 6) for b in bins} == {0.6}
    assert sum(b.observed * b.n for b in bins) == 30


def test_without_probabilities_or_rows_calibration_is_not_told() -> None:
    assert reliability(np.array([0, 1]), Answers(np.array([0, 1])), (0, 1)) == ()
    few = Answers(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]))
    assert reliability(np.array([0, 1]), few, (0, 1)) == ()


def test_residuals_hold_every_finite_row() -> None:
    truth = np.arange(1000.0)
    found = residuals(truth, truth + np.random.default_rng(0).normal(2, 1, 1000))
    assert found is not None
    assert sum(found.counts) + found.outside == 1000
    assert found.median == pytest.approx(2, abs=0.2)
    exact = residuals(truth, truth)
    assert exact is not None and exact.outside == 0 and exact.median == 0
    assert residuals(truth, np.full(1000, np.nan)) is None
