"""Paired comparisons: what they say, and how often they are wrong."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import binom
from sklearn.metrics import roc_auc_score

from mlplatform.errors import UnknownName, UsageError
from mlplatform.stats.auc import binary_auc
from mlplatform.stats.compare import Comparison, delong, mcnemar, no_worse, paired, paired_bootstrap
from mlplatform.stats.labels import Answers
from mlplatform.stats.mcnemar import mcnemar_p, tango_z
from mlplatform.stats.metrics import METRICS
from mlplatform.stats.skewed import reach


def pass_rate(n: int, discordant: float, margin: float) -> float:
    """Exact chance to pass when the true loss is the margin, over all outcomes of n rows."""
    gained, lost = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0), indexing="ij")
    inside = gained + lost <= n
    b, c = gained[inside], lost[inside]
    up, down = (discordant - margin) / 2, (discordant + margin) / 2
    log = gammaln(n + 1) - gammaln(b + 1) - gammaln(c + 1) - gammaln(n - b - c + 1)
    log += b * math.log(up) + c * math.log(down) + (n - b - c) * math.log1p(-discordant)
    return float(np.exp(log)[tango_z(b, c, n, -margin) > 1.6448536].sum())


@pytest.mark.parametrize("n", [30, 100, 300])
@pytest.mark.parametrize("margin", [0.01, 0.05])
@pytest.mark.parametrize("discordant", [0.06, 0.1, 0.3])
def test_a_loss_equal_to_the_margin_passes_at_most_six_percent(n, margin, discordant) -> None:
    assert pass_rate(n, discordant, margin) <= 0.06


def test_equal_models_are_called_better_at_most_five_percent() -> None:
    rng = np.random.default_rng(0)
    better = 0
    for _ in range(400):
        old, new = rng.random((2, 30)) < 0.8
        better += mcnemar(old, new).low > 0
    assert better / 400 <= 0.07


def test_identical_answers_on_few_rows_prove_little() -> None:
    right = np.ones(30, bool)
    assert no_worse(mcnemar(right, right, margin=0.01)) == "inconclusive"
    assert no_worse(mcnemar(right, right, margin=0.1)) == "pass"
    assert no_worse(mcnemar(np.ones(1_000, bool), np.ones(1_000, bool), margin=0.01)) == "pass"


def test_a_much_worse_candidate_fails() -> None:
    old, new = np.ones(200, bool), np.arange(200) % 2 == 0
    comparison = mcnemar(old, new, margin=0.05)
    assert no_worse(comparison) == "fail"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.floats(0.001, 0.3))
def test_swapping_the_models_mirrors_the_comparison(pairs, margin) -> None:
    old, new = (np.array(side) for side in zip(*pairs, strict=True))
    there, back = mcnemar(old, new, margin=margin), mcnemar(new, old, margin=margin)
    assert there.estimate == -back.estimate
    assert there.low == pytest.approx(-back.high)
    assert there.low <= there.estimate <= there.high


def test_at_margin_zero_the_bound_excludes_it_just_when_mcnemars_test_does() -> None:
    assert (mcnemar_p(5, 0), mcnemar_p(4, 0)) == (pytest.approx(1 / 32), pytest.approx(1 / 16))
    old, new = np.zeros(40, bool), np.zeros(40, bool)
    new[:5] = True
    assert mcnemar(old, new).low > 0
    new[4] = False
    assert mcnemar(old, new).low <= 0


def test_mcnemar_is_exact_for_few_discordant_rows_and_mid_p_for_many() -> None:
    # scipy.stats.binomtest(15, 20, alternative="greater") and the mid-p of 20 of 30
    assert mcnemar_p(15, 5) == pytest.approx(0.0206947, abs=1e-6)
    assert mcnemar_p(20, 10) == pytest.approx(0.0493686 - 0.0279816 / 2, abs=1e-6)


@pytest.mark.parametrize("n", [30, 100, 300])
@pytest.mark.parametrize("discordant", [0.05, 0.3, 0.9])
def test_equal_models_are_called_better_by_mcnemar_at_most_six_percent(n, discordant) -> None:
    """Exactly, over every number of discordant rows and of gains."""
    rate = 0.0
    for rows in range(n + 1):
        passing = [g for g in range(rows + 1) if mcnemar_p(g, rows - g) <= 0.05]
        rate += binom.pmf(rows, n, discordant) * binom.pmf(passing, rows, 0.5).sum()
    assert rate <= 0.06


def test_rows_needed_are_enough_for_equal_models() -> None:
    rng = np.random.default_rng(1)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        both = rng.random(n) < 0.8
        return np.where(rng.random(n) < 0.1, ~both, both), np.where(rng.random(n) < 0.1, ~both, both)

    needed = mcnemar(*draw(5_000), margin=0.03).n_needed
    assert needed is not None
    passes = sum(no_worse(mcnemar(*draw(needed), margin=0.03)) == "pass" for _ in range(300))
    assert 0.7 <= passes / 300 <= 0.9


# ---- AUC


def scored(n: int, rng: np.random.Generator, positives: float, worse: float = 0.0):
    y = (rng.random(n) < positives).astype(int)
    shared = 1.5 * y + rng.standard_normal(n)
    return y, shared + 0.5 * rng.standard_normal(n), shared + (0.5 + worse) * rng.standard_normal(n)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 4)), min_size=8, max_size=60))
def test_delong_estimates_the_difference_of_the_areas_ties_included(rows) -> None:
    y, old, new = (np.array(side) for side in zip(*rows, strict=True))
    comparison = delong(y, old, new)
    if 2 <= y.sum() <= len(y) - 2:
        assert comparison.estimate == pytest.approx(roc_auc_score(y, new) - roc_auc_score(y, old))
    else:
        assert no_worse(comparison, 0.5) == "inconclusive"


def test_delong_variance_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(2)
    found, variances = [], []
    for _ in range(400):
        y, old, new = scored(200, rng, 0.3, 0.8)
        areas = [binary_auc(y == 1, scores) for scores in (old, new)]
        found.append(areas[1].value - areas[0].value)
        variances.append(((areas[1].influence - areas[0].influence) ** 2).sum())
    assert math.sqrt(np.mean(variances)) == pytest.approx(np.std(found), rel=0.12)


@pytest.mark.parametrize(("n", "positives"), [(30, 0.5), (30, 0.1), (300, 0.1)])
def test_equal_areas_are_called_better_at_most_six_percent(n, positives) -> None:
    rng = np.random.default_rng(3)
    better = sum(delong(*scored(n, rng, positives)).low > 0 for _ in range(400))
    assert better / 400 <= 0.08  # two standard errors above six percent


def test_perfect_areas_on_few_rows_prove_little() -> None:
    y = np.array([0, 1] * 10)
    assert no_worse(delong(y, y, y, margin=0.01)) == "inconclusive"


# ---- any metric


def regression(n: int, rng: np.random.Generator, worse: float):
    x = rng.standard_normal(n)
    y = x + rng.standard_normal(n)
    return y, Answers(x + 0.5 * rng.standard_normal(n)), Answers(x + (0.5 + worse) * rng.standard_normal(n))


@pytest.mark.parametrize("metric", ["mae", "rmse"])
def test_losses_are_oriented_so_that_higher_is_better(metric) -> None:
    comparison = paired(metric, *regression(2_000, np.random.default_rng(4), 2.0), margin=0.1)
    assert comparison.estimate < 0
    assert no_worse(comparison) == "fail"


def test_bootstrapped_bounds_pass_a_loss_at_the_margin_at_most_six_percent() -> None:
    rng = np.random.default_rng(5)
    y, old, new = regression(500_000, rng, 1.0)
    margin = float(np.abs(y - new.labels).mean() - np.abs(y - old.labels).mean())
    passes = sum(
        no_worse(paired("mae", *regression(60, rng, 1.0), margin=margin, seed=i)) == "pass"
        for i in range(400)
    )
    assert passes / 400 <= 0.08


def test_f1_on_the_positive_class_needs_positives() -> None:
    y = np.array([1, 1] + [0] * 98)
    answers = Answers(np.zeros(100, int))
    assert paired("f1", y, answers, answers, classes=[0, 1], margin=0.05).low == -math.inf


def test_identical_labels_prove_little_for_f1_too() -> None:
    y = np.array([0, 1] * 15)
    comparison = paired("f1", y, Answers(y), Answers(y), margin=0.01)
    assert no_worse(comparison) == "inconclusive"
    assert comparison.estimate == 0


@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy", "log_loss", "brier", "auc", "accuracy"])
def test_every_classification_metric_compares_and_repeats_exactly(metric) -> None:
    rng = np.random.default_rng(6)
    y = rng.choice(["x", "y", "z"], 500)
    scores = rng.dirichlet(np.ones(3), 500) + np.eye(3)[np.searchsorted(["x", "y", "z"], y)]
    scores /= scores.sum(axis=1, keepdims=True)
    worse = rng.dirichlet(np.ones(3), 500)
    names = np.array(["x", "y", "z"])
    old, new = Answers(names[scores.argmax(1)], scores), Answers(names[worse.argmax(1)], worse)
    first, again = (paired(metric, y, old, new, margin=0.02, seed=9) for _ in range(2))
    assert first == again
    assert no_worse(first) == "fail"
    assert no_worse(paired(metric, y, new, old, margin=0.02)) == "pass"


def test_a_bootstrap_of_any_function_agrees_with_the_named_metric() -> None:
    y, old, new = regression(300, np.random.default_rng(7), 0.3)
    named = paired("mae", y, old, new, margin=0.1)
    free = paired_bootstrap(
        lambda truth, values, scores: float(np.abs(truth - values).mean()),
        y, old, new, higher_is_better=False, margin=0.1,
    )  # fmt: skip
    assert free.estimate == pytest.approx(named.estimate)
    assert free.low == pytest.approx(named.low, abs=0.01)
    assert free.high == pytest.approx(named.high, abs=0.01)


BINARY = ["accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "brier"]


def same_answers(metric: str, n: int):
    rng = np.random.default_rng(10)
    y = np.arange(n) % 2
    p = np.clip(0.5 + (y - 0.5) * 0.6 + rng.standard_normal(n) * 0.2, 0.02, 0.98)
    if metric in BINARY:
        return y, Answers((p > 0.5).astype(int), np.column_stack([1 - p, p]))
    return y + rng.standard_normal(n), Answers(p)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [30, 300, 3_000])
def test_identical_answers_are_never_better_and_as_good_once_there_are_rows(metric, n) -> None:
    y, answers = same_answers(metric, n)
    comparison = paired(metric, y, answers, answers, margin=0.05)
    assert comparison.estimate == 0 and no_worse(comparison, margin=0.0) != "pass"
    assert no_worse(paired(metric, y, answers, answers)) == "inconclusive"
    if n >= 300:
        assert no_worse(comparison) == "pass"


@pytest.mark.parametrize("metric", ["balanced_accuracy", "f1", "auc", "log_loss", "brier"])
def test_few_positives_are_no_verdict_and_it_says_how_many_rows_would_hold_enough(metric) -> None:
    y = (np.arange(200) < 4).astype(int)
    p = np.where(y == 1, 0.9, 0.1)
    worse = Answers((p < 0.5).astype(int), np.column_stack([p, 1 - p]))
    answers = Answers((p > 0.5).astype(int), np.column_stack([1 - p, p]))
    comparison = paired(metric, y, answers, worse, margin=0.05)
    assert no_worse(comparison) == "inconclusive"
    assert comparison.estimate < -0.5
    assert "the rarer class has 4 rows, and 5 are wanted" in comparison.doubt
    assert comparison.n_needed is not None and comparison.n_needed >= 400


def test_one_row_that_outweighs_all_others_is_no_verdict() -> None:
    rng = np.random.default_rng(11)
    y = rng.standard_normal(500)
    old, new = (Answers(y + rng.standard_normal(500)) for _ in range(2))
    assert no_worse(paired("mae", y, old, new, margin=0.5)) == "pass"
    new.labels[7] += 400.0
    comparison = paired("mae", y, old, new, margin=0.5)
    assert no_worse(comparison) == "inconclusive"
    assert comparison.doubt.startswith("few rows carry the difference: as if 1.0 of 500, and 20.0 are wanted")
    free = paired_bootstrap(
        lambda truth, values, scores: float(np.abs(truth - values).mean()),
        y, old, new, higher_is_better=False, margin=0.5, resamples=50,
    )  # fmt: skip
    assert no_worse(free) == "inconclusive"


def test_a_few_differences_far_below_the_margin_are_judged() -> None:
    rng = np.random.default_rng(12)
    y = rng.standard_normal(500)
    old = Answers(y + rng.standard_normal(500))
    new = Answers(old.labels.copy())
    new.labels[:3] += 0.04
    assert no_worse(paired("mae", y, old, new, margin=0.5)) == "pass"


def test_bounds_equal_students_t_when_nothing_is_skewed() -> None:
    assert reach(0.0, 9.0, 0.95) == pytest.approx(1.8331129)  # scipy.stats.t.ppf(0.95, 9)
    assert reach(-1e-5, 9.0, 0.95) == pytest.approx(reach(0.0, 9.0, 0.95), abs=1e-4)
    # Hall's transformation of the bound is t again
    for skewness in (-0.8, -0.3, 0.2):
        at = reach(skewness, 40.0, 0.95)
        back = at + skewness * (at**2 / 3 + 1 / 6) + skewness**2 * at**3 / 27
        assert back == pytest.approx(reach(0.0, 40.0, 0.95))


def test_hundreds_of_classes_are_compared_within_memory() -> None:
    rng = np.random.default_rng(8)
    y = rng.integers(0, 900, 6_000)
    old, new = (Answers(np.where(rng.random(6_000) < 0.3, rng.integers(0, 900, 6_000), y)) for _ in range(2))
    comparison = paired("balanced_accuracy", y, old, new, margin=0.05)
    assert no_worse(comparison) == "pass"


def test_no_rows_are_inconclusive() -> None:
    nothing = Answers(np.zeros(0))
    assert no_worse(paired("mae", np.zeros(0), nothing, nothing, margin=1.0)) == "inconclusive"


def test_an_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        paired("acuracy", np.zeros(1), Answers(np.zeros(1)), Answers(np.zeros(1)))
    assert "accuracy" in caught.value.next_step


def test_answers_to_other_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="3 true values"):
        paired("accuracy", np.zeros(3), Answers(np.zeros(3)), Answers(np.zeros(2)))


def test_the_three_verdicts() -> None:
    def of(low: float, high: float) -> Comparison:
        return Comparison((low + high) / 2, low, high, 0.95, 100, "tango", margin=0.02)

    assert no_worse(of(-0.01, 0.03)) == "pass"
    assert no_worse(of(-0.06, -0.03)) == "fail"
    assert no_worse(of(-0.03, 0.01)) == "inconclusive"
    assert no_worse(of(-0.03, 0.01), margin=0.05) == "pass"
