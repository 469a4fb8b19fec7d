"""Metrics against scikit-learn, intervals by simulation, quality without labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.isotonic import IsotonicRegression

from mlplatform.errors import UsageError
from mlplatform.stats.calibrate import Calibrator, isotonic
from mlplatform.stats.estimate import METRICS, QualityEstimator, estimate_accuracy, interval, wilson
from mlplatform.stats.labels import Answers


def classified(n: int, classes: int, seed: int) -> tuple[np.ndarray, Answers]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    scores = rng.dirichlet(np.ones(classes), n) + 0.4 * np.eye(classes)[y]
    scores /= scores.sum(axis=1, keepdims=True)
    return y, Answers(scores.argmax(axis=1), scores)


@pytest.mark.parametrize("classes", [2, 4])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_classification_metrics_equal_those_of_scikit_learn(classes, seed) -> None:
    y, answers = classified(80, classes, seed)
    p, s = answers.labels, answers.scores
    average = "binary" if classes == 2 else "macro"
    area = sk.roc_auc_score(y, s[:, 1]) if classes == 2 else sk.roc_auc_score(y, s, multi_class="ovr")
    expected = {
        "accuracy": sk.accuracy_score(y, p),
        "balanced_accuracy": sk.balanced_accuracy_score(y, p),
        "f1": sk.f1_score(y, p, average=average),
        "auc": area,
        "log_loss": sk.log_loss(y, s),
        "brier": ((s - np.eye(classes)[y]) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1),
    }
    for name, value in expected.items():
        assert METRICS[name](y, p, s) == pytest.approx(value), name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=50))
def test_regression_metrics_equal_those_of_scikit_learn(rows) -> None:
    y, p = (np.array(side) for side in zip(*rows, strict=True))
    assert METRICS["mae"](y, p) == pytest.approx(sk.mean_absolute_error(y, p))
    assert METRICS["rmse"](y, p) == pytest.approx(sk.root_mean_squared_error(y, p))
    if y.std() > 1e-3:
        assert METRICS["r2"](y, p) == pytest.approx(sk.r2_score(y, p), rel=1e-6, abs=1e-6)


def test_the_mean_of_the_losses_per_row_is_the_metric() -> None:
    y, answers = classified(100, 3, 1)
    for name in ("log_loss", "brier"):
        assert METRICS[name].per_row_loss(y, answers).mean() == pytest.approx(METRICS[name].of(y, answers))
    assert 1 - METRICS["accuracy"].per_row_loss(y, answers).mean() == pytest.approx(
        METRICS["accuracy"].of(y, answers)
    )
    assert METRICS["f1"].per_row_loss(y, answers) is None


def test_labels_may_be_text_and_an_unknown_answer_is_wrong() -> None:
    y = np.array(["cat", "dog", "dog"])
    assert METRICS["accuracy"](y, np.array(["cat", "dog", "fox"]), classes=["cat", "dog"]) == pytest.approx(
        2 / 3
    )


def test_a_metric_of_scores_refuses_a_model_without_scores() -> None:
    with pytest.raises(UsageError, match="needs probabilities"):
        METRICS["auc"].of(np.array([0, 1]), Answers(np.array([0, 1])))


def test_a_metric_without_rows_is_nan() -> None:
    assert all(
        math.isnan(interval(m, np.zeros(0), Answers(np.zeros(0), np.zeros((0, 2)))).value)
        for m in METRICS.values()
    )


@pytest.mark.parametrize("metric", list(METRICS))
def test_intervals_cover_the_truth_about_as_often_as_stated(metric) -> None:
    def draw(n: int, seed: int) -> tuple[np.ndarray, Answers]:
        if METRICS[metric].needs != "values":
            return classified(n, 2, seed)
        rng = np.random.default_rng(seed)
        y = rng.standard_normal(n)
        return y, Answers(y + 0.5 * rng.standard_normal(n))

    truth = METRICS[metric].of(*draw(400_000, 0))
    found = [interval(metric, *draw(80, 1 + i), confidence=0.9, seed=i) for i in range(200)]
    covered = np.mean([item.low <= truth <= item.high for item in found])
    assert 0.83 <= covered <= 0.97


def test_wilson_stays_within_zero_and_one() -> None:
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert wilson(0, 0).high == 1


# ---- calibration


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=2, max_size=80))
def test_isotonic_calibration_equals_that_of_scikit_learn(rows) -> None:
    scores, outcomes = (np.array(side, float) for side in zip(*rows, strict=True))
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, outcomes)
    grid = np.linspace(-1, 21, 50)
    assert isotonic(scores, outcomes)(grid) == pytest.approx(theirs.predict(grid), abs=1e-9)


def test_a_calibrator_survives_as_plain_data() -> None:
    curve = isotonic(np.arange(10), np.arange(10) > 4)
    assert (Calibrator.from_dict(curve.to_dict())(np.arange(10)) == curve(np.arange(10))).all()


def test_accuracy_is_estimated_without_labels_when_the_mix_of_rows_changes() -> None:
    def draw(n: int, hard: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        margin = np.where(rng.random(n) < hard, 0.3, 3.0) * rng.choice([-1, 1], n)
        return 1 / (1 + np.exp(-2 * margin)), (rng.random(n) < 1 / (1 + np.exp(-margin))).astype(int)

    scores, y = draw(20_000, 0.2, 0)
    now, truth = draw(20_000, 0.7, 1)
    found = estimate_accuracy(scores, y, now)
    real = ((now > 0.5) == truth).mean()
    assert ((scores > 0.5) == y).mean() - real > 0.1
    assert found.accuracy.value == pytest.approx(real, abs=0.015)
    assert found.accuracy.low <= real <= found.accuracy.high
    assert found.confusion.sum() == pytest.approx(1)
    assert found.f1 == pytest.approx(sk.f1_score(truth, now > 0.5), abs=0.02)
    assert found.auc == pytest.approx(sk.roc_auc_score(truth, now), abs=0.02)


def test_accuracy_of_several_classes_is_estimated_too() -> None:
    y, answers = classified(8_000, 4, 2)
    now_y, now = classified(8_000, 4, 3)
    found = QualityEstimator.fit(answers.scores, y).estimate(now.scores)
    assert found.accuracy.value == pytest.approx((now.labels == now_y).mean(), abs=0.02)
    assert found.auc is None
    assert np.diag(found.confusion).sum() == pytest.approx(found.accuracy.value)


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "auc"])
def test_rows_of_one_class_tell_nothing_about_telling_classes_apart(metric: str) -> None:
    """Whoever always answered the only class there is would be perfect."""
    truth = np.ones(400, int)
    found = interval(metric, truth, Answers(truth, np.tile([0.1, 0.9], (400, 1))), classes=[0, 1])
    assert math.isnan(found.value)


def test_an_auc_near_one_of_few_rows_has_an_interval_that_says_something() -> None:
    rng = np.random.default_rng(3)
    truth = np.repeat([0, 1], [30, 17])
    scores = np.where(truth == 1, 0.9, 0.1) + rng.uniform(0, 0.05, len(truth))
    scores[0] = 0.93
    found = interval("auc", truth, Answers(truth, np.column_stack([1 - scores, scores])), classes=[0, 1])
    assert 0.97 < found.value < 1
    assert 0.7 < found.low < 0.9
    assert found.high > 0.99
